"""The console as its user sees it, on a screen."""

from __future__ import annotations

import contextlib
import random
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.terminal import FOCUS_IN, FOCUS_OUT
from pyvmm.monitor.console import Console
from pyvmm.monitor.keys import INPUT_MAX
from pyvmm.monitor.plain import Terminal
from tests.fakes.monitored import PATIENCE, FakeMachine, Stopwatch, TestSession
from tests.fakes.screen import COLUMNS, ROWS, Screen

PROMPT = "(pyvmm)"
TOOLBAR = " running · 2 vCPUs · 0 exits/s · up 0:00:00"
CTRL_C, CTRL_D, CTRL_U = "\x03", "\x04", "\x15"


class Shown(Screen):
    """A console, on a thread of its own."""

    def __init__(self, session: TestSession, typed: bytes = b"") -> None:
        ours, self._theirs = socket.socketpair()
        super().__init__(ours)
        self.error: BaseException | None = None
        terminal = Terminal(ROWS, COLUMNS, "xterm-256color", typed)
        self._thread = threading.Thread(target=self._run, args=(session, terminal))
        self._thread.start()

    def _run(self, session: TestSession, terminal: Terminal) -> None:
        with self._theirs:
            try:
                Console(session, self._theirs, terminal).run()
            except BaseException as error:
                self.error = error

    def ended(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert self.error is None

    def close(self) -> None:
        self.line.close()
        self.ended()

    def shut_input(self) -> None:
        """As the monitor's server does when the machine ends."""
        self._theirs.shutdown(socket.SHUT_RD)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def screen(session: TestSession) -> Iterator[Shown]:
    screen = Shown(session)
    screen.until(lambda lines: lines[-2] == PROMPT if len(lines) > 1 else False)
    yield screen
    screen.close()


def test_a_command_shows_its_result_above_the_next_prompt(screen: Shown) -> None:
    screen.type("info status\r")
    screen.until(lambda lines: lines.count(PROMPT) == 1 and "state: running" in lines)
    assert screen.lines[:-1] == [
        "The monitor of fake: `help` lists the commands, Ctrl-D leaves it",
        "(pyvmm) info status",
        "name:  fake",
        "state: running",
        "(pyvmm)",
    ]
    assert screen.cell(2, 0).fg == "cyan"
    assert screen.cell(2, 8).fg == "default"


def test_the_line_below_the_prompt_shows_the_state(screen: Shown, machine: FakeMachine) -> None:
    assert screen.lines[-1].startswith(" running · 2 vCPUs · ")
    assert screen.cell(len(screen.lines) - 1, 1).reverse
    machine.state, machine.stopped_by = "paused", "the disk is full"
    screen.until_shown(" paused · 2 vCPUs · 0 exits/s · the disk is full · up 0:00:0")


def test_an_error_is_one_red_line(screen: Shown) -> None:
    screen.type("stpo\r")
    screen.until_shown("did you mean 'stop'?")
    assert screen.cell(2, 0).fg == "red"


def test_tab_completes_and_offers(screen: Shown) -> None:
    screen.type("powe\t")
    screen.until_shown("(pyvmm) powerdown")
    screen.type(CTRL_U + "wa\t")
    screen.until_shown("Wait until it is interrupted.")
    assert any("Show what a command shows again" in line for line in screen.lines)


def test_ctrl_c_clears_the_line(screen: Shown, machine: FakeMachine) -> None:
    screen.type("quit" + CTRL_C)
    screen.until(lambda lines: lines[1:3] == ["(pyvmm) quit", PROMPT])
    screen.type("stop\r")
    screen.until_line(-2, PROMPT)
    screen.type("info status\r")
    screen.until_shown("name:")
    assert machine.asked == ["pause"]


def test_ctrl_c_interrupts_a_command_and_forgets_what_was_typed_ahead(
    screen: Shown, watch: Stopwatch, machine: FakeMachine
) -> None:
    screen.type("wait\r")
    assert watch.begun.wait(PATIENCE)
    screen.type("quit\r" + CTRL_C + "stop\r")
    screen.until_shown("Interrupted")
    screen.until_shown("(pyvmm) stop")
    assert watch.interrupted.is_set()
    screen.type("info status\r")
    screen.until_shown("name:")
    assert machine.asked == ["pause"]


def test_what_is_typed_while_a_command_runs_comes_after_it(
    screen: Shown, machine: FakeMachine
) -> None:
    screen.type("stop\rcont\rinfo status\r")
    screen.until_shown("name:")
    assert machine.asked == ["pause", "resume"]


def test_a_live_result_is_redrawn_in_place_until_a_key(screen: Shown, watch: Stopwatch) -> None:
    screen.type("count\r")
    screen.until(lambda lines: "shown: 1" not in lines and any("shown:" in one for one in lines))
    assert sum("shown:" in line for line in screen.lines) == 1
    screen.type("x")
    screen.until(lambda lines: len(lines) > 1 and lines[-2] == PROMPT)
    assert sum("shown:" in line for line in screen.lines) == 1
    ended = watch.shown
    screen.type("watch info status\r")
    screen.until_shown("state:")
    screen.type(CTRL_C)
    screen.until(lambda lines: len(lines) > 1 and lines[-2] == PROMPT)
    assert watch.shown == ended


def test_a_long_result_can_be_interrupted(screen: Shown) -> None:
    screen.type("long\r")
    screen.until_shown("line ")
    screen.type(CTRL_C)
    lines = screen.until(lambda lines: len(lines) > 1 and lines[-2] == PROMPT)
    assert "Interrupted" in lines
    assert b"line 99999" not in screen.bytes


def test_what_a_guest_wrote_cannot_steer_the_terminal(screen: Shown) -> None:
    screen.type("evil\r")
    screen.until_shown("ab�2Jc�d�")


def test_pasted_lines_are_all_run(screen: Shown, machine: FakeMachine) -> None:
    screen.type("\x1b[200~stop\ncont\n\x1b[201~\r")
    screen.type("info status\r")
    screen.until_shown("name:")
    assert machine.asked == ["pause", "resume"]


def test_a_new_size_is_taken_between_keys(screen: Shown) -> None:
    screen.type("po")
    for part in ("\x1b[48;10;", "40;0;0", "t"):
        screen.type(part)
    screen.type("we\t")
    screen.until_shown("(pyvmm) powerdown")
    assert "48;10" not in "".join(screen.lines)
    screen.until(lambda lines: lines[-1] == TOOLBAR[:40].rstrip())


def test_nothing_is_drawn_while_the_user_looks_away_and_all_on_return(screen: Shown) -> None:
    screen.type(FOCUS_OUT.decode() + "info status\r")
    screen.until_shown("state: running")
    screen.until_line(-2, PROMPT)
    before = len(screen.bytes)
    screen.type(FOCUS_IN.decode() + "x")
    screen.until_shown("(pyvmm) x")
    assert len(screen.bytes) > before
    assert screen.lines.count(PROMPT) == 0


def test_history_is_kept_between_consoles_and_is_the_users_alone(
    session: TestSession, state: Path
) -> None:
    for expected in ("", "info status"):
        screen = Shown(session)
        screen.until(lambda lines: len(lines) > 1 and lines[-2] == PROMPT)
        screen.type("\x1b[A")
        if expected:
            screen.until_shown(f"(pyvmm) {expected}")
        screen.type(f"{CTRL_U}info status\r")
        screen.until_shown("state: running")
        screen.close()
    history = state / "pyvmm" / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_a_history_that_cannot_be_written_is_done_without(
    session: TestSession, state: Path
) -> None:
    (state / "pyvmm").write_text("in the way")
    screen = Shown(session, b"info status\r")
    screen.until_shown("state: running")
    screen.close()


def test_ctrl_d_leaves(session: TestSession) -> None:
    screen = Shown(session)
    screen.type(CTRL_D)
    screen.rest()
    screen.close()


@pytest.mark.parametrize("line", ["", "wait\r", "count\r"])
def test_the_end_of_the_machine_is_said(
    session: TestSession, machine: FakeMachine, watch: Stopwatch, line: str
) -> None:
    screen = Shown(session)
    screen.until(lambda lines: len(lines) > 1 and lines[-2] == PROMPT)
    screen.type(line)
    if line == "wait\r":
        assert watch.begun.wait(PATIENCE)
    elif line:
        screen.until_shown("shown:")
    machine.finish()
    screen.shut_input()
    assert "The guest powered itself off" in screen.rest()
    screen.close()


@pytest.mark.parametrize("line", ["", "wait\r", "count\r", "long\r"])
def test_a_client_that_goes_takes_its_console_with_it(
    session: TestSession, watch: Stopwatch, line: str
) -> None:
    screen = Shown(session)
    screen.until(lambda lines: len(lines) > 1 and lines[-2] == PROMPT)
    screen.type(line)
    if line == "wait\r":
        assert watch.begun.wait(PATIENCE)
    screen.close()
    if line == "wait\r":
        assert watch.interrupted.wait(PATIENCE)


def test_a_client_that_floods_is_let_go(session: TestSession) -> None:
    screen = Shown(session)
    screen.line.settimeout(PATIENCE)
    with contextlib.suppress(OSError):
        screen.line.sendall(b"\x1b[200~" + b"x" * 2 * INPUT_MAX)
    screen.ended()
    screen.close()


@pytest.mark.parametrize("seed", range(5))
def test_rubbish_leaves_a_console_that_works(
    session: TestSession, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    chance = random.Random(seed)
    rubbish = bytes(chance.choices(range(256), k=400)).replace(CTRL_D.encode(), b"")
    screen = Shown(session)
    screen.line.sendall(rubbish + b"\x1b[48;;;t\x1b[48;99999999;1t\x1b[I\x1b[O\x1b[I" + b"\x1b" * 9)
    screen.type("\x07" + CTRL_C)
    screen.type(CTRL_C + "info status\r")
    screen.until_shown("name:")
    screen.close()
    assert not caplog.records


def test_no_thread_is_left(session: TestSession) -> None:
    before = threading.active_count()
    screen = Shown(session, b"info status\r")
    screen.until_shown("state: running")
    screen.close()
    assert threading.active_count() == before
