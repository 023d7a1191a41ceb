"""`pyvmm run` as its user sees it: on a real terminal, by keys and screens."""

from __future__ import annotations

import gzip
import os
import signal
import termios
from pathlib import Path

import pytest
from command import Running, program

PROMPT = b"> "  # the terminal adds a carriage return of its own to each line
LFLAG = 3  # in what tcgetattr gives
CTRL_A, CTRL_C = b"\x01", b"\x03"
CRASH_OF_PYVMM = """
from pyvmm import machine
def broken(*_): raise ZeroDivisionError("injected")
machine.Machine.diagnose = broken
"""


def guest(*args: str, python: str = "") -> Running:
    return Running("--memory", "16M", *args, terminal=True, python=python)


def test_keys_reach_the_guest_and_it_echoes_them_once() -> None:
    with guest() as run:
        run.expect(PROMPT)
        assert not run.settings_now[LFLAG] & (termios.ECHO | termios.ICANON | termios.ISIG)
        run.write(b"echo two words\r")
        assert run.expect(PROMPT).split() == b"echo two words two words >".split()


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        (b"poweroff\r", 0),
        (b"exit 7\r", 15),
        (b"crash\r", 3),
        (b"panic\r", 4),
        (CTRL_A + b"x", 0),
    ],
)
def test_every_way_out_restores_the_terminal(keys: bytes, status: int) -> None:
    with guest() as run:
        run.expect(PROMPT)
        assert run.settings_now != run.settings
        run.write(keys)
        assert run.wait() == status
        assert run.settings_now == run.settings


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_ends_it_restores_the_terminal(number: signal.Signals) -> None:
    with guest() as run:
        run.expect(PROMPT)
        run.signal(number)
        assert run.wait() == 0
        assert run.settings_now == run.settings


def test_a_fault_of_pyvmm_itself_restores_the_terminal() -> None:
    with guest(python=CRASH_OF_PYVMM) as run:
        run.expect(PROMPT)
        run.signal(signal.SIGQUIT)
        assert run.wait() == 1
        assert run.settings_now == run.settings
        assert b"injected" in run.rest()


def test_control_c_is_the_guests() -> None:
    with guest(program("serial")) as run:
        run.expect(b"ready")
        run.write(CTRL_C)
        run.expect(CTRL_C)  # its echo
        run.write(b".")
        assert run.wait() == 33


def test_the_escape_key_helps_and_passes_itself_on() -> None:
    with guest(program("serial")) as run:
        run.expect(b"ready")
        run.write(CTRL_A + b"h")
        assert b"quit" in run.expect(b"send Ctrl-A itself")
        run.write(CTRL_A + CTRL_A + b"y")
        run.expect(CTRL_A + b"y")
        run.write(b".")
        assert run.wait() == 33


@pytest.mark.parametrize("ending", ["report at the end", "report on request"])
def test_a_report_has_no_staircase(ending: str) -> None:
    with guest() as run:
        run.expect(PROMPT)
        if ending == "report at the end":
            run.write(b"crash\r")
            assert run.wait() == 3
        else:
            run.signal(signal.SIGQUIT)
            run.expect(b"RFLAGS")
            run.write(b"poweroff\r")
            assert run.wait() == 0
        run.rest()
        assert b"RIP" in run.output
        assert run.output.count(b"\n") == run.output.count(b"\r\n")


def test_what_pyvmm_does_before_the_guest_is_wiped_from_the_screen(tmp_path: Path) -> None:
    packed = tmp_path / "hello.gz"
    packed.write_bytes(gzip.compress(Path(program("hello")).read_bytes()))
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    with Running(str(packed), "--memory", "16M", terminal=True, env=environment) as run:
        assert run.wait() == 33
        screen = run.rest()
        assert b"Unpacking" in screen
        assert screen.rpartition(b"Unpacking")[2].partition(b"\r\x1b[K")[2].startswith(b"hello")


def test_input_from_elsewhere_leaves_the_terminal_alone() -> None:
    with Running("--memory", "16M", python="import os; os.close(0)", terminal=True) as run:
        run.expect(b"> ")
        assert run.settings_now == run.settings
        run.signal(signal.SIGINT)
        assert run.wait() == 0
