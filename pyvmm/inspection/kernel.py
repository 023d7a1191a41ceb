"""A Linux kernel found in guest memory, through the VMCOREINFO note that it leaves for kdump.

The note is text: the addresses of a few symbols, offsets of structure members, and what is needed
to turn the kernel's virtual addresses into guest-physical ones
(Linux, Documentation/admin-guide/kdump/vmcoreinfo.rst). The kernel writes it late in its start, as
a subsys initcall. All of it is the guest's word: it may be wrong, so every use is checked.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

from pyvmm.errors import MemoryAccessError
from pyvmm.layout import MIB, PAGE
from pyvmm.memory import GuestMemory

# An ELF note is three u32, the name padded to 4, then the text; Linux, kernel/crash_core.c.
NOTE = struct.Struct("<III")
NOTE_NAME = b"VMCOREINFO\0\0"
NOTE_SIZE_MAX = PAGE  # VMCOREINFO_BYTES
_ENTRY = re.compile(r"^([A-Z-]+)(?:\(([\w.]+)\))?=(.*)$", re.MULTILINE)

BANNER = b"Linux version "  # init/version.c, linux_banner
RELEASE_MAX = 64  # struct new_utsname
TOP_TABLES = (
    "init_top_pgt",
    "swapper_pg_dir",
    "init_level4_pgt",
)  # what it was called, newest first

KERNEL_MAP = 0xFFFF_FFFF_8000_0000  # __START_KERNEL_map; Linux, x86/x86_64/mm.rst
LINKED_AT = KERNEL_MAP + 16 * MIB  # _stext without KASLR: CONFIG_PHYSICAL_START of all but a few
ADDRESS_SPACE = 1 << 64

# Page tables, Intel SDM 3A §4.5: 512 entries of 8 bytes, 4 or 5 levels.
ENTRY_SIZE = 8
LEVEL_BITS = 9
PAGE_SHIFT = 12
PRESENT = 1 << 0
LARGE = 1 << 7
LARGE_LEVELS = (1, 2)  # 2 MiB and 1 GiB pages
FRAME = 0x000F_FFFF_FFFF_F000

CANDIDATES_MAX = 64  # finds that are looked at: a guest may fill its memory with them
_CHUNK = MIB


def search(memory: GuestMemory, needle: bytes) -> Iterator[int]:
    """The guest-physical addresses of `needle`, ascending, in the pages that the host allocated.

    At most CANDIDATES_MAX. Any thread. A guest that runs may change memory meanwhile; then some
    may be missed.
    """
    return islice(_search(memory, needle), CANDIDATES_MAX)


def _search(memory: GuestMemory, needle: bytes) -> Iterator[int]:
    overlap = len(needle) - 1
    for start, length in memory.touched():
        for at in range(start, start + length, _CHUNK):
            chunk = memory.read(at, min(_CHUNK + overlap, start + length - at))
            found = chunk.find(needle)
            while found >= 0:
                yield at + found
                found = chunk.find(needle, found + 1)


class GuestKernel:
    """A running kernel's own description, and its memory by virtual address.

    Methods raise LookupError for what the note does not have, ValueError for what is no number,
    MemoryAccessError for memory that is not mapped. Any thread.
    """

    def __init__(self, memory: GuestMemory, note: str, place: int = 0) -> None:
        """`place` is the note's guest-physical address."""
        self._memory = memory
        self.note = note
        self.place = place
        self._entries: dict[tuple[str, str], str] = {
            (kind, name): value for kind, name, value in _ENTRY.findall(note)
        }
        self._pages: dict[int, int] = {}
        self.levels = 5 if self.number("pgtable_l5_enabled") else 4
        self._encrypted = self.number("sme_mask")
        tops = [name for name in TOP_TABLES if ("SYMBOL", name) in self._entries]
        self._top = self.symbol(tops[0])
        self._root = self._top - KERNEL_MAP + self.number("phys_base")

    def symbol(self, name: str) -> int:
        """A symbol's virtual address."""
        address = int(self._entries["SYMBOL", name], 16)
        if not 0 <= address < ADDRESS_SPACE:
            raise ValueError(f"{name} must lie in the address space, not at {address:#x}")
        return address

    def offset(self, member: str) -> int:
        """The offset in bytes of `structure.member`."""
        return int(self._entries["OFFSET", member])

    def size(self, structure: str) -> int:
        """The size of a structure in bytes."""
        return int(self._entries["SIZE", structure])

    def number(self, name: str) -> int:
        """A number that the kernel exports; 0 if this one does not."""
        return int(self._entries.get(("NUMBER", name), 0))

    @property
    def release(self) -> str:
        """What uname -r shows; the guest's word: make it printable."""
        return self._entries.get(("OSRELEASE", ""), "")

    @property
    def build_id(self) -> str:
        """The image's build id, in hexadecimal; empty if the kernel does not tell."""
        return self._entries.get(("BUILD-ID", ""), "")

    @property
    def alive(self) -> bool:
        """Whether its top page table leads to itself: those of a kernel that is gone do not."""
        try:
            return self._walk(self._top) == self._root
        except MemoryAccessError:
            return False

    @property
    def kaslr_offset(self) -> int:
        """By how many bytes the kernel lies above the addresses that it was linked for."""
        return int(self._entries.get(("KERNELOFFSET", ""), "0"), 16)

    def read(self, address: int, length: int) -> bytes:
        """A copy of `length` bytes at a virtual address."""
        pieces = []
        while length > 0:
            piece = min(length, PAGE - address % PAGE)
            pieces.append(self._memory.read(self.translate(address), piece))
            address += piece
            length -= piece
        return b"".join(pieces)

    def u32(self, address: int) -> int:
        """The 32-bit integer at a virtual address."""
        return int.from_bytes(self.read(address, 4), "little")

    def u64(self, address: int) -> int:
        """The 64-bit integer at a virtual address."""
        return int.from_bytes(self.read(address, 8), "little")

    def translate(self, address: int) -> int:
        """The guest-physical address of a virtual one."""
        page = address // PAGE
        if page not in self._pages:
            self._pages[page] = self._walk(page * PAGE)
        return self._pages[page] + address % PAGE

    def _walk(self, address: int) -> int:
        """SDM 3A §4.5.4, from the kernel's own top table."""
        table = self._root
        for level in reversed(range(self.levels)):
            shift = PAGE_SHIFT + LEVEL_BITS * level
            index = address >> shift & (1 << LEVEL_BITS) - 1
            entry = self._memory.u64(table + index * ENTRY_SIZE)
            if not entry & PRESENT:
                break
            table = entry & FRAME & ~self._encrypted
            if level == 0 or (entry & LARGE and level in LARGE_LEVELS):
                within = (1 << shift) - 1
                return table & ~within | address & within
        raise MemoryAccessError(address, PAGE)


def find_kernels(memory: GuestMemory) -> Iterator[GuestKernel]:
    """Every kernel that left a plausible note: usually one, more after a reset or kexec."""
    for name in search(memory, NOTE_NAME + b"OSRELEASE="):
        text = name + len(NOTE_NAME)
        try:
            _, size, _ = NOTE.unpack(memory.read(name - NOTE.size, NOTE.size))
            note = memory.read(text, min(size, NOTE_SIZE_MAX))
            yield GuestKernel(memory, note.decode("ascii", "replace"), text)
        except (LookupError, ValueError, MemoryAccessError):
            continue


def describe(memory: GuestMemory, address: Callable[[str], int]) -> GuestKernel | None:
    """A kernel without a note, whose symbols have these addresses; None if it is not there.

    `address` raises LookupError. Where the image lies is told by its own phys_base, which is found
    through its banner.
    """
    try:
        banner, phys_base = address("linux_banner"), address("phys_base")
        levels, start = address("__pgtable_l5_enabled"), address("_stext")
    except LookupError:
        return None
    for found in search(memory, BANNER):
        moved = found - (banner - KERNEL_MAP)
        with suppress(MemoryAccessError):
            if memory.u64(phys_base - KERNEL_MAP + moved) != moved % ADDRESS_SPACE:
                continue
            text = memory.read(found + len(BANNER), RELEASE_MAX).decode("ascii", "replace")
            lines = [f"OSRELEASE={text.split()[0]}", f"NUMBER(phys_base)={moved}"]
            lines.append(f"NUMBER(pgtable_l5_enabled)={memory.u32(levels - KERNEL_MAP + moved)}")
            lines.append(f"KERNELOFFSET={start - LINKED_AT:x}")
            for name in ("_stext", *TOP_TABLES):
                with suppress(LookupError):
                    lines.append(f"SYMBOL({name})={address(name):x}")
            return GuestKernel(memory, "\n".join(lines))
    return None
