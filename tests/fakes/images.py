"""Kernel images of a few KiB, built from bytes as the specifications say."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from typing import NamedTuple

import lz4.block
import lz4.frame
import zstandard

KERNEL_MAP = 0xFFFF_FFFF_8000_0000
MIB = 1 << 20
ALL_COMPRESSIONS = ("gzip", "bzip2", "xz", "lzma", "zstd", "lz4", "lz4 legacy")


class Load(NamedTuple):
    """A segment: `data` at physical `paddr`, `memsz` bytes (its own size if 0), at `vaddr`."""

    data: bytes
    paddr: int
    memsz: int = 0
    vaddr: int | None = None


def elf(
    loads: list[Load],
    entry: int,
    *,
    bits: int = 64,
    notes: bytes = b"",
    machine: int | None = None,
    first_offset: int = 0x1000,
) -> bytes:
    """An executable whose segments lie in the file from `first_offset` on, 4 KiB-aligned."""
    count = len(loads) + bool(notes)
    headers, body, offset = b"", b"", first_offset
    pieces = [(1, load, load.data) for load in loads]
    if notes:
        pieces.append((4, Load(notes, 0), notes))
    for kind, load, data in pieces:
        vaddr = load.paddr if load.vaddr is None else load.vaddr
        memsz = load.memsz or len(data)
        if bits == 64:
            fields = (kind, 7, offset, vaddr, load.paddr, len(data), memsz, 0x1000)
            headers += struct.pack("<IIQQQQQQ", *fields)
        else:
            fields = (kind, offset, vaddr, load.paddr, len(data), memsz, 7, 0x1000)
            headers += struct.pack("<IIIIIIII", *fields)
        padded = -(-len(data) // 0x1000) * 0x1000
        body += data.ljust(padded, b"\0")
        offset += padded
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9)
    form, size = ("<HHIQQQIHHHHHH", 64) if bits == 64 else ("<HHIIIIIHHHHHH", 52)
    if machine is None:
        machine = 62 if bits == 64 else 3
    phentsize = 56 if bits == 64 else 32
    header = struct.pack(form, 2, machine, 1, entry, size, 0, 0, size, phentsize, count, 0, 0, 0)
    return (ident + header + headers).ljust(first_offset, b"\0") + body


def note(owner: bytes, kind: int, descriptor: bytes) -> bytes:
    """One ELF note."""
    name = owner + b"\0"
    return (
        struct.pack("<III", len(name), len(descriptor), kind)
        + name.ljust(-(-len(name) // 4) * 4, b"\0")
        + descriptor.ljust(-(-len(descriptor) // 4) * 4, b"\0")
    )


def pvh_note(entry: int) -> bytes:
    """XEN_ELFNOTE_PHYS32_ENTRY."""
    return note(b"Xen", 18, struct.pack("<Q", entry))


def vmlinux(text: bytes = b"\xf4" * 64, *, at: int = 16 * MIB, pvh: bool = True) -> bytes:
    """What a Linux kernel looks like to a loader: linked high, entered at a physical address."""
    text = text + b"Linux version 6.1.0-test (builder) #1\n\0"
    data = b"\x11" * 100
    second = at + 2 * MIB
    loads = [
        Load(text, at, vaddr=KERNEL_MAP + at),
        Load(data, second, memsz=1 * MIB, vaddr=KERNEL_MAP + second),
    ]
    return elf(loads, at, notes=pvh_note(at + 16) if pvh else b"")


def compress(kind: str, data: bytes) -> bytes:
    """`data` compressed as a file."""
    if kind == "lz4 legacy":
        blocks = b""
        for start in range(0, len(data), 8 << 20):
            block = lz4.block.compress(data[start : start + (8 << 20)], store_size=False)
            blocks += struct.pack("<I", len(block)) + block
        return b"\x02\x21\x4c\x18" + blocks
    if kind == "xz":
        filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
        return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)
    if kind == "lzma":
        return lzma.compress(data, lzma.FORMAT_ALONE)
    functions = {
        "gzip": gzip.compress,
        "bzip2": bz2.compress,
        "zstd": zstandard.ZstdCompressor(write_content_size=False).compress,
        "lz4": lz4.frame.compress,
    }
    return functions[kind](data)


def bzimage(
    payload: bytes | None = None,
    *,
    kind: str = "gzip",
    version: int = 0x20F,
    xloadflags: int = 0x3,
    relocatable: bool = True,
    alignment: int = 2 * MIB,
    cmdline_size: int = 2047,
    init_size: int = 8 * MIB,
    pref_address: int = 16 * MIB,
    initrd_addr_max: int = 0x7FFF_FFFF,
    packed: bytes | None = None,
) -> bytes:
    """A bzImage with four setup sectors; `packed` is the payload where it is not `kind`'s."""
    inner = vmlinux() if payload is None else payload
    if packed is None:
        packed = compress(kind, inner)
        if kind != "gzip":
            packed += struct.pack("<I", len(inner))
    code = b"\x90" * 0x300 + packed
    code = code.ljust(-(-len(code) // 16) * 16, b"\0")
    setup = bytearray(5 * 512)
    setup[0x1EF] = 0xFF  # the sentinel, and code around: none of it may reach boot_params
    setup[0x270:0x290] = b"\xcc" * 32
    for offset, form, value in (
        (0x1F1, "<B", 4),
        (0x1F4, "<I", len(code) // 16),
        (0x1FE, "<H", 0xAA55),
        (0x200, "<H", 0x6AEB),
        (0x202, "<4s", b"HdrS"),
        (0x206, "<H", version),
        (0x20E, "<H", 0x400),
        (0x211, "<B", 1),
        (0x22C, "<I", initrd_addr_max),
        (0x230, "<I", alignment),
        (0x234, "<B", relocatable),
        (0x236, "<H", xloadflags),
        (0x238, "<I", cmdline_size),
        (0x248, "<I", 0x300),
        (0x24C, "<I", len(packed)),
        (0x258, "<Q", pref_address),
        (0x260, "<I", init_size),
    ):
        struct.pack_into(form, setup, offset, value)
    text = b"6.1.0-test (builder) #1\0"
    setup[0x600 : 0x600 + len(text)] = text
    return bytes(setup) + code


def multiboot_header(flags: int, *addresses: int) -> bytes:
    """A Multiboot 1 header, with the five address fields if they are given."""
    header = struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFF_FFFF)
    return header + struct.pack(f"<{len(addresses)}I", *addresses)
