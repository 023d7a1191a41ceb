"""Debian's gdb on a running Linux kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from linuxguest import boot, power_off, told
from rig import NestedHost, Process

SOCKET = "/tmp/gdb.sock"
TIMEOUT = 120.0  # seconds; each session takes a few


@pytest.fixture(scope="module", params=[1, 2], ids=["1 vCPU", "2 vCPUs"])
def guest(request: pytest.FixtureRequest, nested_host: NestedHost) -> Iterator[Process]:
    """A guest that asks for its kernel's name again and again."""
    cpus = str(request.param)
    process = boot(nested_host, "vmlinuz-cloud", "--cpus", cpus, "--gdb", f"unix:{SOCKET}")
    told(process, "(while :; do uname -r >/dev/null; done) &")
    yield process
    assert power_off(process) == 0


def gdb(host: NestedHost, *commands: str) -> str:
    """What gdb prints; it is connected first, and lets the guest go at the end."""
    words = [word for command in commands for word in ("-ex", command)]
    connect = ("-ex", "set confirm off", "-ex", f"target remote {SOCKET}")
    status, output = host.run(["gdb", "-nx", "-batch", *connect, *words], timeout=TIMEOUT)
    assert status == 0, output
    return output


def address_of(guest: Process, symbol: str) -> str:
    line = told(guest, f"grep ' {symbol}$' /proc/kallsyms")
    return f"0x{line.split()[0]}"


def test_break(nested_host: NestedHost, guest: Process) -> None:
    uname = address_of(guest, "__do_sys_newuname")
    jiffies = address_of(guest, "jiffies")
    print(gdb(nested_host, "info threads", f"break *{uname}", "continue", "x/3i $pc", "stepi", "stepi", "bt", "continue", "info threads", "monitor info status"))
    print(gdb(nested_host, f"watch *(unsigned long *) {jiffies}", "continue", "continue", "info threads", "p $cr3", "p $gs_base"))
    print(gdb(nested_host, *(f"break *({uname} + {n})" for n in range(5)), "continue"))
    assert told(guest, "echo alive") == "alive\n"
    assert 0
