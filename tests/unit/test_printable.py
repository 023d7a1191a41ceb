from __future__ import annotations

import pytest

from pyvmm.printable import printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"plain caf\xc3\xa9", "plain café"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b[2J\x1b[Hcleared", "cleared"),
        (b"bad \xff byte", "bad � byte"),
        ("bell \x07 and \x1b]0;title", "bell � and �]0;title"),
        ("right to left \u202e", "right to left �"),
        ("c1 \x9b31m", "c1 �31m"),
        ("a\tb", "a       b"),
    ],
)
def test_nothing_reaches_the_terminal_that_it_would_obey(text, shown):
    assert printable(text) == shown
    assert printable(text).isprintable()


def test_lines_end_at_any_line_end_and_blank_ones_are_left_out():
    assert printable_lines(b"one\r\n\r\ntwo\n  \nthree\rfour") == ["one", "two", "three", "four"]
