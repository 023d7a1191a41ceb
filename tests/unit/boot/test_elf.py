from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from pyvmm.boot import elf
from pyvmm.boot.image_file import ImageFile
from pyvmm.errors import ImageError
from tests.fakes import images
from tests.fakes.images import Load

Save = Callable[..., str]
MIB = 1 << 20


def parse(save: Save, data: bytes) -> elf.Elf:
    with ImageFile.open(save(data)) as file:
        return elf.parse(file)


@pytest.mark.parametrize("bits", [32, 64])
def test_segments_are_those_to_be_loaded_by_physical_address(bits: int, save: Save) -> None:
    loads = [Load(b"second", 2 * MIB, memsz=9, vaddr=7 * MIB), Load(b"first", MIB)]
    result = parse(save, images.elf(loads, MIB + 1, bits=bits, notes=images.pvh_note(5)))
    assert (result.bits, result.entry, result.start, result.end) == (
        bits,
        MIB + 1,
        MIB,
        2 * MIB + 9,
    )
    assert result.segments == (
        elf.Segment(0x2000, MIB, MIB, 5, 5),
        elf.Segment(0x1000, 7 * MIB, 2 * MIB, 6, 9),
    )


def test_a_note_is_found_by_owner_and_type(save: Save) -> None:
    notes = images.note(b"GNU", 18, b"wrong") + images.note(b"Xen", 18, b"right") + b"\1\2"
    with ImageFile.open(save(images.elf([Load(b"x", MIB)], MIB, notes=notes))) as file:
        parsed = elf.parse(file)
        assert elf.find_note(file, parsed, b"Xen", 18) == b"right"
        assert elf.find_note(file, parsed, b"Xen", 19) is None


def patched(image: bytes, at: int, form: str, *values: int) -> bytes:
    data = bytearray(image)
    struct.pack_into(form, data, at, *values)
    return bytes(data)


GOOD = images.elf([Load(b"a" * 100, MIB), Load(b"b", 2 * MIB)], MIB)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (images.elf([Load(b"x", MIB)], MIB, machine=183), "another machine"),
        (images.elf([Load(b"x", MIB)], MIB, machine=62, bits=32), "another machine"),
        (patched(GOOD, 4, "B", 3), "32 or 64 bits"),
        (patched(GOOD, 5, "B", 2), "little-endian"),
        (patched(GOOD, 16, "<H", 1), "executable"),
        (patched(GOOD, 54, "<H", 57), "program headers of 56 bytes, not 2 of 57"),
        (patched(GOOD, 56, "<H", 0), "program headers"),
        (patched(GOOD, 56, "<H", 0xFFFF), "program headers"),
        (patched(GOOD, 32, "<Q", 1 << 63), "truncated"),
        (images.elf([Load(b"x", MIB, memsz=1)], MIB)[:0x1000], "truncated"),
        (patched(GOOD, 64 + 40, "<Q", 1), "larger in the file than in memory"),
        (images.elf([Load(b"x", MIB, memsz=MIB + 1), Load(b"y", 2 * MIB)], MIB), "overlap at"),
        (images.elf([], MIB) + bytes(100), "program headers"),
        (images.elf([], MIB, notes=images.pvh_note(1)), "no segment to load"),
        (b"\x7fELF" + bytes(10), "truncated"),
        (GOOD[:40], "truncated"),
    ],
)
def test_a_bad_elf_is_refused_with_the_reason(image: bytes, reason: str, save: Save) -> None:
    with pytest.raises(ImageError, match=reason):
        parse(save, image)
