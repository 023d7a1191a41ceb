from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from pyvmm.boot import image as boot
from pyvmm.errors import ImageError
from pyvmm.memory import GuestMemory
from tests.fakes import images
from tests.fakes.images import Load, multiboot_header

Save = Callable[..., str]
MIB = 1 << 20


def elf32(flags: int = 0, **options: int) -> bytes:
    code = multiboot_header(flags) + b"code"
    return images.elf([Load(code, MIB)], MIB + 12, bits=32, **options)


class Info:
    """The Multiboot information as a kernel sees it."""

    def __init__(self, memory: GuestMemory, entry: boot.Entry) -> None:
        assert entry.rax == 0x2BADB002
        assert not entry.long_mode
        self.memory = memory
        self.at = entry.rbx
        self.flags = memory.u32(self.at)

    def u32(self, offset: int) -> int:
        return self.memory.u32(self.at + offset)

    def string(self, address: int) -> bytes:
        return self.memory.read(address, 1024).split(b"\0")[0]

    def modules(self) -> list[tuple[int, bytes, bytes]]:
        found = []
        for index in range(self.u32(20)):
            start, end, name, _ = struct.unpack(
                "<4I", self.memory.read(self.u32(24) + 16 * index, 16)
            )
            found.append((start, self.memory.read(start, end - start), self.string(name)))
        return found


def test_a_32_bit_elf_is_loaded_by_its_segments(memory: GuestMemory, save: Save) -> None:
    path = save(elf32())
    entry = boot.load(path, memory, cmdline="a b")
    assert entry.rip == MIB + 12
    assert memory.read(MIB + 12, 4) == b"code"
    info = Info(memory, entry)
    assert info.flags == 0x24D
    assert (info.u32(4), info.u32(8)) == (640, 63 * 1024)
    assert info.string(info.u32(16)) == path.encode() + b" a b"
    assert info.string(info.u32(64)) == b"pyvmm"


def test_an_empty_command_line_is_the_path_alone(memory: GuestMemory, save: Save) -> None:
    path = save(elf32())
    info = Info(memory, boot.load(path, memory))
    assert info.string(info.u32(16)) == path.encode()


def test_the_memory_map_can_be_walked_by_its_sizes(memory: GuestMemory, save: Save) -> None:
    info = Info(memory, boot.load(save(elf32()), memory))
    at, end = info.u32(48), info.u32(48) + info.u32(44)
    ram = []
    while at < end:
        size, base, length, kind = struct.unpack("<IQQI", memory.read(at, 24))
        assert size == 20
        if kind == 1:
            ram.append((base, length))
        at += size + 4
    assert at == end
    assert ram == [(0, 0xA0000), (MIB, 63 * MIB)]


def test_each_initrd_is_a_module_named_by_its_path(memory: GuestMemory, save: Save) -> None:
    paths = [save(b"one" * 2000, "one"), save(b"2", "two")]
    info = Info(memory, boot.load(save(elf32(flags=1)), memory, initrds=paths))
    (first, data, name), (second, data2, name2) = info.modules()
    assert (data, name, data2, name2) == (b"one" * 2000, paths[0].encode(), b"2", paths[1].encode())
    assert first % 4096 == second % 4096 == 0
    assert MIB + 16 <= first < first + 6000 <= second


def test_a_module_that_does_not_fit_is_refused(save: Save) -> None:
    memory = GuestMemory(2 * MIB)
    module = save(bytes(MIB), "module")
    with pytest.raises(ImageError, match="module needs at least 3 MiB of memory, the guest has 2"):
        boot.load(save(elf32()), memory, initrds=[module])
    memory.close()


def test_a_virtual_entry_point_is_translated(memory: GuestMemory, save: Save) -> None:
    code = multiboot_header(0) + b"code"
    image = images.elf([Load(code, MIB, vaddr=0xC010_0000)], 0xC010_000C, bits=32)
    assert boot.load(save(image), memory).rip == MIB + 12


def flat(
    before: int, load_end: int = 0, bss_end: int = 0, *, load: int = MIB, entry: int = MIB
) -> bytes:
    """Four bytes that are not loaded, `before` bytes that are, the header, and a tail."""
    header = multiboot_header(1 << 16, load + before, load, load_end, bss_end, entry)
    return b"skip" + b"b" * before + header + b"tail"


def test_a_flat_image_is_loaded_by_the_addresses_in_its_header(
    memory: GuestMemory, save: Save
) -> None:
    image = flat(8)
    assert boot.load(save(image), memory).rip == MIB
    assert memory.read(MIB, len(image) - 4) == image[4:]
    assert memory.read(MIB - 4, 4) == bytes(4)


def test_a_flat_image_is_loaded_up_to_load_end_and_modules_lie_after_bss_end(
    memory: GuestMemory, save: Save
) -> None:
    path = save(flat(8, load_end=MIB + 10, bss_end=2 * MIB + 1))
    info = Info(memory, boot.load(path, memory, initrds=[save(b"m", "module")]))
    assert memory.read(MIB + 8, 4) == b"\x02\xb0\0\0"
    assert info.modules()[0][0] == 2 * MIB + 4096


def test_the_addresses_win_over_an_elf_header_also_a_64_bit_one(
    memory: GuestMemory, save: Save
) -> None:
    header = multiboot_header(1 << 16, 2 * MIB, 2 * MIB, 0, 0, 2 * MIB)
    image = images.elf([Load(header, MIB)], MIB)
    assert boot.load(save(image), memory).rip == 2 * MIB
    assert memory.u32(2 * MIB) == 0x1BADB002


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (elf32(flags=0x8), r"unknown Multiboot features \(0x8\)"),
        (images.elf([Load(multiboot_header(0), MIB)], MIB), "must be a 32-bit ELF"),
        (multiboot_header(0) + bytes(50), "must be a 32-bit ELF"),
        (multiboot_header(1 << 16), "is truncated"),
        (flat(8, load_end=MIB - 1), "must load a part of itself"),
        (flat(8, load_end=MIB + 4096), "must load a part of itself"),
        (flat(8, entry=3 * MIB), "entry at 0x300000, outside"),
        (flat(8, load=0x7000, entry=0x7000), "not free RAM"),
        (flat(8, load=0xFFFF_FF00, entry=0xFFFF_FF00), "not free RAM"),
        (flat(8, bss_end=0xB000_0000), "needs at least 2816 MiB"),
        (
            b"skip" + multiboot_header(1 << 16, MIB + 8, MIB, 0, 0, MIB),
            "no further from it than in the file",
        ),
        (b"skip" + multiboot_header(1 << 16, MIB - 4, MIB, 0, 0, MIB), "at or above its load"),
        (images.elf([Load(multiboot_header(0), MIB)], 0, bits=32), "entry at 0x0, outside"),
    ],
)
def test_a_bad_multiboot_image_is_refused_with_the_reason(
    image: bytes, reason: str, memory: GuestMemory, save: Save
) -> None:
    with pytest.raises(ImageError, match=reason):
        boot.load(save(image), memory)


def test_the_header_counts_only_in_the_first_8_kib_aligned_and_with_its_checksum(
    memory: GuestMemory, save: Save
) -> None:
    header = multiboot_header(1 << 16, MIB, MIB, 0, 0, MIB)
    boot.load(save(bytes(8192 - 12) + header), memory)
    broken = header[:8] + b"\0\0\0\0" + header[12:]
    for image in (bytes(8192) + header, b"x" + header, broken):
        with pytest.raises(ImageError, match="no bzImage, ELF or Multiboot image"):
            boot.load(save(image), memory)
