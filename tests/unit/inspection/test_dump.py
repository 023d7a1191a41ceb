"""Formats: what QEMU's manual says of x and xp."""

from __future__ import annotations

import pytest

from pyvmm.errors import UsageError
from pyvmm.inspection.dump import Format, item_text, lines_of, parse_format, values


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("/", Format(1, "x", 4)),
        ("/4", Format(4, "x", 4)),
        ("/10i", Format(10, "i", 4)),
        ("/80hx", Format(80, "x", 2)),
        ("/80xh", Format(80, "x", 2)),
        ("/2gd", Format(2, "d", 8)),
        ("/c", Format(1, "c", 1)),
        ("/3s", Format(3, "s", 1)),
        ("/b", Format(1, "x", 1)),
    ],
)
def test_a_format_is_a_count_a_letter_and_a_size(text, format):
    assert parse_format(text) == format


@pytest.mark.parametrize("text", ["/xx", "/xd", "/bh", "/q", "/x4", "x", "/-1x", "/4 x"])
def test_what_is_no_format_is_refused(text):
    with pytest.raises(UsageError, match="A format must be"):
        parse_format(text)


@pytest.mark.parametrize("count", ["0", "65537", "9" * 5000])
def test_the_count_is_bounded(count):
    with pytest.raises(UsageError, match="must be 1 to 65536"):
        parse_format(f"/{count}x")


@pytest.mark.parametrize(
    ("letter", "size", "value", "text"),
    [
        ("x", 1, 0xB, "0x0b"),
        ("x", 2, 0xB50, "0x0b50"),
        ("x", 8, 1, "0x0000000000000001"),
        ("u", 4, 7, "         7"),
        ("d", 2, -1, "   -1"),
        ("o", 1, 8, "010"),
        ("o", 2, 0, "     0"),
        ("c", 1, 65, "'A'"),
        ("c", 1, 10, "'\\n'"),
        ("c", 1, 39, "'\\''"),
        ("c", 1, 0xE9, "'\\xe9'"),
    ],
)
def test_an_item_is_as_wide_as_the_widest(letter, size, value, text):
    assert item_text(value, Format(1, letter, size)) == text


def test_items_are_little_endian_and_signed_only_as_d():
    data = b"\xff\xff\x01\x00\x05"
    assert values(data, Format(2, "x", 2)) == [0xFFFF, 1]
    assert values(data, Format(2, "d", 2)) == [-1, 1]


def test_a_line_has_16_bytes_or_8_single_ones():
    assert [len(line) for line in lines_of([0] * 9, Format(9, "x", 2))] == [8, 1]
    assert [len(line) for line in lines_of([0] * 9, Format(9, "x", 1))] == [8, 1]
    assert [len(line) for line in lines_of([0] * 3, Format(3, "x", 8))] == [2, 1]
