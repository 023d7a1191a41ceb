"""What of the guest-physical map is RAM, as every boot protocol tells it; and a place in it."""

from __future__ import annotations

from pyvmm import layout
from pyvmm.errors import ImageError
from pyvmm.memory import GuestMemory

RAM, RESERVED = 1, 2  # ACPI 6.4 §15, table 15.2 "Address Range Types"

BOOT_END = layout.CMDLINE + layout.CMDLINE_MAX  # below it are the boot structures
_TSS_PAGES = 3  # KVM api.rst 4.28

MemoryMap = list[tuple[int, int, int]]


def memory_map(memory: GuestMemory) -> MemoryMap:
    """(address, size, type) in ascending order, types as in INT 15h E820."""
    low, *high = memory.regions
    special_end = layout.TSS + _TSS_PAGES * layout.PAGE
    return [
        (0, layout.LOW_RAM_END, RAM),
        (layout.ACPI_TABLES, layout.ACPI_TABLES_MAX, RESERVED),
        *_if_any(layout.HIGH_MEMORY, low.end - layout.HIGH_MEMORY),
        # Linux uses ECAM only where firmware says that nothing else is there.
        (layout.ECAM, layout.ECAM_SIZE, RESERVED),
        (layout.IDENTITY_MAP, special_end - layout.IDENTITY_MAP, RESERVED),
        *((region.base, region.size, RAM) for region in high),
    ]


def _if_any(address: int, size: int) -> MemoryMap:
    return [(address, size, RAM)] if size else []


def free_ram(memory: GuestMemory) -> list[tuple[int, int]]:
    """(start, end) of the RAM that an image may be loaded to: all but the boot structures."""
    return [
        (max(address, BOOT_END), address + size)
        for address, size, kind in memory_map(memory)
        if kind == RAM
    ]


def is_free(memory: GuestMemory, start: int, end: int) -> bool:
    """Whether [start, end) is RAM that an image may be loaded to."""
    return any(low <= start and end <= high for low, high in free_ram(memory))


def check_free(memory: GuestMemory, name: str, start: int, end: int) -> None:
    """Raise ImageError, naming the image `name`, unless [start, end) is RAM that it may have."""
    if is_free(memory, start, end):
        return
    ram_end = memory.regions[0].end
    if start >= layout.HIGH_MEMORY and ram_end < end <= layout.HOLE:
        raise ImageError(
            f"{name} needs at least {-(-end // layout.MIB)} MiB of memory, "
            f"the guest has {memory.size // layout.MIB}"
        )
    raise ImageError(f"{name} must be loaded at {start:#x} to {end:#x}, which is not free RAM")
