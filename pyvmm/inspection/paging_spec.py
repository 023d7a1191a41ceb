"""Facts of x86 paging. Source: Intel SDM volume 3A (SDM), chapter 4."""

from __future__ import annotations

from pyvmm.value import Value

# §4.1.1: which mode it is.
CR0_PG = 1 << 31
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_LA57 = 1 << 12
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11

# §4.3 to §4.5, an entry of any level.
PRESENT = 1 << 0
LARGE = 1 << 7  # where a level has large pages; in a PTE it is the page's PAT bit
LARGE_PAT = 1 << 12  # of an entry that maps a large page
NO_EXECUTE = 1 << 63
FLAGS = {
    0: "present", 1: "writable", 2: "user", 3: "write-through", 4: "cache disabled",
    5: "accessed", 6: "dirty", 7: "large", 8: "global", 63: "no execute",
}  # fmt: skip
FRAME = 0x000F_FFFF_FFFF_F000  # §4.5, table 4-20: what is above the physical width is reserved
PAGE = 1 << 12


class Level(Value):
    """One level of a walk: the entry's name, the lowest bit and the number of bits of the linear
    address that choose it, and whether it may map a large page."""

    name: str
    shift: int
    bits: int
    large: bool


class Mode(Value):
    """A paging mode: its levels from the top, bytes of an entry, bits of a linear address, and the
    bits of CR3 that hold the address of the top table."""

    name: str
    levels: tuple[Level, ...]
    entry_size: int
    bits: int
    root: int


_PTE = Level("PTE", 12, 9, False)
_PDE = Level("PDE", 21, 9, True)
_PDPTE = Level("PDPTE", 30, 9, True)
_PML4E = Level("PML4E", 39, 9, False)
_PML5E = Level("PML5E", 48, 9, False)
NONE = Mode("no paging", (), 0, 32, 0)
LEGACY = Mode(  # §4.3, figure 4-2
    "32-bit paging", (Level("PDE", 22, 10, True), Level("PTE", 12, 10, False)), 4, 32, 0xFFFF_F000
)
PAE = Mode(  # §4.4, figure 4-5
    "PAE paging", (Level("PDPTE", 30, 2, False), _PDE, _PTE), 8, 32, 0xFFFF_FFE0
)
FOUR = Mode("4-level paging", (_PML4E, _PDPTE, _PDE, _PTE), 8, 48, FRAME)  # §4.5
FIVE = Mode("5-level paging", (_PML5E, _PML4E, _PDPTE, _PDE, _PTE), 8, 57, FRAME)

# §4.3, table 4-4: the bits from 32 up of a 4 MiB page's address, of which there are at most 40, are
# kept from bit 13 up; those from there to bit 21 that are not needed for it are reserved.
PSE36_SHIFT, PSE36, PSE36_HIGH, PSE36_WIDTH = 13, 0xFF, 32, 40
PSE36_RESERVED = 0x3F_E000

# §4.4: reserved in PAE paging at each level, and at the highest one.
PAE_RESERVED = 0x7FF0_0000_0000_0000
PAE_PDPTE_RESERVED = 0x1E6  # §4.4.1, table 4-8
