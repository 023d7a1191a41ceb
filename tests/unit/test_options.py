"""The command line: which words mean what, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest

from pyvmm.errors import UsageError
from pyvmm.options import Arguments, Parser


def run(_: Arguments) -> int:
    """What the command does."""
    return 7


def parse(*words: str) -> Arguments:
    parser = Parser("program", "Does things.")
    command = parser.command("do", "do a thing", run)
    command.add("thing", metavar="THING", help="what to do")
    command.add("--size", metavar="SIZE", help="how much [1]")
    command.add("--count", type=int, metavar="N")
    command.add("--part", action="append", metavar="PART")
    command.add("--with-care", action="store_true")
    command.add("--noise", action="optional", metavar="RATE")
    command.add("--mode", choices=("fast", "slow"), help="how")
    command.add("-v", "--verbose", action="count")
    need = parser.command("need", "need a thing", run)
    need.add("thing", metavar="THING", required=True)
    return parser.parse_args(words)


def given(*words: str) -> dict[str, object]:
    values = vars(parse("do", *words))
    assert values.pop("command") is run
    return {key: value for key, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("", {}),
        ("it", {"thing": "it"}),
        ("--size 3 it", {"size": "3", "thing": "it"}),
        ("it --size=3", {"size": "3", "thing": "it"}),
        ("--size=a=b", {"size": "a=b"}),
        ("--size=", {"size": ""}),
        ("--size -3", {"size": "-3"}),
        ("--size 1 --size 2", {"size": "2"}),
        ("--count -3", {"count": -3}),
        ("--part a --part=b", {"part": ["a", "b"]}),
        ("--with-care", {"with_care": True}),
        ("--noise it", {"noise": True, "thing": "it"}),
        ("--noise=3 it", {"noise": "3", "thing": "it"}),
        ("--mode slow", {"mode": "slow"}),
        ("-vv --verbose", {"verbose": 3}),
        ("-- --size", {"thing": "--size"}),
        ("-", {"thing": "-"}),
    ],
)
def test_words_become_values(words: str, values: dict[str, object]) -> None:
    assert given(*words.split()) == values


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "The command must be do or need"),
        ("go", "The command must be do or need, not 'go'"),
        ("--size 3", "must be do or need, not '--size'"),
        ("do a b", "program do must not be given 'b'"),
        ("need", "program need must be given THING"),
        ("do --siz 3", "program do must not be given --siz, which is no option"),
        ("do -vx", "program do must not be given -x"),
        ("do --size", "--size must be given a value, SIZE"),
        ("do --with-care=3", "--with-care must not be given a value"),
        ("do --count three", "--count must be a number, not 'three'"),
        ("do --mode odd", "--mode must be fast or slow, not 'odd'"),
        ("do --mode", "--mode must be given a value, fast|slow"),
    ],
)
def test_what_means_nothing_is_refused_with_the_reason(words: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*words.split())
    assert complaint in str(caught.value)


@pytest.mark.parametrize("words", ["do --help", "do it --size 3 -h", "need -h"])
def test_help_lists_every_option_and_ends_with_success(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*words.split())
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: program ")
    assert "  THING" in {line[:7] for line in lines}
    if words.startswith("do"):
        assert "  --size SIZE           how much [1]" in lines
        assert "  -v, --verbose" in lines


def test_the_programs_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    assert "  need                  need a thing" in capsys.readouterr().out.splitlines()


def test_an_attribute_that_is_no_option_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no option 'speed'"):
        _ = parse("do").speed
