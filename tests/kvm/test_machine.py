"""Machines: pauses, resets, several at once, and nothing left behind."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from conftest import EMULATED_CPU, TIMEOUT, machine, program

from pyvmm import Linux, Machine, ends
from pyvmm.errors import PyvmmError, UsageError

PAUSES = 2000
MACHINES = 100 if EMULATED_CPU else 1000
BYTES = 2000
CPUS = 2


def test_pauses_while_a_guest_spins_all_come_back() -> None:
    with machine("end", "spin", cpus=CPUS) as vm:
        vm.serial.expect(b"here\n", timeout=TIMEOUT)
        for _ in range(PAUSES):
            vm.pause()
            assert vm.state == "paused"
            vm.resume()
        assert vm.state == "running"


def test_a_paused_guest_stands_still() -> None:
    with machine("end", "spin") as vm:
        vm.serial.expect(b"here\n", timeout=TIMEOUT)
        with vm.paused():
            counts = vm.exit_counts()
            before = vm.vcpus[0].regs.rip
            assert vm.vcpus[0].regs.rip == before
            assert vm.exit_counts() == counts
        with pytest.raises(UsageError, match="paused"):
            _ = vm.vcpus


def test_a_guest_that_sleeps_for_good_can_be_paused_and_quit() -> None:
    with machine("end", "halt", cpus=CPUS) as vm:
        vm.serial.expect(b"here\n", timeout=TIMEOUT)
        for _ in range(100):
            with vm.paused():
                pass
        vm.quit()
        assert vm.wait(TIMEOUT) == ends.Quit()


def test_pauses_nested_in_a_pause_do_not_resume() -> None:
    with machine("end", "spin") as vm:
        with vm.paused():
            with vm.paused():
                pass
            assert vm.state == "paused"
        assert vm.state == "running"


def test_pauses_from_many_threads_at_once() -> None:
    with machine("end", "spin", cpus=CPUS) as vm:
        vm.serial.expect(b"here\n", timeout=TIMEOUT)

        def storm() -> None:
            for _ in range(200):
                vm.pause()
                vm.resume()

        threads = [threading.Thread(target=storm, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert not any(thread.is_alive() for thread in threads)
        vm.quit()
        assert vm.wait(TIMEOUT) == ends.Quit()


def test_the_host_resets_a_guest_again_and_again() -> None:
    with machine("end", "halt", no_reboot=False) as vm:
        for _ in range(20):
            vm.serial.expect(b"here\n", timeout=TIMEOUT)
            vm.reset()
        vm.serial.expect(b"here\n", timeout=TIMEOUT)


def test_a_reset_clears_memory() -> None:
    with machine("end", "halt", no_reboot=False) as vm:
        vm.serial.expect(b"here\n", timeout=TIMEOUT)
        vm.memory.write(0x80_0000, b"old")
        vm.reset()
        vm.serial.expect(b"here\n", timeout=TIMEOUT)
        assert vm.memory.read(0x80_0000, 3) == bytes(3)


def test_two_machines_run_in_one_process_at_the_same_time() -> None:
    with machine("serial") as one, machine("serial") as other:
        one.serial.expect(b"ready\n", timeout=TIMEOUT)
        other.serial.expect(b"ready\n", timeout=TIMEOUT)
        other.serial.write(b"other.")
        one.serial.write(b"one.")
        assert one.wait(TIMEOUT).status == other.wait(TIMEOUT).status == 33
        assert b"other." in other.serial.output
        assert b"one." in one.serial.output


def test_no_received_byte_is_left_without_its_interrupt() -> None:
    """The line rose before LSR told why: a guest that was quick waited for ever."""
    with machine("serial") as vm:
        vm.serial.expect(b"ready\n", timeout=TIMEOUT)
        for _ in range(BYTES):
            vm.serial.write(b"x")
            vm.serial.expect(b"x", timeout=TIMEOUT)


def test_run_keeps_to_the_callers_thread() -> None:
    with Machine(boot=Linux(program("hello")), memory="16M") as vm:
        assert vm.run().status == 33


def test_a_machine_can_be_opened_again() -> None:
    vm = Machine(boot=Linux(program("hello")), memory="16M")
    for _ in range(2):
        with vm:
            vm.start()
            assert vm.wait(TIMEOUT).status == 33
        assert vm.state == "closed"


def test_waiting_has_an_end() -> None:
    with machine("end", "halt") as vm, pytest.raises(TimeoutError):
        vm.wait(0.01)


def test_a_closed_machine_is_refused() -> None:
    vm = Machine(memory="16M")
    for use in (vm.start, vm.pause, vm.reset, lambda: vm.serial, lambda: vm.vcpus):
        with pytest.raises(PyvmmError):
            use()
    vm.close()


def test_the_built_in_guest_says_hello_and_answers() -> None:
    with Machine(memory="16M", cpus=CPUS, no_reboot=True) as vm:
        vm.start()
        vm.serial.expect(b"hello", timeout=TIMEOUT)
        prompt = b"\r\n> "

        def ask(question: bytes) -> str:
            vm.serial.write(question + b"\r")
            vm.serial.expect(question + b"\r\n", timeout=TIMEOUT)
            return vm.serial.expect(prompt, timeout=TIMEOUT).removesuffix(prompt).decode()

        vm.serial.expect(prompt, timeout=TIMEOUT)
        assert ask(b"cpus") == f"{CPUS} CPU(s), under KVMKVMKVM\0\0\0".rstrip("\0")
        assert "0000000000100000 - 0000000001000000 RAM" in ask(b"memory")
        assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", ask(b"time"))
        assert ask(b"echo two words") == "two words"
        assert "reboot" in ask(b"help")
        assert ask(b"nonsense").startswith("Unknown command")
        vm.serial.write(b"exiit\x7f\x08t 5\r")
        assert vm.wait(TIMEOUT).status == 11


@pytest.mark.parametrize(
    ("command", "end"),
    [
        ("poweroff", ends.PoweredOff),
        ("reboot", ends.Reset),
        ("crash", ends.TripleFault),
        ("panic", ends.GuestPanic),
    ],
)
def test_the_built_in_guest_ends_as_it_is_told(command: str, end: type) -> None:
    with Machine(memory="16M", no_reboot=True) as vm:
        vm.start()
        vm.serial.expect(b"> ", timeout=TIMEOUT)
        vm.serial.write(command.encode() + b"\n")
        assert isinstance(vm.wait(TIMEOUT), end)


def resources() -> tuple[int, int, int]:
    """How many threads, descriptors and shared mappings this process has."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    shared = sum("memfd:" in line or "kvm" in line for line in maps)
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), shared


def test_a_thousand_machines_leave_nothing_behind() -> None:
    vm = Machine(boot=Linux(program("hello")), memory="16M", no_reboot=True)
    before = resources()
    for _ in range(MACHINES):
        with vm:
            vm.start()
            assert vm.wait(TIMEOUT).status == 33
    assert resources() == before


def test_a_machine_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    before = resources()
    for boot in (str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(PyvmmError):
            Machine(boot=Linux(boot), memory="16M").open()
    assert resources() == before
