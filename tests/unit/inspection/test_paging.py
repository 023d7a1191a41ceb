"""Page tables made by hand in each mode, and the walks of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pyvmm.errors import MemoryAccessError, UnmappedError
from pyvmm.inspection import paging_spec as spec
from pyvmm.inspection.paging import VirtualMemory
from pyvmm.memory import GuestMemory

MIB = 1 << 20
ROOT, SECOND, THIRD, FOURTH, FIFTH = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
RW = 0x3  # present, writable
LARGE = 0x80
LONG = {"cr4": spec.CR4_PAE, "efer": spec.EFER_LMA | spec.EFER_NXE}


@pytest.fixture
def memory():
    memory = GuestMemory(16 * MIB)
    yield memory
    memory.close()


def virtual(memory, *, cr0=spec.CR0_PG, cr3=ROOT, cr4=0, efer=0, bits=40):
    return VirtualMemory(memory, SimpleNamespace(cr0=cr0, cr3=cr3, cr4=cr4, efer=efer), bits)


def levels(walk):
    return [step.level for step in walk.steps]


def test_without_paging_an_address_is_physical(memory):
    walk = virtual(memory, cr0=1).walk(0x1234)
    assert (walk.physical, walk.steps, walk.page_size) == (0x1234, [], 0)


def test_32_bit_paging_with_a_small_page(memory):
    memory.write_u32(ROOT + 4 * 0x301, SECOND | RW)
    memory.write_u32(SECOND + 4 * 0x234, 0x0078_9000 | RW)
    walk = virtual(memory).walk(0xC063_4567)
    assert walk.physical == 0x0078_9567
    assert levels(walk) == ["PDE", "PTE"]
    assert [step.address for step in walk.steps] == [ROOT + 4 * 0x301, SECOND + 4 * 0x234]
    assert walk.steps[1].flags == ("present", "writable")


def test_32_bit_paging_with_a_4_MiB_page_above_4_GiB(memory):
    memory.write_u32(ROOT + 4, 0x0040_0000 | 0xAB << 13 | LARGE | RW)
    walk = virtual(memory, cr4=spec.CR4_PSE).walk(0x0052_3456)
    assert walk.physical == 0xAB_0052_3456
    assert walk.page_size == 4 * MIB


def test_without_PSE_the_size_bit_of_a_32_bit_entry_means_nothing(memory):
    memory.write_u32(ROOT, SECOND | LARGE | RW)
    memory.write_u32(SECOND, 0x9000 | RW)
    assert virtual(memory).walk(0x12).physical == 0x9012


def test_PAE_paging_takes_a_root_that_is_aligned_to_32_bytes(memory):
    memory.write_u64(ROOT + 0x20 + 8 * 3, SECOND | 1)
    memory.write_u64(SECOND + 8 * 0x1FF, THIRD | RW)
    memory.write_u64(THIRD + 8 * 0x1FE, 0xF_0000_8000 | RW)
    walk = virtual(memory, cr3=ROOT + 0x20, cr4=spec.CR4_PAE).walk(0xFFFF_E123)
    assert walk.physical == 0xF_0000_8123
    assert levels(walk) == ["PDPTE", "PDE", "PTE"]


def test_PAE_paging_with_a_2_MiB_page(memory):
    memory.write_u64(ROOT, SECOND | 1)
    memory.write_u64(SECOND + 8, 0x0060_0000 | LARGE | RW)
    walk = virtual(memory, cr4=spec.CR4_PAE).walk(0x0023_4567)
    assert (walk.physical, walk.page_size) == (0x0063_4567, 2 * MIB)


HIGH = 0xFFFF_8080_8060_1234  # indices 0x101, 2, 3, 1


def four(memory, *entries):
    places = zip((0x101, 2, 3, 1), (ROOT, SECOND, THIRD, FOURTH), strict=True)
    for (index, table), entry in zip(places, entries, strict=False):
        memory.write_u64(table + 8 * index, entry)
    return virtual(memory, **LONG)


def test_4_level_paging_with_each_size_of_page(memory):
    tables = four(memory, SECOND | RW, THIRD | RW, FOURTH | RW, 0x7000 | RW)
    assert tables.walk(HIGH).physical == 0x7234
    assert levels(tables.walk(HIGH)) == ["PML4E", "PDPTE", "PDE", "PTE"]
    tables = four(memory, SECOND | RW, THIRD | RW, 0x20_0000 | LARGE | 1 << 12 | RW)
    assert tables.walk(HIGH).physical == 0x20_1234
    tables = four(memory, SECOND | RW, 0x4000_0000 | LARGE | RW)
    assert tables.walk(HIGH).physical == 0x4060_1234
    assert tables.walk(HIGH).page_size == 1 << 30


def test_5_level_paging(memory):
    memory.write_u64(ROOT + 8 * 0x1F0, FIFTH | RW)
    memory.write_u64(FIFTH, SECOND | RW)
    memory.write_u64(SECOND, THIRD | RW)
    memory.write_u64(THIRD, FOURTH | RW)
    memory.write_u64(FOURTH, 0x7000 | RW)
    tables = virtual(memory, cr4=spec.CR4_PAE | spec.CR4_LA57, efer=spec.EFER_LMA)
    walk = tables.walk(0xFFF0_0000_0000_0042)
    assert (walk.physical, levels(walk)[0]) == (0x7042, "PML5E")


@pytest.mark.parametrize("last", range(4), ids=["PML4E", "PDPTE", "PDE", "PTE"])
def test_an_unmapped_address_names_the_level(memory, last):
    entries = [SECOND | RW, THIRD | RW, FOURTH | RW, 0x7000 | RW]
    entries[last] = 0x1230 << 12
    tables = four(memory, *entries)
    name = ("PML4E", "PDPTE", "PDE", "PTE")[last]
    with pytest.raises(UnmappedError, match=f"its {name} at .* is not present .0x1230000."):
        tables.read(HIGH, 1)
    assert len(tables.walk(HIGH).steps) == last + 1


def test_a_table_outside_RAM_is_said_to_be(memory):
    problem = four(memory, 0x4000_0000 | RW).walk(HIGH).problem
    assert problem == "its PDPTE would lie at 0x40000010, which is not RAM"


@pytest.mark.parametrize("address", [0x0000_8000_0000_0000, 0x8000_0000_0000_0000, 1 << 63 | 1])
def test_an_address_that_is_not_canonical_is_not_mapped(memory, address):
    assert "not an address of 48 bits" in four(memory).walk(address).problem


@pytest.mark.parametrize(
    ("level", "entry", "bits"),
    [
        ("PML4E", SECOND | LARGE | RW, LARGE),
        ("PML4E", SECOND | 1 << 40 | RW, 1 << 40),
        ("PDPTE", 0x4000_2000 | LARGE | RW, 0x2000),
        ("PDE", 0x20_2000 | LARGE | RW, 0x2000),
    ],
)
def test_reserved_bits_are_a_fault(memory, level, entry, bits):
    entries = [SECOND | RW, THIRD | RW, FOURTH | RW]
    at = ("PML4E", "PDPTE", "PDE").index(level)
    problem = four(memory, *entries[:at], entry).walk(HIGH).problem
    assert level in problem
    assert f"({bits:#x})" in problem


@pytest.mark.parametrize(("bits", "reserved"), [(40, 1 << 21), (36, 1 << 17), (32, 1 << 13)])
def test_a_4_MiB_page_has_no_more_address_than_the_CPU(memory, bits, reserved):
    memory.write_u32(ROOT, reserved | LARGE | RW)
    tables = virtual(memory, cr4=spec.CR4_PSE, bits=bits)
    assert f"({reserved:#x})" in tables.walk(0).problem
    memory.write_u32(ROOT, reserved >> 1 & 0x1F_E000 | LARGE | RW)
    assert tables.walk(0).physical is not None


def test_PAE_paging_reserves_what_long_mode_ignores(memory):
    memory.write_u64(ROOT, SECOND | 1)
    memory.write_u64(SECOND, 1 << 62 | LARGE | RW)
    assert "PDE" in virtual(memory, cr4=spec.CR4_PAE).walk(0).problem
    four(memory, SECOND | RW | 1 << 62)
    assert "PDPTE" in virtual(memory, **LONG).walk(HIGH).problem


def test_no_execute_is_reserved_while_EFER_does_not_allow_it(memory):
    four(memory, SECOND | RW | spec.NO_EXECUTE)
    tables = virtual(memory, cr4=spec.CR4_PAE, efer=spec.EFER_LMA)
    assert "PML4E" in tables.walk(HIGH).problem
    assert "PDPTE" in virtual(memory, **LONG).walk(HIGH).problem


def test_a_table_that_is_its_own_child_ends(memory):
    memory.write_u64(ROOT + 8 * 0x1FF, ROOT | RW)
    walk = virtual(memory, **LONG).walk(0xFFFF_FFFF_FFFF_FFF8)
    assert (walk.physical, len(walk.steps)) == (ROOT + 0xFF8, 4)


def test_an_access_crosses_pages_that_are_apart(memory):
    four(memory, SECOND | RW, THIRD | RW, FOURTH | RW, 0x7000 | RW)
    memory.write_u64(FOURTH + 8 * 2, 0x9000 | RW)
    tables = virtual(memory, **LONG)
    tables.write((HIGH & -0x1000) + 0xFFE, b"abcd")
    assert memory.read(0x7FFE, 2) + memory.read(0x9000, 2) == b"abcd"
    assert tables.read((HIGH & -0x1000) + 0xFFE, 4) == b"abcd"


def test_a_write_that_is_not_wholly_mapped_writes_nothing(memory):
    tables = four(memory, SECOND | RW, THIRD | RW, FOURTH | RW, 0x7000 | RW)
    with pytest.raises(UnmappedError):
        tables.write((HIGH & -0x1000) + 0xFFE, b"abcd")
    memory.write_u64(FOURTH + 8 * 2, 0x4000_0000 | RW)
    with pytest.raises(MemoryAccessError):
        tables.write((HIGH & -0x1000) + 0xFFE, b"abcd")
    assert memory.read(0x7FFE, 2) == bytes(2)
