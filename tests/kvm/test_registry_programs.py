"""Machines that a program makes: other processes find them as they find those of `pyvmm run`."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from command import PATIENCE, pyvmm

from pyvmm import Machine, RunningMachine, running
from pyvmm.ends import PoweredOff, Quit

pytestmark = pytest.mark.usefixtures("directory")

PROMPT = b"> "


def registered(count: int) -> list[RunningMachine]:
    """The entries, once there are `count`, which is soon after the last start."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if len(found := running()) == count:
            return found
    raise AssertionError(f"There are not {count} machines but {found}")


def machine(name: str) -> Machine:
    return Machine(name=name, memory="16M", serial=("buffer",))


def test_every_machine_of_a_process_has_an_entry(directory: Path) -> None:
    pid = os.getpid()
    with machine("web") as web:
        web.start()
        registered(1)
        with machine("mail") as mail:
            mail.start()
            one, two = registered(2)
            assert (one.name, one.id, one.pid) == ("web", f"{pid}", pid)
            assert (two.name, two.id, two.pid) == ("mail", f"{pid}.2", pid)
            assert not one.own_process
            said = pyvmm("monitor", f"{pid}.2", stdin=b"info version\ninfo status\n").stdout
            assert b"running" in said
        assert [one.name for one in running()] == ["web"]
        assert len(list(directory.iterdir())) == 2
    assert list(directory.iterdir()) == []


def test_stop_ends_the_machine_and_not_the_program() -> None:
    with machine("web") as web:
        web.start()
        registered(1)
        done = pyvmm("stop", "web", "--force")
        assert (done.returncode, done.stderr) == (0, b"")
        assert web.wait(PATIENCE) == Quit()
        with machine("mail") as mail:
            mail.start()
            assert registered(1)[0].name == "mail"


def test_one_is_found_until_its_guest_ends() -> None:
    with machine("web") as web:
        web.start()
        (one,) = registered(1)
        with one.connect("console") as console:
            web.serial.expect(PROMPT, PATIENCE)
            web.serial.write(b"poweroff\r")
            assert web.wait(PATIENCE) == PoweredOff()
            said = b"".join(iter(lambda: console.recv(1 << 16), b""))
        assert said.endswith(b"> poweroff\r\n")
        assert running() == []


def test_one_that_runs_on_its_callers_thread_is_found_until_its_end() -> None:
    with machine("web") as web:
        thread = threading.Thread(target=web.run)
        thread.start()
        (one,) = registered(1)
        assert one.stop(0) == "Quit"
        thread.join()
        assert running() == []


def test_one_is_found_again_after_it_was_closed_and_opened() -> None:
    web = machine("web")
    for _ in range(2):
        with web:
            web.start()
            (one,) = registered(1)
            assert one.id == str(os.getpid())
