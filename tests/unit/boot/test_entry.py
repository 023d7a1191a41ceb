from __future__ import annotations

import pytest

from pyvmm import layout
from pyvmm.boot.entry import CODE_SELECTOR, DATA_SELECTOR, Entry, write_tables
from pyvmm.memory import GuestMemory


def translate(memory: GuestMemory, address: int) -> int:
    """Walk the page tables as the processor does in long mode."""
    table = layout.PAGE_TABLES
    for shift in (39, 30, 21):
        entry = memory.u64(table + 8 * (address >> shift & 511))
        assert entry & 3 == 3, "present, writable"
        table = entry & 0x000F_FFFF_FFFF_F000
    assert entry & 0x80, "a 2 MiB page"
    return table & ~0x1F_FFFF | address & 0x1F_FFFF


def test_the_first_4_gib_are_mapped_to_themselves(memory: GuestMemory) -> None:
    write_tables(memory, Entry(0, long_mode=True))
    for address in (0, 0x7000, 0x123_4567, (1 << 30) - 1, 1 << 30, 0xC000_0000, 0xFFFF_FFFF):
        assert translate(memory, address) == address
    assert memory.u64(layout.PAGE_TABLES + 8) == 0
    assert memory.u64(layout.PAGE_TABLES + 4096 + 8 * 4) == 0


@pytest.mark.parametrize(("long_mode", "size_bits"), [(True, 0b01), (False, 0b10)])
def test_the_gdt_has_flat_code_and_data(
    long_mode: bool, size_bits: int, memory: GuestMemory
) -> None:
    write_tables(memory, Entry(0, long_mode=long_mode))
    code = memory.u64(layout.GDT + CODE_SELECTOR)
    data = memory.u64(layout.GDT + DATA_SELECTOR)
    for descriptor, kind in ((code, 0xB), (data, 0x3)):
        assert descriptor & 0xFFFF == 0xFFFF
        assert descriptor >> 48 & 0xF == 0xF
        assert descriptor >> 40 & 0xFF == 0x90 | kind
        assert descriptor >> 55 & 1, "limit in pages"
        assert descriptor >> 16 & 0xFF_FFFF == descriptor >> 56 == 0
    assert code >> 53 & 0b11 == size_bits
    assert memory.u64(layout.GDT) == 0


def test_without_paging_no_page_table_is_written(memory: GuestMemory) -> None:
    write_tables(memory, Entry(0, long_mode=False))
    assert memory.u64(layout.PAGE_TABLES) == 0
