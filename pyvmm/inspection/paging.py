"""A vCPU's page tables: what a virtual address is, level by level, and memory by such addresses.

Only special registers and guest memory are read. A walk has as many steps as there are levels, so
that no table, however hostile, makes it longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyvmm.errors import MemoryAccessError, UnmappedError
from pyvmm.inspection import paging_spec as spec
from pyvmm.memory import GuestMemory
from pyvmm.typed import Any
from pyvmm.value import Value


class Step(Value):
    """One entry that a walk read: its level's name, where it lies, its value, and its flags."""

    level: str
    address: int
    entry: int
    flags: Sequence[str]


class Walk(Value):
    """What the walk for a virtual address found.

    `physical` is None if it is not mapped, and `problem` says at which level that shows.
    `page_size` is that of its page in bytes, 0 without paging.
    """

    virtual: int
    steps: Sequence[Step]
    physical: int | None
    page_size: int
    problem: str


def mode_of(sregs: Any) -> spec.Mode:
    """The paging mode that a struct kvm_sregs makes, SDM 3A §4.1.1."""
    if not sregs.cr0 & spec.CR0_PG:
        return spec.NONE
    if not sregs.cr4 & spec.CR4_PAE:
        return spec.LEGACY
    if not sregs.efer & spec.EFER_LMA:
        return spec.PAE
    return spec.FIVE if sregs.cr4 & spec.CR4_LA57 else spec.FOUR


class VirtualMemory:
    """Guest memory as the page tables of one vCPU show it. Any thread.

    `sregs` is its struct kvm_sregs, `physical_bits` the width of physical addresses. Accesses look
    at mappings, not at rights, as a debugger's do; they raise UnmappedError for an address that
    has no mapping, and MemoryAccessError for one that is mapped to no RAM.
    """

    def __init__(self, memory: GuestMemory, sregs: Any, physical_bits: int = 52) -> None:
        self.mode = mode_of(sregs)
        self._memory = memory
        self._root = sregs.cr3 & self.mode.root
        self._large = self.mode.entry_size == 8 or bool(sregs.cr4 & spec.CR4_PSE)
        self._frame = spec.FRAME & (1 << physical_bits) - 1
        self._reserved = spec.FRAME & ~self._frame
        if self.mode is spec.PAE:
            self._reserved |= spec.PAE_RESERVED
        high = max(min(physical_bits, spec.PSE36_WIDTH) - spec.PSE36_HIGH, 0)
        self._pse36_reserved = spec.PSE36_RESERVED & -1 << spec.PSE36_SHIFT + high
        if not sregs.efer & spec.EFER_NXE:
            self._reserved |= spec.NO_EXECUTE

    def walk(self, virtual: int) -> Walk:
        """Translate an address, with each entry on the way."""
        steps: list[Step] = []
        physical, page_size, problem = self._walk(virtual, steps)
        return Walk(virtual, steps, physical, page_size, problem)

    def _walk(self, virtual: int, steps: list[Step]) -> tuple[int | None, int, str]:
        mode = self.mode
        if not self._canonical(virtual):
            return None, 0, f"it is not an address of {mode.bits} bits"
        if not mode.levels:
            return virtual, 0, ""
        table = self._root
        for level in mode.levels:
            at = table + (virtual >> level.shift & (1 << level.bits) - 1) * mode.entry_size
            try:
                entry = int.from_bytes(self._memory.read(at, mode.entry_size), "little")
            except MemoryAccessError:
                return None, 0, f"its {level.name} would lie at {at:#x}, which is not RAM"
            large = level.large and self._large and bool(entry & spec.LARGE)
            steps.append(Step(level.name, at, entry, _flags(entry)))
            if not entry & spec.PRESENT:
                return None, 0, f"its {level.name} at {at:#x} is not present ({entry:#x})"
            if reserved := self._reserved_bits(level, entry, large):
                words = f"its {level.name} at {at:#x} has reserved bits set ({reserved:#x})"
                return None, 0, words
            table = entry & self._frame
            if large:
                break
        size = 1 << level.shift
        if large and mode.entry_size == 4:
            table |= (entry >> spec.PSE36_SHIFT & spec.PSE36) << spec.PSE36_HIGH
        return table & -size | virtual & size - 1, size, ""

    def _canonical(self, virtual: int) -> bool:
        """Whether all bits that are not translated are as the highest that is, SDM 1 §3.3.7.1."""
        bits = self.mode.bits
        top = virtual >> bits - 1
        return top >> 1 == 0 if bits == 32 else top in (0, (1 << 65 - bits) - 1)

    def _reserved_bits(self, level: spec.Level, entry: int, large: bool) -> int:
        """Those set in a present entry, for which a CPU would fault; SDM 3A §4.7."""
        if self.mode.entry_size == 4:
            return entry & self._pse36_reserved if large else 0
        reserved = self._reserved
        if self.mode is spec.PAE and level is self.mode.levels[0]:
            reserved |= spec.PAE_PDPTE_RESERVED | spec.NO_EXECUTE
        elif large:
            reserved |= (1 << level.shift) - 1 & spec.FRAME & ~spec.LARGE_PAT
        elif level is not self.mode.levels[-1]:
            reserved |= 0 if level.large else spec.LARGE
        return entry & reserved

    def translate(self, virtual: int) -> int:
        """The guest-physical address. Raises UnmappedError."""
        walk = self.walk(virtual)
        if walk.physical is None:
            raise UnmappedError(virtual, walk.problem)
        return walk.physical

    def pieces(self, virtual: int, length: int) -> Iterator[tuple[int, int]]:
        """(guest-physical address, length) of the pages' parts of it. Raises UnmappedError."""
        while length > 0:
            piece = min(length, spec.PAGE - virtual % spec.PAGE)
            yield self.translate(virtual), piece
            virtual += piece
            length -= piece

    def read(self, virtual: int, length: int) -> bytes:
        """A copy of `length` bytes."""
        return b"".join(self._memory.read(*piece) for piece in self.pieces(virtual, length))

    def write(self, virtual: int, data: bytes) -> None:
        """Copy `data` there, all or nothing."""
        pieces = list(self.pieces(virtual, len(data)))
        for address, length in pieces:
            self._memory.region_at(address, length)
        at = 0
        for address, length in pieces:
            self._memory.write(address, data[at : at + length])
            at += length


def _flags(entry: int) -> tuple[str, ...]:
    return tuple(name for bit, name in spec.FLAGS.items() if entry >> bit & 1)
