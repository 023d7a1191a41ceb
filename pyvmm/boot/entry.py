"""How a boot protocol wants the first vCPU to start, and the tables that it needs for that."""

import struct

from pyvmm import layout
from pyvmm.memory import GuestMemory
from pyvmm.value import Value

# Selectors of the GDT at layout.GDT; x86/boot.rst, "64-bit Boot Protocol": __BOOT_CS, __BOOT_DS
CODE_SELECTOR = 0x10
DATA_SELECTOR = 0x18
GDT_SIZE = 0x20  # bytes

# Segment descriptors: base 0, limit 4 GiB, present, ring 0, accessed (Intel SDM 3A §3.4.5).
_CODE_64 = 0x00AF_9B00_0000_FFFF
_CODE_32 = 0x00CF_9B00_0000_FFFF
_DATA = 0x00CF_9300_0000_FFFF

# Page table entries (Intel SDM 3A §4.5).
_PRESENT_WRITABLE = 0x3
_LARGE_PAGE = 0x80
_PAGE_SIZE = 2 * layout.MIB
_DIRECTORIES = 4  # of 1 GiB each


class Entry(Value):
    """The first vCPU's state at the kernel's entry; registers not named here are zero.

    `long_mode`: 64-bit code with paging, the first 4 GiB mapped to themselves (x86/boot.rst,
    "64-bit BOOT PROTOCOL"); otherwise 32-bit protected mode, flat segments, no paging
    (Multiboot 0.6.96 §3.2, PVH).
    """

    rip: int
    long_mode: bool
    rax: int = 0
    rbx: int = 0
    rsi: int = 0


def write_tables(memory: GuestMemory, entry: Entry) -> None:
    """Write the GDT to layout.GDT, and for long mode the page tables to layout.PAGE_TABLES."""
    code = _CODE_64 if entry.long_mode else _CODE_32
    memory.write(layout.GDT, struct.pack("<4Q", 0, 0, code, _DATA))
    if entry.long_mode:
        _write_page_tables(memory)


def _write_page_tables(memory: GuestMemory) -> None:
    """PML4, PDPT and four page directories, which map the first 4 GiB to themselves."""
    pdpt = layout.PAGE_TABLES + layout.PAGE
    directories = pdpt + layout.PAGE
    memory.write_u64(layout.PAGE_TABLES, pdpt | _PRESENT_WRITABLE)
    for index in range(_DIRECTORIES):
        directory = directories + index * layout.PAGE
        memory.write_u64(pdpt + 8 * index, directory | _PRESENT_WRITABLE)
    pages = range(_PRESENT_WRITABLE | _LARGE_PAGE, _DIRECTORIES * layout.GIB, _PAGE_SIZE)
    memory.write(directories, struct.pack(f"<{len(pages)}Q", *pages))
