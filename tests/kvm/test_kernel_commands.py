"""Commands about the guest's kernel, on guests that are no Linux."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TIMEOUT, machine, program
from elftools.elf.elffile import ELFFile

from pyvmm import ImageError, UsageError


def test_a_dump_holds_memory_and_registers_and_the_guest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "core"
    with machine("end", "spin", cpus=2) as vm:
        vm.serial.expect(b"here\n", timeout=TIMEOUT)
        with vm.paused():
            assert vm.command(f"dump-guest-memory {path}") is None
            rip = vm.vcpus[0].regs.rip
            code = vm.memory.read(rip & ~0xFFF, 0x1000)
        assert vm.state == "running"
    with open(path, "rb") as file:
        elf = ELFFile(file)
        notes, *loads = elf.iter_segments()
        assert rip.to_bytes(8, "little") in notes.data()
        (load,) = (s for s in loads if s["p_paddr"] <= rip < s["p_paddr"] + s["p_memsz"])
        file.seek(load["p_offset"] + (rip & ~0xFFF) - load["p_paddr"])
        assert file.read(0x1000) == code


def test_a_backtrace_names_what_the_guest_is_in() -> None:
    with machine("end", "spin") as vm:
        vm.serial.expect(b"here\n", timeout=TIMEOUT)
        frames = vm.command("backtrace")
        assert frames.data[0]["symbol"].startswith("main+")
        assert str(frames).splitlines()[0].startswith("#0 ")


def test_symbols_of_the_guest_are_taken_from_its_image() -> None:
    with machine("end", "spin") as vm:
        vm.serial.expect(b"here\n", timeout=TIMEOUT)
        shown = vm.command(f"symbols {program('end')}")
        assert shown.data["from"] == str(program("end"))
        assert vm.guest.symbols.lookup(vm.guest.symbols.address("main")).startswith("main+0x0/")


@pytest.mark.parametrize("command", ["dmesg", "ps", "symbols", "symbols export /nowhere/x"])
def test_what_only_linux_has_is_refused(command: str) -> None:
    with machine("end", "spin") as vm:
        vm.serial.expect(b"here\n", timeout=TIMEOUT)
        with pytest.raises(UsageError, match=r"must run Linux|shows no symbols|must have its type"):
            vm.command(command)


def test_a_file_that_is_none_of_symbols_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("some text\n")
    with machine("end", "spin") as vm, pytest.raises(ImageError, match="text must have symbols"):
        vm.command(f"symbols {tmp_path}/text")
