from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import UsageError
from pyvmm.inspection.expressions import evaluate

REGISTERS = {"rsp": 0x7000, "rax": 8}
SYMBOLS = {"linux_banner": 0xFFFF_FFFF_8200_0000, "a.part.0": 5}


def value(text):
    return evaluate(text, REGISTERS.__getitem__, SYMBOLS.__getitem__)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", 12),
        ("0x1f", 0x1F),
        ("$rsp+8", 0x7008),
        ("linux_banner+0x10", 0xFFFF_FFFF_8200_0010),
        ("a.part.0 - 1", 4),
        ("10-(4-1)-2", 5),
        ("-1", 0xFFFF_FFFF_FFFF_FFFF),
        ("-(-$rax)", 8),
        ("0xffffffffffffffff+2", 1),
    ],
)
def test_expressions_have_the_value_they_say(text, expected):
    assert value(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1+", "(1", "1)", "1 2", "12ab", "$", "0x", "1*2", "()", "'a'", "($rsp"]
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(UsageError, match="An address must"):
        value(text)


def test_the_error_shows_what_is_wrong():
    with pytest.raises(UsageError, match=r"'\*2'"):
        value("1*2")


def test_deep_nesting_is_refused():
    with pytest.raises(UsageError, match="at most 32"):
        value("(" * 100_000)


@given(st.text(alphabet="0x1f$rsp+-() _a.", max_size=40))
def test_any_text_gives_a_value_or_a_clear_error(text):
    with suppress(UsageError):
        assert 0 <= evaluate(text, lambda name: 1, lambda name: 2) < 1 << 64
