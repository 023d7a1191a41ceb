"""The real gdb on small guests; it knows their symbols, and sees their memory as they do."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from command import COMMAND, pyvmm
from conftest import SOFTWARE_KVM, TIMEOUT, program
from debugging import debugged, serving, symbol, unstarted

from pyvmm import ends

SYMBOLS = f"symbol-file -o 0x80000000 {program('debug')}"  # linked there, run at its physical place

needs_gdb = pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")


def gdb(path: Path, *commands: str) -> str:
    """What gdb prints; at its end it lets the guest go."""
    words = [
        word
        for command in (SYMBOLS, f"target remote {path}", *commands)
        for word in ("-ex", command)
    ]
    done = subprocess.run(
        ["gdb", "-nx", "-batch", *words],
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


@needs_gdb
def test_two_cpus_are_two_threads(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "both", cpus=2) as vm:
        said = gdb(
            path,
            "hbreak *0x8000",
            "continue",
            "info threads",
            "x/1bx 0x8000",
            "stepi",
            "thread 1",
            "info threads",
            "print $cr0",
            "thread 2",
            "print $cr0",
        )
        assert '* 2    Thread 2 "vCPU 1" (running)' in said
        assert '  2    Thread 2 "vCPU 1" (running)' in said
        assert "0x8000:\t0x2e" in said
        assert "0x0000000000008005" in said
        assert "$1 = [ PE ET PG ]" in said
        assert "$2 = [ ET" in said
        assert vm.state == "running"


@needs_gdb
@pytest.mark.skipif(SOFTWARE_KVM, reason="a software KVM has no watchpoints")
def test_watch(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "count"):
        said = gdb(path, "watch *(unsigned long *) &ticks", "continue", "continue")
        assert said.count("Hardware watchpoint 1: *(unsigned long *) &ticks") == 3
        *_, old, new = (int(line.split()[-1]) for line in said.splitlines() if " value = " in line)
        assert new == old + 1


@needs_gdb
def test_kill(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with debugged(path, "count") as vm:
        gdb(path, "kill")
        assert vm.wait(TIMEOUT) == ends.Quit()


@needs_gdb
def test_a_guest_s_end_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    with unstarted("step") as vm, serving(vm, path):
        vm.start(paused=True)
        assert "exited with code 041" in gdb(path, "continue")


@needs_gdb
def test_a_machine_can_wait_for_gdb_before_its_first_instruction(tmp_path: Path) -> None:
    path = tmp_path / "gdb"
    options = ("--append", "count", "--memory", "16M", "--gdb", f"unix:{path}", "-S")
    with subprocess.Popen(
        [*COMMAND, "run", program("debug"), *options], stdin=subprocess.DEVNULL
    ) as process:
        wait_for(path)
        said = gdb(path, "print/x $pc", "kill")
        assert f"$1 = {symbol('_start'):#x}" in said
        assert process.wait(TIMEOUT) == 0
    assert not path.exists()


@pytest.mark.parametrize("where", ["0", "70000", "unix:", "host:port", "1234x"])
def test_where_gdb_connects_must_be_a_port_or_a_path(where: str) -> None:
    done = pyvmm("run", "--gdb", where)
    assert done.returncode == 2
    assert b"--gdb must be [HOST:]PORT or unix:PATH" in done.stderr


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not path.exists():
        assert time.monotonic() < deadline
