"""The monitor's commands that look into a booted Linux; one start serves them all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from linuxguest import BOOT_TIMEOUT
from rig import NestedHost, Process

MARK = "a-mark-that-the-monitor-changes"


class Guest:
    """A Linux guest that is asked from both sides."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._next()

    def _next(self) -> dict[str, Any]:
        line = self._process.expect(rb"^(\{.*\})\r*$", BOOT_TIMEOUT)[1]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, line: str) -> dict[str, Any]:
        """What a command of the monitor answers: its data and text, or its error."""
        self._process.write(f"{line}\n".encode())
        return self._next()

    def data(self, line: str) -> Any:
        """The data of a command that succeeds."""
        answer = self.ask(line)
        assert "error" not in answer, answer
        return answer.get("data")

    def shell(self, command: str) -> str:
        """What a command in the guest's shell prints."""
        return str(self.ask(f"!{command}")["text"])


@pytest.fixture(scope="module")
def guest(nested_host: NestedHost) -> Iterator[Guest]:
    process = nested_host.spawn(["python3", "tests/nested/host/commands.py"])
    yield Guest(process)
    process.close_input()
    assert process.wait() == 0


def test_a_symbol_is_where_the_guest_has_it(guest: Guest) -> None:
    (line,) = guest.shell("grep ' linux_banner$' /proc/kallsyms").splitlines()
    address = int(line.split()[0], 16)
    shown = guest.data("x/s linux_banner")
    assert shown["lines"][0]["address"] == address
    assert shown["lines"][0]["value"].startswith(f"Linux version {guest.shell('uname -r').strip()}")
    assert guest.data(f"x/8xb {address:#x}")["lines"][0]["value"] == [*b"Linux ve"]


def test_kernel_text_is_translated_by_a_large_page(guest: Guest) -> None:
    shown = guest.data("info page tables linux_banner")
    (walk,) = (rows for title, rows in shown.items() if title != "Result")
    assert [row["level"] for row in walk] == ["PML4E", "PDPTE", "PDE"]
    physical = guest.data("translate linux_banner")["physical"]
    assert physical == shown["Result"]["physical"]
    assert guest.data(f"xp/5c {physical:#x}")["lines"][0]["value"] == [*b"Linux"]
    assert physical in {row["address"] for row in guest.data('find "Linux version"')}


def test_an_address_that_Linux_does_not_map_names_the_level(guest: Guest) -> None:
    assert "PML4E" in guest.ask("x 0x700000000000")["error"]
    assert "not an address of" in guest.ask("translate 0x8000000000000000")["error"]


def test_memory_that_is_found_and_written_is_what_the_guest_reads(guest: Guest) -> None:
    guest.shell(f"echo {MARK} > /tmp/mark")
    for row in guest.data(f'find "{MARK}"'):
        guest.data(f"writep {row['address']:#x} {ord('A')}")
    assert guest.shell("cat /tmp/mark") == f"A{MARK[1:]}\n"


def test_the_vCPUs_are_where_Linux_runs_them(guest: Guest) -> None:
    cpus = guest.data("info cpus")
    assert [cpu["mode"] for cpu in cpus] == ["64-bit code"] * 2
    assert all(cpu["thread"] for cpu in cpus)
    registers = guest.data("info registers 1")
    assert registers["General"]["rip"]
    lstar = registers["Model-specific"]["lstar"]
    assert guest.shell(f"grep -i {lstar:x} /proc/kallsyms").split()[2].startswith("entry_SYSCALL")
    assert guest.data("info lapic 1")["Local APIC of vCPU 1"]["enabled"] is True


def test_interrupts_are_wired_as_Linux_sees_them(guest: Guest) -> None:
    rows = {row["of"]: row for row in guest.data("info irq")["Lines"]}
    assert rows["COM1"]["raised"] > 0
    assert rows["COM1"]["IOAPIC"].startswith("vector")
    assert {row["of"] for row in guest.data("info irq")["Messages"]} == {"rng", "balloon"}
    lines = guest.shell("cat /proc/interrupts").splitlines()
    assert any(line.split()[0] == "4:" and "ttyS0" in line for line in lines)
    pins = guest.data("info ioapic")
    assert pins[4]["of"] == "COM1"
    assert "masked" not in pins[4]["delivery"]


def test_devices_are_where_Linux_placed_them(guest: Guest) -> None:
    devices = {row["device"].split()[-1]: row for row in guest.data("info devices")}
    for name in ("rng", "balloon"):
        assert devices[name]["interrupt"] == "MSI-X"
    placed = guest.shell("cat /proc/iomem")
    start = devices["rng"]["at"].split()[1].split("-")[0]
    assert int(start, 16) in {int(line.split("-")[0], 16) for line in placed.splitlines()}


def test_exits_are_counted_by_their_device(guest: Guest) -> None:
    rows = guest.data("info exits")["By address"]
    (com1,) = (row for row in rows if (row["kind"], row["address"]) == ("pio write", 0x3F8))
    guest.shell("echo 0123456789")
    again = guest.data("info exits")["By address"]
    (after,) = (row for row in again if (row["kind"], row["address"]) == ("pio write", 0x3F8))
    assert after["of"] == "COM1"
    assert after["exits"] >= com1["exits"] + 10


def test_a_register_that_is_read_while_it_runs_leaves_the_guest_well(guest: Guest) -> None:
    for _ in range(20):
        guest.data("x/2xg $rsp")
    assert guest.shell("echo still here") == "still here\n"
    assert "dmesg" not in guest.shell("dmesg | grep -i -e stall -e lockup | sed s/^/dmesg:/")
