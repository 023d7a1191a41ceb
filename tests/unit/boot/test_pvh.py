from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from pyvmm.boot import image as boot
from pyvmm.errors import ImageError
from pyvmm.memory import GuestMemory
from tests.fakes import images
from tests.fakes.images import Load

Save = Callable[..., str]
MIB = 1 << 20


def start_info(memory: GuestMemory, entry: boot.Entry) -> tuple[int, ...]:
    return struct.unpack("<IIIIQQQQII", memory.read(entry.rbx, 56))


@pytest.mark.parametrize("wrap", [lambda kernel: kernel, images.bzimage])
def test_linux_is_entered_by_pvh_when_asked(
    wrap: Callable[[bytes], bytes], memory: GuestMemory, save: Save
) -> None:
    initrd = save(b"initrd", "initrd")
    path = save(wrap(images.vmlinux(b"code" * 20)))
    entry = boot.load(
        path, memory, protocol="pvh", cmdline="hello", initrds=[initrd, initrd], rsdp=0xE0000
    )
    assert not entry.long_mode
    assert entry.rip == 16 * MIB + 16
    assert memory.read(16 * MIB, 80) == b"code" * 20
    magic, version, flags, modules, modlist, cmdline, rsdp, memmap, entries, reserved = start_info(
        memory, entry
    )
    assert (magic, version, flags, modules, rsdp, reserved) == (0x336EC578, 1, 0, 1, 0xE0000, 0)
    assert memory.read(cmdline, 6) == b"hello\0"
    address, size, module_cmdline, _ = struct.unpack("<4Q", memory.read(modlist, 32))
    assert (memory.read(address, size), module_cmdline) == (b"initrd\0\0" * 2, 0)
    first = struct.unpack("<QQII", memory.read(memmap, 24))
    assert first == (0, 0xA0000, 1, 0)
    ram = [struct.unpack("<QQII", memory.read(memmap + 24 * index, 24)) for index in range(entries)]
    assert (MIB, 63 * MIB, 1, 0) in ram


def test_without_initrd_there_is_no_module(memory: GuestMemory, save: Save) -> None:
    entry = boot.load(save(images.vmlinux()), memory, protocol="pvh")
    assert start_info(memory, entry)[3:5] == (0, 0)


@pytest.mark.parametrize("bits", [32, 64])
def test_an_elf_that_is_not_linux_is_entered_by_its_note(
    bits: int, memory: GuestMemory, save: Save
) -> None:
    image = images.elf([Load(b"x" * 9, MIB)], 0, bits=bits, notes=images.pvh_note(MIB + 2))
    entry = boot.load(save(image), memory)
    assert (entry.rip, entry.long_mode) == (MIB + 2, False)
    assert memory.read(MIB, 9) == b"x" * 9


def test_an_entry_outside_the_image_is_refused(memory: GuestMemory, save: Save) -> None:
    image = images.elf([Load(b"x", MIB)], MIB, notes=images.pvh_note(2 * MIB))
    with pytest.raises(ImageError, match="its PVH entry outside its segments, at 0x200000"):
        boot.load(save(image), memory)


def test_pvh_needs_the_note(memory: GuestMemory, save: Save) -> None:
    with pytest.raises(ImageError, match="must have a PVH note"):
        boot.load(save(images.vmlinux(pvh=False)), memory, protocol="pvh")


@pytest.mark.parametrize("address", [0, 0x7000, 0xA0000, 0xE0000, 0xC000_0000, 1 << 33])
def test_a_segment_outside_free_ram_is_refused(
    address: int, memory: GuestMemory, save: Save
) -> None:
    loads = [Load(b"x", MIB), Load(b"y", address)]
    image = images.elf(loads, MIB, notes=images.pvh_note(MIB))
    with pytest.raises(ImageError, match="which is not free RAM"):
        boot.load(save(image), memory)
