"""Debian's gdb on a running Linux kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from linuxguest import boot, power_off, told
from rig import NestedHost, Process

SOCKET, SYMBOLS = "/tmp/gdb.sock", "/tmp/guest.elf"
TIMEOUT = 200.0  # seconds; a session takes a few


@pytest.fixture(scope="module", params=[1, 2], ids=["1-vCPU", "2-vCPUs"])
def guest(request: pytest.FixtureRequest, nested_host: NestedHost) -> Iterator[Process]:
    """A guest that asks for its kernel's name now and then."""
    cpus = str(request.param)
    process = boot(nested_host, "vmlinuz-cloud", "--cpus", cpus, "--gdb", f"unix:{SOCKET}")
    told(process, "{ (while sleep 1; do uname -r >/dev/null; done) & }")
    yield process
    assert power_off(process) == 0


def gdb(host: NestedHost, *commands: str) -> str:
    """What gdb prints, which knows the kernel's symbols; at its end it lets the guest go."""
    prepare = (
        "set confirm off",
        f"target remote {SOCKET}",
        f"monitor symbols export {SYMBOLS}",
        f"symbol-file {SYMBOLS}",
    )
    words = [word for command in (*prepare, *commands) for word in ("-ex", command)]
    status, output = host.run(["gdb", "-nx", "-batch", *words], timeout=TIMEOUT)
    assert status == 0, output
    return output


def alive(guest: Process) -> bool:
    return told(guest, "echo alive") == "alive\n"


def test_break_step_and_backtrace(nested_host: NestedHost, guest: Process) -> None:
    said = gdb(
        nested_host,
        "break __do_sys_newuname",
        "continue",
        "backtrace 2",
        "stepi",
        "stepi",
        "monitor backtrace",
        "continue",
        "info threads",
        "delete",
        "info symbol $lstar",
        "print $efer",
    )
    assert len(re.findall(r"Breakpoint 1, 0x\w+ in __do_sys_newuname", said)) == 2, said
    assert re.search(r"^#1 .* in do_syscall_64 \(\)$", said, re.MULTILINE), said
    assert "__do_sys_newuname+" in said, said
    assert "entry_SYSCALL_64_after_hwframe" in said, said
    assert "entry_SYSCALL_64 in section" in said, said
    assert "[ SCE LME LMA NXE" in said, said
    assert alive(guest)


def test_every_cpu_is_a_thread(nested_host: NestedHost, guest: Process) -> None:
    cpus = int(told(guest, "nproc"))
    said = gdb(nested_host, "info threads", *(f"thread {n + 1}" for n in range(cpus)))
    assert re.findall(r'^. (\d+) +Thread \d+ "vCPU (\d+)"', said, re.MULTILINE) == [
        (str(n + 1), str(n)) for n in range(cpus)
    ], said
    assert said.count("[Switching to thread") == cpus, said
    assert alive(guest)


def test_watch_a_variable(nested_host: NestedHost, guest: Process) -> None:
    said = gdb(nested_host, "watch *(unsigned long *) &jiffies", "continue", "continue")
    values = [
        int(value) for value in re.findall(r"^(?:Old|New) value = (\d+)$", said, re.MULTILINE)
    ]
    assert len(values) == 4, said
    assert values[0] < values[1] == values[2] < values[3]
    assert alive(guest)


def test_a_fifth_breakpoint_is_refused_where_int3_cannot_be_caught(
    nested_host: NestedHost, guest: Process
) -> None:
    places = (f"break *(__do_sys_newuname + {n})" for n in range(5))
    said = gdb(nested_host, *places, "continue", "delete 5", "continue")
    assert "Cannot insert breakpoint 5" in said, said
    assert "Breakpoint 1, 0x" in said, said
    assert b"cannot catch the int3" in guest.output
    assert alive(guest)
