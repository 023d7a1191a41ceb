from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.qmp.errors import QmpError
from pyvmm.qmp.stream import DEPTH_MAX, VALUE_MAX, Stream

RUBBISH = st.one_of(
    st.binary(max_size=80),
    st.text(alphabet='{}[]",:\\\n 1atruefls', max_size=80).map(str.encode),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip


def read(*pieces: bytes) -> list[Any]:
    """What comes of the bytes; of errors, their texts."""
    stream = Stream()
    found = [value for piece in pieces for value in stream.feed(piece)]
    return [str(value) if isinstance(value, QmpError) else value for value in found]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(), VALUES), max_size=4), st.booleans(), st.data())
def test_values_come_out_however_they_are_laid_out_and_cut(
    values: list[Any], ascii: bool, data: st.DataObject
) -> None:
    gap = data.draw(st.sampled_from(["", " ", "\n", "\r\n\t"]))
    indent = data.draw(st.sampled_from([None, 2]))
    text = gap.join(json.dumps(value, indent=indent, ensure_ascii=ascii) for value in values)
    if any("\ud800" <= c <= "\udfff" for c in text):  # UTF-8 has none
        return
    whole = text.encode()
    cut = data.draw(st.integers(0, len(whole)))
    assert read(whole[:cut], whole[cut:]) == values


@given(RUBBISH)
def test_rubbish_is_the_same_rubbish_byte_by_byte(rubbish: bytes) -> None:
    assert read(rubbish) == read(*(bytes([byte]) for byte in rubbish))


@given(RUBBISH)
def test_after_what_cannot_be_a_value_the_next_line_counts_again(rubbish: bytes) -> None:
    closed = rubbish + b'\n"\n' + b"]" * len(rubbish)
    assert read(closed + b'\n{"a": 1}\n')[-1] == {"a": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"{]", "JSON parse error"),
        (b"}", "JSON parse error"),
        (b"foo", "JSON parse error"),
        (b'{"a', "Invalid control character"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1e400}', "1e400"),
        (b'{"a": 1, "a": 2}', "two members"),
        (b'{"a": "\x00"}', "JSON parse error"),
        (b'{"\xff": 1}', "utf-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON parse error"),
        (b"[" * 100_000, f"at most {DEPTH_MAX} deep"),
        (b'{"a":' * 100_000, f"at most {DEPTH_MAX} deep"),
        (b"[" + b" " * VALUE_MAX, f"at most {VALUE_MAX} bytes"),
        (b'{"a": "' + b"x" * VALUE_MAX, f"at most {VALUE_MAX} bytes"),
        (b"x" * VALUE_MAX * 2, f"at most {VALUE_MAX} bytes"),
    ],
)
def test_one_error_is_told_for_a_line_that_is_no_json(text: bytes, why: str) -> None:
    error, value = read(text, b'\n{"b": 2}\n')
    assert why in error
    assert value == {"b": 2}


def test_an_escape_may_be_cut_in_two() -> None:
    assert read(b'{"a": "\\', b'"}"}', b'{"b": "\\\\', b'"}') == [{"a": '"}'}, {"b": "\\"}]


def test_the_deepest_value_is_read() -> None:
    deep: list[Any] = []
    for _ in range(DEPTH_MAX - 1):
        deep = [deep]
    assert read(json.dumps(deep).encode()) == [deep]


def test_a_line_of_100_megabytes_takes_no_memory() -> None:
    stream = Stream()
    piece = b"[" + b"x" * 0xFFFF
    errors = sum(1 for _ in range(1600) for _ in stream.feed(piece))
    assert errors == 1
    assert len(stream._buffer) <= VALUE_MAX
