"""What tests of the debugger and of gdb share: debug.c and where its parts are."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from conftest import TIMEOUT, machine, program

from pyvmm import Linux, Machine, events
from pyvmm.endpoint import Endpoint
from pyvmm.gdb.server import open_server


@cache
def _symbols() -> dict[str, int]:
    listing = subprocess.run(["nm", program("debug")], check=True, capture_output=True, text=True)
    rows = (line.split() for line in listing.stdout.splitlines())
    return {name: int(address, 16) & 0x7FFF_FFFF for address, _, name in rows}


def symbol(name: str) -> int:
    """Where something of debug.c is, by physical address, which is also its linear one there."""
    return _symbols()[name]


class Stops:
    """Waits for a machine's stops, or other events."""

    def __init__(self, vm: Machine, kind: type[events.Event] = events.Stopped) -> None:
        self._vm = vm
        self._kind = kind
        self._count = threading.Semaphore(0)
        vm.listen(self._on_event)

    def _on_event(self, event: events.Event) -> None:
        if isinstance(event, self._kind):
            self._count.release()

    def wait(self) -> None:
        """Wait for the next one."""
        assert self._count.acquire(timeout=TIMEOUT), f"There was no {self._kind.__name__}"
        self._vm.run_state.wait_parked()


@contextmanager
def unstarted(cmdline: str) -> Iterator[Machine]:
    """An open machine with debug.c."""
    boot = Linux(program("debug"), cmdline=cmdline)
    with Machine(boot=boot, memory="16M", no_reboot=True) as vm:
        yield vm


@contextmanager
def debugged(path: Path, cmdline: str, **settings: Any) -> Iterator[Machine]:
    """A running machine with debug.c, and a server for gdb at `path`."""
    with machine("debug", cmdline, **settings) as vm, serving(vm, path):
        yield vm


@contextmanager
def serving(vm: Machine, path: Path) -> Iterator[None]:
    """A server for gdb at `path`."""
    server = open_server(vm, Endpoint(path=str(path)))
    try:
        yield
    finally:
        server.close()
