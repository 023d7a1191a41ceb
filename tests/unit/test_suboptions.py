"""Options within an option."""

from __future__ import annotations

import pytest

from pyvmm.errors import UsageError
from pyvmm.suboptions import parse, split, syntax

FORMS = {"ro": "", "cache": "on|off", "size": "N", "name": "TEXT", "port": "PORT"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", [""]),
        ("a,b", ["a", "b"]),
        ("a,,b,c", ["a,b", "c"]),
        ("a,,,b", ["a,", "b"]),
        (",", ["", ""]),
    ],
)
def test_a_comma_is_written_twice(text: str, parts: list[str]) -> None:
    assert split(text) == parts


def test_values_are_of_their_forms() -> None:
    words = ["ro", "cache=off", "size=12", "name=a=b", "port=1", "port=2"]
    assert parse("It", words, FORMS, ("port",)) == {
        "ro": True,
        "cache": False,
        "size": 12,
        "name": "a=b",
        "port": ("1", "2"),
    }
    assert parse("It", ["size=1x"], FORMS) == {"size": "1x"}  # for its owner to refuse
    assert parse("It", [], FORMS) == {}


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["rw"], "It has no option 'rw'; there are ro, cache, size, name, port"),
        (["ro", "ro"], "It has the option ro twice"),
        (["port=1", "port=2"], "It has the option port twice"),
        (["ro=on"], "ro must be given without a value, not with 'on'"),
        (["name"], "name must be given as name=TEXT"),
        (["name="], "name must be given as name=TEXT"),
        (["cache=yes"], "cache must be on or off, not 'yes'"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        parse("It", words, FORMS)


def test_the_syntax_names_them_all() -> None:
    assert syntax(FORMS) == "[,ro][,cache=on|off][,size=N][,name=TEXT][,port=PORT]"
