from __future__ import annotations

import pytest

from pyvmm.errors import UsageError
from pyvmm.monitor.memory_kinds import AddressKind, ByteKind, FormatKind, RegisterKind, SearchKind


@pytest.mark.parametrize(
    ("text", "found", "length"),
    [
        ('"a b"', b"xxa bxx", 3),
        ("0f0b", b"\x0f\x0f\x0b", 2),
        ("0f??05", b"\x0f\n\x05", 3),
        ('"(.*"', b"..(.*", 3),
        ("5c2e", b"\\.", 2),
        ('"é"', "é".encode(), 2),
    ],
)
def test_what_to_find_is_a_text_or_bytes(text, found, length):
    search = SearchKind().parse(None, text)
    assert search.pattern.search(found)
    assert (search.length, search.place) == (length, None)


def test_what_to_find_has_a_place():
    assert SearchKind().parse(None, '"a b" 0x1000 2+2').place == (0x1000, 4)


@pytest.mark.parametrize(
    "text", ['"unfinished', "0f0", "0f 0b 0c 0d", "zz", "?", '""', '"a" 1 2 3']
)
def test_what_cannot_be_found_is_refused(text):
    with pytest.raises(UsageError):
        SearchKind().parse(None, text)


def test_a_byte_is_a_number_up_to_255():
    assert ByteKind().parse(None, "0xff") == 255
    for text in ("256", "-1", "ff", ""):
        with pytest.raises(UsageError, match="BYTE must be"):
            ByteKind().parse(None, text)


def test_a_register_may_have_a_dollar():
    assert RegisterKind().parse(None, "$RAX") == RegisterKind().parse(None, "rax") == "rax"
    assert list(RegisterKind().complete(None, "dr")) == [f"$dr{n}" for n in (0, 1, 2, 3, 6, 7)]


def test_a_format_begins_with_a_slash_and_is_completed_letter_by_letter():
    kind = FormatKind()
    assert kind.matches("/x")
    assert not kind.matches("$rsp")
    assert list(kind.complete(None, "/4x")) == ["/4xb", "/4xh", "/4xw", "/4xg"]
    assert "/4i" in kind.complete(None, "/4")
    assert list(kind.complete(None, "$rsp")) == list(kind.complete(None, "")) == []


def test_the_register_at_an_expressions_end_is_completed():
    assert AddressKind().complete(None, "0x10+$rbx") == ["0x10+$rbx"]
    assert AddressKind().complete(None, "4+") == []
