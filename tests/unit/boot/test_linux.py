from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import layout
from pyvmm.boot import image as boot
from pyvmm.boot.image import open_image
from pyvmm.boot.linux import SelfUnpacking
from pyvmm.errors import ImageError, UsageError
from pyvmm.memory import GuestMemory
from tests.fakes import images

Save = Callable[..., str]
MIB = 1 << 20
PARAMS = layout.BOOT_PARAMS
TEXT = bytes(range(1, 200))


def cmdline(memory: GuestMemory) -> bytes:
    address = memory.u32(PARAMS + 0x228)
    return memory.read(address, 4096).split(b"\0")[0]


def initrd(memory: GuestMemory) -> tuple[int, int]:
    return (
        memory.u32(PARAMS + 0x218) | memory.u32(PARAMS + 0xC0) << 32,
        memory.u32(PARAMS + 0x21C) | memory.u32(PARAMS + 0xC4) << 32,
    )


@pytest.mark.parametrize("kind", [kind for kind in images.ALL_COMPRESSIONS if kind != "lz4"])
def test_the_kernel_inside_a_bzimage_is_loaded_and_entered(
    kind: str, memory: GuestMemory, save: Save
) -> None:
    image = images.bzimage(images.vmlinux(TEXT), kind=kind)
    entry = boot.load(save(image), memory, cmdline="console=ttyS0", rsdp=0xE0000)
    assert entry == boot.Entry(rip=16 * MIB, long_mode=True, rsi=PARAMS)
    assert memory.read(16 * MIB, len(TEXT)) == TEXT
    assert memory.read(18 * MIB, 101) == b"\x11" * 100 + b"\0"
    assert cmdline(memory) == b"console=ttyS0"
    assert memory.u64(PARAMS + 0x70) == 0xE0000
    assert memory.u8(PARAMS + 0x210) == 0xFF


def test_boot_params_has_the_images_setup_header_and_nothing_of_its_code(
    memory: GuestMemory, save: Save
) -> None:
    image = images.bzimage(cmdline_size=1000)
    boot.load(save(image), memory)
    header = memory.read(PARAMS + 0x1F1, 0x26C - 0x1F1)
    ours = bytearray(image[0x1F1:0x26C])
    ours[0x210 - 0x1F1] = 0xFF
    ours[0x228 - 0x1F1 : 0x22C - 0x1F1] = struct.pack("<I", layout.CMDLINE)
    assert header == bytes(ours)
    assert memory.u8(PARAMS + 0x1EF) == 0, "the sentinel"
    assert memory.read(PARAMS + 0x26C, 0x290 - 0x26C) == bytes(0x290 - 0x26C)


def test_a_vmlinux_gets_a_header_made_for_it(memory: GuestMemory, save: Save) -> None:
    entry = boot.load(save(images.vmlinux()), memory)
    assert entry.rip == 16 * MIB
    assert memory.u16(PARAMS + 0x1FE) == 0xAA55
    assert memory.read(PARAMS + 0x202, 4) == b"HdrS"
    assert memory.u8(PARAMS + 0x211) & 1, "LOADED_HIGH"


def test_the_memory_map_is_told(memory: GuestMemory, save: Save) -> None:
    boot.load(save(images.vmlinux()), memory)
    count = memory.u8(PARAMS + 0x1E8)
    entries = [
        struct.unpack("<QQI", memory.read(PARAMS + 0x2D0 + 20 * index, 20))
        for index in range(count)
    ]
    assert [entry for entry in entries if entry[2] == 1] == [
        (0, 0xA0000, 1),
        (MIB, 63 * MIB, 1),
    ]
    assert (0xE0000, 0x20000, 2) in entries
    assert (layout.ECAM, layout.ECAM_SIZE, 2) in entries


def test_ram_above_4_gib_is_told_too(save: Save) -> None:
    memory = GuestMemory(5 << 30)
    boot.load(save(images.vmlinux()), memory)
    count = memory.u8(PARAMS + 0x1E8)
    last = memory.read(PARAMS + 0x2D0 + 20 * (count - 1), 20)
    assert struct.unpack("<QQI", last) == (4 << 30, 2 << 30, 1)
    memory.close()


def test_the_initrds_are_joined_at_4_byte_steps_at_the_top_of_memory(
    memory: GuestMemory, save: Save
) -> None:
    files = [save(b"first", "a"), save(b"second!!", "b"), save(b"3", "c")]
    boot.load(save(images.bzimage()), memory, initrds=files)
    address, size = initrd(memory)
    assert memory.read(address, size) == b"first\0\0\0second!!3\0\0\0"
    assert address == 64 * MIB - 4096


def test_the_initrd_stays_below_what_the_kernel_can_reach(memory: GuestMemory, save: Save) -> None:
    image = images.bzimage(initrd_addr_max=0x2FF_FFFF, xloadflags=1)
    boot.load(save(image), memory, initrds=[save(bytes(8191) + b"x", "initrd")])
    address, size = initrd(memory)
    assert address + size == 0x300_0000


def sparse(path: str, size: int) -> str:
    """A file of `size` bytes, zeros but for the last."""
    with open(path, "r+b") as file:
        file.seek(size - 1)
        file.write(b"x")
    return path


@pytest.mark.parametrize(("size", "end"), [(MIB, 2 << 30), (2 << 30, 3 << 30), (3 << 30, 8 << 30)])
def test_a_kernel_that_reaches_all_memory_gets_the_initrd_only_as_high_as_needed(
    size: int, end: int, save: Save
) -> None:
    memory = GuestMemory(7 << 30)
    boot.load(save(images.bzimage()), memory, initrds=[sparse(save(b"x", "initrd"), size)])
    assert initrd(memory) == (end - size, size)
    assert memory.u8(end - 1) == ord("x")
    memory.close()


def test_an_initrd_that_does_not_fit_is_refused(save: Save) -> None:
    memory = GuestMemory(32 * MIB)
    large = sparse(save(b"x", "large"), 14 * MIB)
    with pytest.raises(ImageError, match=r"large \(14 MiB\) must fit .* ends at 19 MiB; .* 32 MiB"):
        boot.load(save(images.vmlinux()), memory, initrds=[large])
    memory.close()


@pytest.mark.parametrize("bad", ["missing", "empty", "directory"])
def test_a_bad_initrd_is_named(bad: str, memory: GuestMemory, save: Save, tmp_path: Path) -> None:
    path = {"missing": f"{tmp_path}/none", "directory": str(tmp_path)}.get(bad) or save(b"", "none")
    with pytest.raises(ImageError, match=path):
        boot.load(save(images.vmlinux()), memory, initrds=[path])


def test_the_command_line_may_be_as_long_as_the_kernel_says_and_no_longer(
    memory: GuestMemory, save: Save
) -> None:
    path = save(images.bzimage(cmdline_size=10))
    boot.load(path, memory, cmdline="x" * 10)
    assert cmdline(memory) == b"x" * 10
    with pytest.raises(UsageError, match="at most 10 bytes long, not 11"):
        boot.load(path, memory, cmdline="x" * 11)


def test_a_huge_declared_command_line_is_still_bounded(memory: GuestMemory, save: Save) -> None:
    path = save(images.bzimage(cmdline_size=0xFFFF_FFFF))
    with pytest.raises(UsageError, match="too much room"):
        boot.load(path, memory, cmdline="x" * layout.CMDLINE_MAX)


def test_a_command_line_with_nul_is_refused(memory: GuestMemory, save: Save) -> None:
    with pytest.raises(UsageError, match="NUL"):
        boot.load(save(images.vmlinux()), memory, cmdline="a\0b")


def test_kaslr_loads_the_image_itself_and_enters_it_at_its_64_bit_entry(
    memory: GuestMemory, save: Save
) -> None:
    image = images.bzimage()
    entry = boot.load(save(image), memory, kaslr=True)
    assert entry == boot.Entry(rip=16 * MIB + 0x200, long_mode=True, rsi=PARAMS)
    code = image[5 * 512 :]
    assert memory.read(16 * MIB, len(code)) == code


@pytest.mark.parametrize("packed", [b"unknown compression", b"\x89LZO\0\r\n\x1a\n" + bytes(90)])
def test_a_payload_that_the_host_cannot_unpack_is_left_to_the_guest(
    packed: bytes, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lzo", None)
    image = open_image(save(images.bzimage(packed=packed)))
    image.file.close()
    assert isinstance(image, SelfUnpacking)


def test_a_self_unpacking_kernel_keeps_the_initrd_out_of_its_work_space(save: Save) -> None:
    memory = GuestMemory(32 * MIB)
    path = save(images.bzimage(init_size=16 * MIB - 4096))
    boot.load(path, memory, kaslr=True, initrds=[save(b"x" * 4096, "fits")])
    memory.discard()
    with pytest.raises(ImageError, match="must fit"):
        boot.load(path, memory, kaslr=True, initrds=[save(b"x" * 4097, "does not")])
    memory.close()


@pytest.mark.parametrize("kaslr", [True, False])
def test_a_relocatable_kernel_moves_where_it_fits(kaslr: bool, save: Save) -> None:
    memory = GuestMemory(12 * MIB)
    path = save(images.bzimage(images.vmlinux(TEXT), init_size=10 * MIB))
    entry = boot.load(path, memory, kaslr=kaslr)
    assert entry.rip == 2 * MIB + (0x200 if kaslr else 0)
    if not kaslr:
        assert memory.read(2 * MIB, len(TEXT)) == TEXT
        assert memory.read(4 * MIB, 100) == b"\x11" * 100
    memory.close()


def test_a_kernel_that_must_not_move_says_how_much_memory_it_needs(save: Save) -> None:
    memory = GuestMemory(12 * MIB)
    for image in (images.bzimage(relocatable=False), images.vmlinux()):
        with pytest.raises(ImageError, match="needs at least 19 MiB of memory, the guest has 12"):
            boot.load(save(image), memory)
    memory.close()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (images.bzimage(version=0x20B), "boot protocol 2.12 or later .*, not 2.11"),
        (images.bzimage(xloadflags=0), "must be a 64-bit kernel"),
        (images.bzimage(alignment=3), "alignment"),
        (images.bzimage()[:-400], "is truncated"),
        (images.bzimage()[:0x250], "is truncated"),
        (images.bzimage(packed=b"\x1f\x8b\x08" + b"x" * 100), "damaged gzip data"),
        (images.bzimage(b"no kernel at all"), "no ELF"),
        (images.bzimage(images.elf([images.Load(b"x", MIB)], MIB)), "something else"),
        (
            images.bzimage(packed=images.compress("xz", images.vmlinux()) + bytes(4)),
            "unpacks to .* bytes, not to 0",
        ),
    ],
)
def test_a_bad_bzimage_is_refused_with_the_reason(
    image: bytes, reason: str, memory: GuestMemory, save: Save
) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        boot.load(save(image, "bad-kernel"), memory)
    assert "bad-kernel" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_zstd_payload_is_found_by_its_length(memory: GuestMemory, save: Save) -> None:
    inner = images.vmlinux() + bytes(range(256)) * 2000
    packed = images.compress("zstd", inner)
    image = images.bzimage(packed=packed[:-50] + struct.pack("<I", len(inner)))
    with pytest.raises(ImageError, match="damaged"):
        boot.load(save(image), memory)
