"""The real gdb on small guests; it knows their symbols, and sees their memory as they do."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import SOFTWARE_KVM, TIMEOUT, machine, program

from pyvmm import Machine, ends
from pyvmm.endpoint import Endpoint
from pyvmm.gdb.packets import encode
from pyvmm.gdb.server import GdbServer

SYMBOLS = f"symbol-file -o 0x80000000 {program('debug')}"  # linked there, run at its physical place

needs_gdb = pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")


@contextmanager
def debugged(path: Path, cmdline: str, **settings: Any) -> Iterator[Machine]:
    """A running machine with debug.c, and a server for gdb at `path`."""
    with machine("debug", cmdline, **settings) as vm:
        server = GdbServer(vm, Endpoint(path=str(path)))
        try:
            yield vm
        finally:
            server.close()


def gdb(path: Path, *commands: str) -> str:
    """What gdb prints; at its end it lets the guest go."""
    words = [word for command in (SYMBOLS, f"target remote {path}", *commands) for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", "set confirm off", *words],
        capture_output=True,
        text=True,
        timeout=3 * TIMEOUT,
    )
    return done.stdout + done.stderr


@needs_gdb
def test_break_step_registers_memory_and_detach(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "count") as vm:
        said = gdb(
            path,
            "break tick",
            "continue",
            "continue",
            "backtrace",
            "set $before = *(unsigned long *) &ticks",
            "finish",
            "print *(unsigned long *) &ticks - $before",
            "set $rbx = 0x1234",
            "stepi",
            "print/x $rbx",
            "print $efer",
            "print $xmm0.uint128 = 5",
            "print $ymm0.v2_int128[0]",
            "set var *(unsigned long *) &ticks = 7",
            "monitor info status",
        )
        assert said.count("Breakpoint 1, 0x") == 2
        assert "in tick ()" in said
        assert "in main ()" in said
        for line in ("$1 = 1", "$2 = 0x1234", "$3 = [ LME LMA ]", "$4 = 5", "$5 = 5"):
            assert line in said
        assert "stopped by: step" in said
        assert vm.state == "running"
        assert not vm.debugger.points
        with vm.paused():
            ticks = symbol("ticks")
            now = vm.memory.u64(ticks)
            assert 7 <= now < 1 << 32


def symbol(name: str) -> int:
    """Where something of debug.c is, by physical address."""
    listing = subprocess.run(["nm", program("debug")], check=True, capture_output=True, text=True)
    (address,) = (
        line.split()[0] for line in listing.stdout.splitlines() if line.split()[2] == name
    )
    return int(address, 16) & 0x7FFF_FFFF
