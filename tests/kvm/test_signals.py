"""What `pyvmm run` does when it is signalled, on an idle guest and on one that spins."""

from __future__ import annotations

from pathlib import Path
from signal import SIGHUP, SIGINT, SIGQUIT, SIGSEGV, SIGTERM

import pytest
from command import PATIENCE, PROMPT, Running, program

from pyvmm import Machine

NEVER, AT_ONCE = "cli.POWER_OFF_SECONDS = 1e6", "cli.POWER_OFF_SECONDS = 0"
EVERY_SIGNAL_COUNTS = "cli.SAME_SIGNAL_SECONDS = -1"


def idle(python: str) -> Running:
    run = Running("--memory", "16M", python=python)
    run.expect(PROMPT)
    return run


def report(run: Running) -> None:
    """Ask for a report and read it: the guest goes on, and earlier signals have been served."""
    run.signal(SIGQUIT)
    run.expect(b"RFLAGS")


def test_sigterm_presses_the_power_button(listener: str) -> None:
    with Running(listener, "--memory", "16M", python=NEVER) as run:
        run.expect(b"!")
        run.signal(SIGTERM)
        assert run.wait() == 0


def test_a_guest_that_ignores_its_power_button_is_ended() -> None:
    with idle(AT_ONCE) as run:
        run.signal(SIGTERM)
        assert run.wait() == 0


def test_a_second_sigterm_ends_at_once() -> None:
    with idle(f"{NEVER}; {EVERY_SIGNAL_COUNTS}") as run:
        run.signal(SIGTERM)
        report(run)
        run.signal(SIGTERM)
        assert run.wait() == 0


def test_a_sigterm_that_timeout_sends_twice_counts_once() -> None:
    with idle(f"{NEVER}; cli.SAME_SIGNAL_SECONDS = 1e6") as run:
        run.signal(SIGTERM)
        report(run)
        run.signal(SIGTERM)
        report(run)
        run.write(b"exit 4\r")
        assert run.wait() == 9


@pytest.mark.parametrize("number", [SIGINT, SIGHUP])
def test_sigint_and_sighup_end_at_once(number: int) -> None:
    with idle(NEVER) as run:
        run.signal(number)
        assert run.wait() == 0


@pytest.mark.parametrize("cpus", ["1", "2"])
def test_sigquit_reports_and_a_guest_that_spins_goes_on(cpus: str) -> None:
    arguments = (program("end"), "--append", "spin", "--memory", "16M", "--cpus", cpus)
    with Running(*arguments, python=NEVER) as run:
        run.expect(b"here")
        for _ in range(20):
            report(run)
        run.signal(SIGINT)
        assert run.wait() == 0


def test_nohup_is_respected() -> None:
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with idle(ignore) as run:
        run.signal(SIGHUP)
        report(run)
        run.write(b"exit 4\r")
        assert run.wait() == 9


@pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGHUP])
def test_a_signal_before_the_guest_runs_ends_it_quietly(number: int) -> None:
    stuck = """
from pyvmm import lifecycle
import os, signal
def board(*_): os.write(1, b"opening"); signal.pause()
lifecycle.Board = board
"""
    with Running(python=stuck) as run:
        run.expect(b"opening")
        run.signal(number)
        assert run.wait() == 130
        assert run.rest() == b""


def test_a_vcpus_thread_takes_no_signals_but_those_of_its_own_faults() -> None:
    with Machine(memory="16M") as vm:
        vm.start()
        vm.serial.expect(PROMPT, PATIENCE)
        status = Path(f"/proc/self/task/{vm.board.vcpus[0].thread_id}/status").read_text()
    blocked = int(status.partition("SigBlk:\t")[2].split()[0], 16)
    assert status.startswith("Name:\tvcpu0\n")
    assert blocked >> SIGINT - 1 & 1
    assert not blocked >> SIGSEGV - 1 & 1
