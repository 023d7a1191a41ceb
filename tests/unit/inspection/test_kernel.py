from __future__ import annotations

import pytest

from pyvmm.errors import MemoryAccessError
from pyvmm.inspection.kernel import CANDIDATES_MAX, find_kernels, search
from pyvmm.layout import MIB, PAGE
from pyvmm.memory import GuestMemory
from tests.fakes import printk
from tests.fakes.printk import LinuxRam


@pytest.fixture
def memory():
    memory = GuestMemory(16 * MIB)
    yield memory
    memory.close()


def test_search_finds_every_place_once_also_across_its_own_borders(memory):
    memory.write(MIB, bytes(3 * MIB))
    places = [MIB, 2 * MIB - 5, 3 * MIB - 1, 4 * MIB - 6]
    for place in places:
        memory.write(place, b"needle")
    assert list(search(memory, b"needle")) == places


def test_search_touches_no_page_that_the_guest_has_not(memory):
    memory.write(5 * MIB, b"needle")
    touched = list(memory.touched())
    assert list(search(memory, b"needle")) == [5 * MIB]
    assert list(memory.touched()) == touched


def test_a_kernel_tells_its_symbols_and_where_it_was_moved(memory):
    ram = LinuxRam(memory)
    ram.symbols["prb"] = 0xFFFFFFFF82A3B0C0
    ram.finish()
    (kernel,) = find_kernels(memory)
    assert kernel.symbol("prb") == 0xFFFFFFFF82A3B0C0
    assert kernel.offset("printk_ringbuffer.text_data_ring") == 48
    assert kernel.size("printk_info") == 88
    assert kernel.kaslr_offset == printk.KASLR
    assert kernel.number("not exported") == 0
    with pytest.raises(LookupError):
        kernel.symbol("not exported")


@pytest.mark.parametrize("levels", [4, 5])
def test_memory_is_read_by_virtual_address_through_small_and_large_pages(memory, levels):
    ram = LinuxRam(memory, levels)
    data = bytes(range(256)) * 40
    small, large = ram.place(data, direct=True), ram.place(data)
    ram.finish()
    (kernel,) = find_kernels(memory)
    assert kernel.read(small + 1, len(data) - 1) == data[1:]
    assert kernel.read(large + 1, len(data) - 1) == data[1:]
    assert kernel.u64(large) == 0x0706050403020100
    with pytest.raises(MemoryAccessError):
        kernel.read(printk.DIRECT_MAP - 1, 2)


def test_a_mask_of_encrypted_memory_is_taken_off_page_table_entries(memory):
    ram = LinuxRam(memory)
    ram.numbers["sme_mask"] = 1 << 47
    place = ram.place(b"data")
    ram.finish()
    for entry in range(printk.TABLES, printk.TABLES + 512 * 8, 8):
        if memory.u64(entry):
            memory.write_u64(entry, memory.u64(entry) | 1 << 47)
    (kernel,) = find_kernels(memory)
    assert kernel.read(place, 4) == b"data"


@pytest.mark.parametrize("note", [b"", b"SYMBOL(init_top_pgt)=xyz\n", b"NUMBER(sme_mask)=1\n"])
def test_a_note_without_sense_is_no_kernel(memory, note):
    memory.write(MIB, b"\0" * 12 + b"VMCOREINFO\0\0OSRELEASE=6.1\n" + note)
    memory.write_u32(MIB + 4, 4096)
    assert list(find_kernels(memory)) == []


def test_a_note_at_the_very_start_of_ram_is_no_kernel(memory):
    memory.write(0, b"VMCOREINFO\0\0OSRELEASE=6.1\n")
    assert list(find_kernels(memory)) == []


def test_a_guest_that_floods_its_memory_is_searched_for_no_longer_than_others(memory):
    ram = LinuxRam(memory)
    for i in range(CANDIDATES_MAX + 5):
        memory.write(10 * MIB + i * PAGE, ram.note())
    assert len(list(find_kernels(memory))) == CANDIDATES_MAX
    assert len(list(search(memory, b"OSRELEASE"))) == CANDIDATES_MAX
