"""Guest memory: where it is, that nothing else can be reached, and what it costs."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm import layout
from pyvmm.errors import HostError, MemoryAccessError, UsageError
from pyvmm.memory import HUGEPAGE, GuestMemory, parse_size, split_around_hole
from pyvmm.native import ffi

MIB, GIB = layout.MIB, layout.GIB
SIZE = 4 * MIB
ONE = GuestMemory(SIZE)


@pytest.fixture(params=[False, True], ids=["private", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    """Both kinds of memory."""
    return bool(request.param)


@pytest.fixture
def memory(shared: bool) -> Iterator[GuestMemory]:
    memory = GuestMemory(SIZE, shared=shared)
    yield memory
    memory.close()


@pytest.fixture
def large(shared: bool) -> Iterator[GuestMemory]:
    """Around the hole; none of it is touched, so it costs nothing."""
    memory = GuestMemory(5 * GIB, shared=shared)
    yield memory
    memory.close()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 * MIB),
        ("4G", 4 * GIB),
        ("64k", 65536),
        ("4096", 4096),
        ("1T", 1 << 40),
        ("2m", 2 * MIB),
        (4096, 4096),
    ],
)
def test_sizes_are_powers_of_1024(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1M", "1.5G", "1X", "0x10", "1M1", "１M", "1MM", "1 G", "1_0"]
)
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="--memory must be a number"):
        parse_size(text, "--memory")


@pytest.mark.parametrize(
    ("size", "regions"),
    [
        (SIZE, [(0, SIZE)]),
        (3 * GIB, [(0, 3 * GIB)]),
        (3 * GIB + 4096, [(0, 3 * GIB), (4 * GIB, 4096)]),
        (5 * GIB, [(0, 3 * GIB), (4 * GIB, 2 * GIB)]),
    ],
)
def test_ram_goes_on_at_4_gib_behind_the_hole(size: int, regions: list[tuple[int, int]]) -> None:
    assert split_around_hole(size) == regions


@pytest.mark.parametrize("size", [0, 4096, MIB - 4096, MIB + 1, SIZE + 512])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match="at least 1M and a multiple of 4K"):
        GuestMemory(size)


def test_more_than_the_host_can_have_is_an_error_that_leaves_nothing(shared: bool) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(HostError, match="MiB of memory"):
        GuestMemory(1 << 62, shared=shared)
    assert os.listdir("/proc/self/fd") == before


def test_integers_are_little_endian(memory: GuestMemory) -> None:
    memory.write(0x1000, bytes(range(1, 9)))
    assert memory.u8(0x1000) == 0x01
    assert memory.u16(0x1000) == 0x0201
    assert memory.u32(0x1000) == 0x04030201
    assert memory.u64(0x1000) == 0x0807060504030201
    memory.write_u64(0x2000, 0x1122334455667788)
    memory.write_u32(0x2000, 0xAABBCCDD)
    memory.write_u16(0x2004, 0xEEFF)
    memory.write_u8(0x2006, 0x99)
    assert memory.read(0x2000, 8) == bytes.fromhex("ddccbbaaffee9911")


@given(st.integers(-(1 << 65), 1 << 65), st.integers(-8, 1 << 65))
def test_no_access_gets_outside(address: int, length: int) -> None:
    inside = address >= 0 and length >= 0 and address + length <= SIZE
    if inside:
        assert len(ONE.view(address, length)) == length
    else:
        with pytest.raises(MemoryAccessError):
            ONE.view(address, length)


@pytest.mark.parametrize(
    "address", [SIZE - 7, SIZE, -1, -8, 1 << 64, (1 << 64) - 4], ids=lambda value: f"{value:#x}"
)
def test_a_refused_access_says_where_it_was(memory: GuestMemory, address: int) -> None:
    for access in (
        lambda: memory.u64(address),
        lambda: memory.write_u64(address, 0),
        lambda: memory.read(address, 8),
        lambda: memory.write(address, bytes(8)),
    ):
        with pytest.raises(MemoryAccessError) as caught:
            access()
        assert (caught.value.address, caught.value.length) == (address, 8)
        assert f"{address:#x} (+8 bytes)" in str(caught.value)


def test_no_access_crosses_the_hole(large: GuestMemory) -> None:
    large.write_u32(layout.HOLE - 4, 1)
    large.write_u32(4 * GIB, 2)
    for address in (layout.HOLE - 2, layout.HOLE, 4 * GIB - 4, 4 * GIB - 2):
        with pytest.raises(MemoryAccessError):
            large.u32(address)
    with pytest.raises(MemoryAccessError):
        large.read(0, 5 * GIB)


def test_a_view_is_the_guests_own_memory(memory: GuestMemory) -> None:
    view = memory.view(0x1000, 4)
    view[:] = b"abcd"
    assert memory.read(0x1000, 4) == b"abcd"
    memory.write_u8(0x1000, ord("x"))
    assert bytes(view) == b"xbcd"


def test_another_mapping_of_shared_memory_sees_the_same_bytes() -> None:
    memory = GuestMemory(SIZE, shared=True)
    memory.write(0x3000, b"shared")
    with mmap.mmap(memory.fd, SIZE) as other:
        assert other[0x3000:0x3006] == b"shared"
    memory.close()


def test_only_what_is_touched_is_allocated(large: GuestMemory, shared: bool) -> None:
    assert list(large.touched()) == []
    large.write_u8(0x5000, 1)
    large.write_u8(HUGEPAGE - 1, 1)
    large.write(4 * GIB + 3 * HUGEPAGE - 1, b"ab")
    if shared:
        assert list(large.touched()) == [
            (0x5000, 4096),
            (HUGEPAGE - 4096, 4096),
            (4 * GIB + 3 * HUGEPAGE - 4096, 8192),
        ]
        assert os.fstat(large.fd).st_blocks * 512 == 4 * 4096
    else:
        assert list(large.touched()) == [
            (0, HUGEPAGE),
            (4 * GIB + 2 * HUGEPAGE, 2 * HUGEPAGE),
        ]


def test_private_memory_is_aligned_for_huge_pages() -> None:
    memory = GuestMemory(5 * GIB)
    for region in memory.regions:
        address = int(ffi.cast("uintptr_t", ffi.from_buffer(region.view)))
        assert address % HUGEPAGE == region.base % HUGEPAGE == 0
    memory.close()


def test_a_child_process_gets_no_copy_of_private_memory() -> None:
    memory = GuestMemory(SIZE)
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(memory.regions[0].view)))
    child = os.fork()
    if not child:
        lines = Path("/proc/self/maps").read_text().splitlines()
        spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
        os._exit(any(start <= address < end for start, end in spans))
    assert os.waitpid(child, 0)[1] == 0
    memory.close()


def test_reading_untouched_memory_gives_zeros(memory: GuestMemory) -> None:
    assert memory.read(SIZE - 64, 64) == bytes(64)


def test_discarded_memory_is_zero_and_costs_nothing(memory: GuestMemory) -> None:
    memory.write(0x1000, b"secret")
    memory.discard()
    assert list(memory.touched()) == []
    assert memory.read(0x1000, 6) == bytes(6)


def test_preallocated_memory_is_all_there(shared: bool) -> None:
    memory = GuestMemory(SIZE, shared=shared, prealloc=True)
    if shared:
        assert os.fstat(memory.fd).st_blocks * 512 == SIZE
    else:
        assert list(memory.touched()) == [(0, SIZE)]
    assert memory.read(0, SIZE) == bytes(SIZE)
    memory.close()


def test_closed_memory_is_refused_and_closing_twice_is_no_error(memory: GuestMemory) -> None:
    memory.close()
    memory.close()
    with pytest.raises(MemoryAccessError):
        memory.u8(0)


def test_a_view_that_is_still_held_outlives_the_memory(memory: GuestMemory) -> None:
    view = memory.view(0x1000, 4)
    view[:] = b"kept"
    memory.close()
    assert bytes(view) == b"kept"


def test_discarded_pages_are_zero_and_the_rest_stays(large: GuestMemory) -> None:
    large.write(4 * GIB, b"x" * (4 * 4096))
    large.discard_pages(4 * GIB + 4095, 4096 * 2 + 1)  # not even: what is cut is kept
    assert large.read(4 * GIB, 4 * 4096) == b"x" * 4096 + bytes(2 * 4096) + b"x" * 4096
    large.discard_pages(4 * GIB + 1, 4096)
    assert large.read(4 * GIB, 1) == b"x"


def test_discarded_pages_cost_nothing(large: GuestMemory) -> None:
    large.write(4 * GIB, b"x" * (4 * MIB))
    large.write_u8(4 * GIB + 6 * MIB, 1)
    large.discard_pages(4 * GIB, 4 * MIB)
    assert all(at >= 4 * GIB + 4 * MIB for at, _ in large.touched())


def test_pages_outside_memory_cannot_be_discarded(memory: GuestMemory) -> None:
    with pytest.raises(MemoryAccessError):
        memory.discard_pages(SIZE - 4096, 8192)


def test_the_address_of_a_view_is_found(large: GuestMemory) -> None:
    for address in (0, 0x1234, 3 * GIB - 1, 4 * GIB, 6 * GIB - 1):
        assert large.address_of(large.view(address, 1)) == address
    with pytest.raises(ValueError, match="of this memory"):
        large.address_of(memoryview(bytearray(1)))
