"""Lines become commands with arguments, or errors that help."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import PyvmmError, UsageError
from pyvmm.monitor.result import Live, Result, Sections
from pyvmm.monitor.session import CommandFailed, Interrupted
from tests.fakes.monitored import PATIENCE, FakeMachine, Stopwatch, TestSession


def shown(session: TestSession, line: str) -> str:
    result = session.execute(line)
    assert result is not None
    return str(result)


@pytest.mark.parametrize(
    ("line", "which", "cpu", "numbers"),
    [
        ("pick", "one", 0, ()),
        ("pick two", "two", 0, ()),
        ("  pick   two   1  ", "two", 1, ()),
        ("pick 1", "one", 1, ()),
        ("pick 1 0x10 3", "one", 1, (16, 3)),
        ("pick two 0 5", "two", 0, (5,)),
    ],
)
def test_arguments_are_read_by_their_kinds_and_optional_ones_passed_over(
    session: TestSession, line: str, which: str, cpu: int, numbers: tuple[int, ...]
) -> None:
    result = session.execute(line)
    assert result is not None
    assert result.data == {"which": which, "cpu": cpu, "numbers": repr(numbers)}


def test_the_rest_of_a_line_is_one_argument(session: TestSession) -> None:
    result = session.execute("save f  two  words ")
    assert result is not None
    assert result.data == {"path": "f", "comment": "two  words"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("save", ["save must be given FILE", "usage: save FILE [TEXT]"]),
        ("pick 2", ["CPU must be 0 to 1, not 2", "usage: pick [one|two] [CPU] [N...]"]),
        ("pick 0 x", ["must be a number, not 'x'", "usage: pick"]),
        ("stop now", ["stop must not be given 'now'", "usage: stop"]),
        ("stpo", ["There is no command 'stpo'; did you mean 'stop'?"]),
        ("info stat", ["did you mean 'info status'?"]),
        ("info", ["There is no command 'info'", "info status"]),
        ("frobnicate", ["`help` lists those there are"]),
        ("", ["There is no command"]),
        ("watch stop", ["must show something; stop does not"]),
        ("watch info status every day", ["N must be 0.1 to 3600 seconds, not 'day'"]),
        ("watch info status every 0", ["N must be"]),
        ("watch info status every nan", ["N must be"]),
        ("watch stpo", ["did you mean 'stop'?"]),
        ("help stop now", ["There is no command 'stop now'"]),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(
    session: TestSession, line: str, words: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        session.execute(line)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_commands_reach_the_machine(session: TestSession, machine: FakeMachine) -> None:
    for line in ("stop", "cont", "reset", "powerdown", "quit"):
        assert session.execute(line) is None
    assert machine.asked == ["pause", "resume", "reset", "power_button", "quit"]


def test_a_mistake_in_a_command_is_one_sentence_with_its_cause(session: TestSession) -> None:
    with pytest.raises(CommandFailed, match=r"fail failed .* ZeroDivisionError\('a mis") as error:
        session.execute("fail")
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_a_command_is_interrupted_from_another_thread(
    session: TestSession, watch: Stopwatch
) -> None:
    def interrupt() -> None:
        watch.begun.wait(PATIENCE)
        session.interrupt()

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(Interrupted):
        session.execute("wait")
    helper.join()
    assert shown(session, "info status")  # the interruption is over


def test_watch_repeats_what_a_command_shows(session: TestSession, machine: FakeMachine) -> None:
    result = session.execute("watch info status every 2 seconds")
    assert isinstance(result, Live)
    assert result.interval == 2
    assert "running" in str(result.make())
    machine.state = "paused"
    assert "paused" in str(result.make())


def test_help_lists_every_command_once_and_explains_each(session: TestSession) -> None:
    listing = session.execute("help")
    assert isinstance(listing, Sections)
    names = [name for group in listing.data.values() for name in group]
    from pyvmm.monitor.commands import TABLE

    assert sorted(names) == sorted(TABLE)
    for command in TABLE.values():
        explained = shown(session, f"help {command.name}")
        assert command.usage in explained
        assert command.help in explained
        assert command.help.endswith(".")


def test_help_shows_examples_and_groups(session: TestSession) -> None:
    assert shown(session, "help pick").splitlines() == [
        "pick [one|two] [CPU] [N...]",
        "Pick.",
        "",
        "Or do not.",
        "",
        "Examples",
        "pick one 0 7",
    ]
    assert shown(session, "help info").startswith("info status:")


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        ("wa", 0, ["watch", "watchpoint", "wait"]),
        ("info st", 0, ["info status"]),
        ("pick ", 5, ["one", "two", "0", "1"]),
        ("pick t", 5, ["two"]),
        ("pick two ", 9, ["0", "1"]),
        ("pick two 1 ", 11, []),
        ("watch info s", 6, ["info status"]),
        ("watch pick two ", 6, ["pick two 0", "pick two 1"]),
        ("help powe", 5, ["powerdown"]),
        ("nonsense ", 0, []),
        ("stop ", 5, []),
    ],
)
def test_completion(session: TestSession, text: str, start: int, words: list[str]) -> None:
    assert session.complete(text) == (start, words)


def test_files_are_completed(session: TestSession, tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    (tmp_path / "folder").mkdir()
    at, words = session.complete(f"save {tmp_path}/f")
    assert at == 5
    assert words == [f"{tmp_path}/first", f"{tmp_path}/folder/"]


WORDS = st.sampled_from(
    ["help", "watch", "info", "status", "pick", "save", "every", "/", "0", "-1", "\x00", "stop"]
)
LINES = st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=8).map(" ".join))


@given(line=LINES)
def test_no_line_does_more_than_show_something_or_fail_with_a_sentence(line: str) -> None:
    session = TestSession(Still())
    with suppress(PyvmmError):
        result = session.execute(line)
        assert result is None or isinstance(result, Result)
    at, words = session.complete(line)
    assert 0 <= at <= len(line)
    assert all(isinstance(word, str) for word in words)


class Still(FakeMachine):
    """One without a loop."""

    def __init__(self) -> None:
        self.asked = []
        self.state, self.stopped_by, self.end = "running", None, None
        from pyvmm.config import MachineConfig

        self.config = MachineConfig()
