"""What a driver must not do is a QueueError that names the rule's section, and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.virtqueue import QueueError, Ring, open_queue
from tests.fakes.driver import PACKED, SPLIT, Driver, PackedDriver, SplitDriver, make_driver

SIZE = 4 * MIB
NEXT, WRITE, INDIRECT = spec.DESC_F_NEXT, spec.DESC_F_WRITE, spec.DESC_F_INDIRECT
DATA = 3 * MIB  # where the tests' buffers are
TABLE = 3 * MIB + 0x1000
GIB2 = 1 << 31

Descriptors = Sequence[tuple[int, int, int]]


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(SIZE)
    yield memory
    memory.close()


@pytest.fixture(params=[SPLIT, PACKED], ids=["split", "packed"])
def driver(request: pytest.FixtureRequest, memory: GuestMemory) -> Iterator[Driver]:
    driver = make_driver(memory, request.param)
    yield driver
    driver.close()


def refused(driver: Driver, reason: str, features: int = 0) -> None:
    """What the driver has published is refused for `reason`, and that again if asked again."""
    queue = open_queue(
        driver.memory, driver.ring.replace(features=features or driver.ring.features)
    )
    for _ in range(2):
        with pytest.raises(QueueError, match=reason) as caught:
            queue.pop()
        assert "§2." in str(caught.value)


def offered(driver: Driver, descriptors: Descriptors) -> Driver:
    driver.add_descriptors(descriptors)
    driver.publish()
    return driver


# ---- areas, §2.7 and §2.8.10.1 ----


@pytest.mark.parametrize("area", ["descriptor_area", "driver_area", "device_area"])
@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (1 * MIB + 1, "no multiple of"),
        (SIZE, "not in RAM"),
        (SIZE - 2, "not in RAM|no multiple"),
        ((1 << 64) - 16, "not in RAM"),
    ],
    ids=["odd", "behind", "across", "wrapping"],
)
def test_an_area_must_be_aligned_and_in_ram(
    driver: Driver, area: str, where: int, reason: str
) -> None:
    with pytest.raises(QueueError, match=reason):
        open_queue(driver.memory, driver.ring.replace(**{area: where}))


@pytest.mark.parametrize("size", [0, -1, 1025, 3, 1000])
def test_a_size_must_be_one_of_the_format(driver: Driver, size: int) -> None:
    ring = driver.ring.replace(size=size)
    if ring.packed and 0 < size <= spec.QUEUE_SIZE_MAX:
        open_queue(driver.memory, ring)
    else:
        with pytest.raises(QueueError, match="cannot have"):
            open_queue(driver.memory, ring)


# ---- buffers, of either format ----


@pytest.mark.parametrize(
    ("descriptors", "reason"),
    [
        ([(SIZE, 1, 0)], "buffer is not in RAM"),
        ([(SIZE - 1, 2, WRITE)], "buffer is not in RAM"),
        ([((1 << 64) - 1, 2, 0)], "buffer is not in RAM"),
        ([(DATA, 1, WRITE), (DATA, 1, 0)], "readable buffer after"),
        ([(DATA, 1, WRITE), (DATA, 0, 0)], "readable buffer after"),
    ],
)
def test_a_buffer_must_be_in_ram_and_in_order(
    driver: Driver, descriptors: Descriptors, reason: str
) -> None:
    refused(offered(driver, descriptors), reason)


def test_an_empty_buffer_may_be_anywhere(driver: Driver) -> None:
    queue = open_queue(driver.memory, offered(driver, [(1 << 63, 0, 0)]).ring)
    chain = queue.pop()
    assert chain is not None
    assert not chain.readable


def test_a_chain_must_be_shorter_than_4_gib() -> None:
    memory = GuestMemory(3 << 30)
    driver = make_driver(memory)
    offered(driver, [(0, GIB2, WRITE), (0, GIB2 - 1, WRITE)])
    queue = open_queue(memory, driver.ring)
    assert queue.pop() is not None
    offered(driver, [(0, GIB2, WRITE), (0, GIB2, WRITE)])
    with pytest.raises(QueueError, match="longer than"):
        queue.pop()
    driver.close()
    memory.close()


# ---- indirect tables, §2.7.5.3 and §2.8.7 ----


def table(driver: Driver, entries: Sequence[tuple[int, int, int, int]]) -> tuple[int, int]:
    """Write one, of (address, length, flags, next); where it is and how long."""
    packed = isinstance(driver, PackedDriver)
    data = b"".join(
        struct.pack("<QIHH", at, length, *((0, flags) if packed else (flags, following)))
        for at, length, flags, following in entries
    )
    driver.memory.write(TABLE, data)
    return TABLE, len(data)


@pytest.mark.parametrize("length", [0, 8, 17, 16 * 9])
def test_a_table_must_have_whole_entries_and_no_more_than_the_queue(
    driver: Driver, length: int
) -> None:
    refused(offered(driver, [(TABLE, length, INDIRECT)]), f"table has {length} bytes")


def test_a_table_must_be_in_ram(driver: Driver) -> None:
    refused(offered(driver, [(SIZE - 16, 32, INDIRECT)]), "table is not in RAM")


def test_a_table_must_have_been_negotiated(driver: Driver) -> None:
    at, length = table(driver, [(DATA, 1, 0, 0)])
    offered(driver, [(at, length, INDIRECT)])
    refused(driver, "may not be here", driver.ring.features & ~spec.F_INDIRECT_DESC)


def test_a_table_must_be_the_last_of_its_chain(driver: Driver) -> None:
    at, length = table(driver, [(DATA, 1, 0, 0)])
    refused(offered(driver, [(at, length, INDIRECT), (DATA, 1, 0)]), "may not be here")


def test_a_split_chain_may_end_in_a_table_and_a_packed_one_may_not(driver: Driver) -> None:
    at, length = table(driver, [(DATA, 2, WRITE, 0)])
    offered(driver, [(DATA, 1, 0), (at, length, INDIRECT)])
    if isinstance(driver, PackedDriver):  # §2.8.19
        refused(driver, "may not be here")
        return
    chain = open_queue(driver.memory, driver.ring).pop()
    assert chain is not None
    assert ([len(b) for b in chain.readable], [len(b) for b in chain.writable]) == ([1], [2])


def test_write_on_a_table_is_ignored(driver: Driver) -> None:
    at, length = table(driver, [(DATA, 1, 0, 0)])
    offered(driver, [(at, length, INDIRECT | WRITE)])
    chain = open_queue(driver.memory, driver.ring).pop()
    assert chain is not None
    assert (len(chain.readable), len(chain.writable)) == (1, 0)


def test_a_table_must_not_refer_to_a_table(memory: GuestMemory) -> None:
    driver = make_driver(memory, SPLIT)
    at, length = table(driver, [(TABLE, 16, INDIRECT, 0)])
    refused(offered(driver, [(at, length, INDIRECT)]), "may not be here")
    driver.close()


def test_in_a_packed_table_no_flag_but_write_counts(memory: GuestMemory) -> None:
    driver = make_driver(memory, PACKED)
    at, length = table(driver, [(DATA, 1, NEXT | INDIRECT, 0), (DATA, 2, WRITE, 0)])
    chain = open_queue(memory, offered(driver, [(at, length, INDIRECT)]).ring).pop()
    assert chain is not None
    assert ([len(b) for b in chain.readable], [len(b) for b in chain.writable]) == ([1], [2])
    driver.close()


@pytest.mark.parametrize("following", [1, 2, 0xFFFF])
def test_a_table_must_not_be_left(memory: GuestMemory, following: int) -> None:
    driver = make_driver(memory, SPLIT)
    at, length = table(driver, [(DATA, 1, NEXT, following)])
    refused(offered(driver, [(at, length, INDIRECT)]), "outside its table of 1")
    driver.close()


# ---- the split ring, §2.7 ----


@pytest.fixture
def split(memory: GuestMemory) -> Iterator[SplitDriver]:
    driver = make_driver(memory, SPLIT)
    assert isinstance(driver, SplitDriver)
    yield driver
    driver.close()


@pytest.mark.parametrize("ahead", [9, 0x8000, 0xFFFF])
def test_the_available_index_must_not_be_too_far_ahead(split: SplitDriver, ahead: int) -> None:
    split.avail_index = ahead
    split.publish()
    refused(split, "too far ahead")
    with pytest.raises(QueueError, match="too far ahead"):
        open_queue(split.memory, split.ring).allow()


def test_no_more_requests_may_be_out_than_the_queue_is_long(split: SplitDriver) -> None:
    queue = open_queue(split.memory, split.ring)
    split.add_descriptors([(DATA, 1, 0)])
    for _ in range(split.size - 1):
        split.offer(0)
    split.publish()
    for _ in range(split.size):
        assert queue.pop() is not None
    split.offer(0)
    split.publish()
    with pytest.raises(QueueError, match="too far ahead"):
        queue.pop()


@pytest.mark.parametrize("head", [8, 0xFFFF])
def test_a_head_must_be_in_the_table(split: SplitDriver, head: int) -> None:
    split.offer(head)
    split.publish()
    refused(split, f"descriptor {head} is outside")


@pytest.mark.parametrize("following", [8, 0xFFFF])
def test_a_next_must_be_in_the_table(split: SplitDriver, following: int) -> None:
    split.write_descriptor(0, DATA, 1, NEXT, following)
    split.offer(0)
    split.publish()
    refused(split, f"descriptor {following} is outside")


@pytest.mark.parametrize("length", [0, 1])
def test_a_loop_must_not_be(split: SplitDriver, length: int) -> None:
    split.write_descriptor(0, DATA, length, NEXT, 1)
    split.write_descriptor(1, DATA, length, NEXT, 0)
    split.offer(0)
    split.publish()
    refused(split, "more than 8 descriptors")


# ---- the packed ring, §2.8 ----


def test_a_packed_chain_must_not_go_around_the_ring(memory: GuestMemory) -> None:
    driver = make_driver(memory, PACKED)
    for at in range(driver.size):
        flags = NEXT | spec.DESC_F_AVAIL
        address = driver.ring.descriptor_area + 16 * at
        memory.write(address, struct.pack("<QIHH", DATA, 1, 0, flags))
    refused(driver, r"not the driver's|more than 8 descriptors")
    driver.close()


def test_a_packed_descriptor_that_is_out_must_not_be_offered_again(memory: GuestMemory) -> None:
    driver = make_driver(memory, PACKED, size=2)
    queue = open_queue(memory, driver.ring)
    driver.add([b"a"])
    driver.add([b"b"])
    driver.publish()
    assert queue.pop() is not None
    assert queue.pop() is not None
    memory.write_u16(driver.ring.descriptor_area + 14, spec.DESC_F_USED)  # of the next lap
    with pytest.raises(QueueError, match="not the driver's"):
        queue.pop()
    driver.close()


# ---- anything at all ----

SHARED = GuestMemory(SIZE)
RING = Ring(0, 8, MIB, MIB + 0x100, MIB + 0x200, 0, -1, -1)
ADDRESSES = st.one_of(
    st.sampled_from([DATA, MIB, MIB + 0x80, SIZE - 16, SIZE]), st.integers(0, (1 << 64) - 1)
)
LENGTHS = st.one_of(st.sampled_from([0, 1, 16, 48, 128, SIZE]), st.integers(0, (1 << 32) - 1))
SMALL = st.one_of(st.integers(0, 9), st.integers(0, 0xFFFF))
FLAGS = st.sampled_from(
    [
        flags | wrap
        for flags in range(8)
        for wrap in (0, spec.DESC_F_AVAIL, spec.DESC_F_USED, spec.DESC_F_AVAIL | spec.DESC_F_USED)
    ]
)
SPLIT_DESCRIPTOR = st.builds(struct.Struct("<QIHH").pack, ADDRESSES, LENGTHS, FLAGS, SMALL)
PACKED_DESCRIPTOR = st.builds(struct.Struct("<QIHH").pack, ADDRESSES, LENGTHS, SMALL, FLAGS)
DRIVER_AREA = st.lists(SMALL, min_size=11, max_size=11).map(
    lambda words: struct.pack("<11H", *words)
)


@settings(deadline=None, max_examples=400)
@given(st.data(), st.booleans(), st.integers(0, 3))
def test_whatever_a_driver_writes_gives_chains_in_ram_or_a_queue_error(
    data: st.DataObject, packed: bool, features: int
) -> None:
    chosen = (spec.F_INDIRECT_DESC if features & 1 else 0) | (
        spec.F_EVENT_IDX if features & 2 else 0
    )
    SHARED.write(MIB, bytes(0x1000))
    ring = RING.replace(features=chosen | (spec.F_RING_PACKED if packed else 0))
    descriptor = PACKED_DESCRIPTOR if packed else SPLIT_DESCRIPTOR
    queue = open_queue(SHARED, ring)

    def scribble() -> None:
        SHARED.write(MIB, b"".join(data.draw(st.lists(descriptor, min_size=8, max_size=8))))
        SHARED.write(ring.driver_area, data.draw(DRIVER_AREA))

    def use() -> None:
        queue.suppress()
        kept = []
        for _ in range(20):
            chain = queue.pop()
            if chain is None:
                break
            assert len(chain.readable) + len(chain.writable) <= ring.size
            chain.written = sum(map(len, chain.writable))
            kept.append(chain)
        assert len(kept) <= ring.size
        for chain in kept:
            queue.push(chain)
        queue.publish()
        queue.allow()

    steps: list[Callable[[], None]] = [scribble, use] * 3
    for step in steps:
        try:
            step()
        except QueueError:
            return
