"""Split and packed queues as the drivers of VIRTIO 1.2 §2.7 and §2.8 see them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.virtqueue import Virtqueue, open_queue
from tests.fakes.driver import PACKED, SPLIT, Driver, make_driver

FORMATS = {"split": SPLIT, "packed": PACKED}


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(4 * MIB)
    yield memory
    memory.close()


@pytest.fixture(params=FORMATS)
def features(request: pytest.FixtureRequest) -> int:
    return FORMATS[request.param]


@pytest.fixture
def driver(memory: GuestMemory, features: int) -> Iterator[Driver]:
    driver = make_driver(memory, features)
    yield driver
    driver.close()


@pytest.fixture
def queue(memory: GuestMemory, driver: Driver) -> Virtqueue:
    return open_queue(memory, driver.ring)


@pytest.fixture
def plain(memory: GuestMemory, features: int) -> Iterator[Driver]:
    """A driver without the event index."""
    driver = make_driver(memory, features & ~spec.F_EVENT_IDX)
    yield driver
    driver.close()


def echo(queue: Virtqueue) -> int:
    """Answer every request with what it says; how many there were."""
    count = 0
    while (chain := queue.pop()) is not None:
        chain.write(chain.read(1 << 20))
        queue.push(chain)
        count += 1
    return count


# ---- what arrives, and what comes back ----


@pytest.mark.parametrize("indirect", [False, True])
def test_a_chain_arrives_as_the_driver_built_it(
    driver: Driver, queue: Virtqueue, indirect: bool
) -> None:
    driver.add([b"head", b"er"], [3, 5], indirect)
    driver.publish()
    chain = queue.pop()
    assert chain is not None
    assert [bytes(buffer) for buffer in chain.readable] == [b"head", b"er"]
    assert [len(buffer) for buffer in chain.writable] == [3, 5]
    assert chain.count == (1 if indirect else 4)
    assert queue.pop() is None


def test_what_is_not_published_does_not_arrive(driver: Driver, queue: Virtqueue) -> None:
    driver.add([b"x"])
    assert queue.pop() is None
    driver.publish()
    assert queue.pop() is not None


def test_used_carries_the_bytes_written_after_publish_only(
    driver: Driver, queue: Virtqueue
) -> None:
    token = driver.add([b"abc"], [2, 8])
    driver.publish()
    echo(queue)
    assert driver.collect() == []
    queue.publish()
    (used,) = driver.collect()
    assert (used.token, used.length, used.data) == (token, 3, b"abc")


def test_requests_may_be_answered_in_another_order(driver: Driver, queue: Virtqueue) -> None:
    tokens = [driver.add([bytes((number,))], [1]) for number in range(3)]
    driver.publish()
    chains = [queue.pop() for _ in tokens]
    for chain in reversed(chains):
        assert chain is not None
        chain.write(chain.read(1))
        queue.push(chain)
    queue.publish()
    assert [(used.token, used.data) for used in driver.collect()] == [
        (token, bytes((number,))) for number, token in reversed(list(enumerate(tokens)))
    ]


def test_empty_buffers_are_left_out(driver: Driver, queue: Virtqueue) -> None:
    driver.add([b"", b"x", b""], [0, 1])
    driver.publish()
    chain = queue.pop()
    assert chain is not None
    assert ([len(b) for b in chain.readable], [len(b) for b in chain.writable]) == ([1], [1])


def test_a_full_ring_of_requests_can_be_out_at_once(driver: Driver, queue: Virtqueue) -> None:
    for _ in range(driver.size):
        driver.add([b"x"])
    driver.publish()
    chains = [queue.pop() for _ in range(driver.size)]
    assert None not in chains
    assert queue.pop() is None


@pytest.mark.parametrize(("size", "batch", "laps"), [(1, 1, 9), (2, 2, 9), (1024, 600, 111)])
def test_indices_wrap_at_the_end_of_the_ring_and_at_65536(
    memory: GuestMemory, features: int, size: int, batch: int, laps: int
) -> None:
    driver = make_driver(memory, features, size=size)
    queue = open_queue(memory, driver.ring)
    for _ in range(laps):
        for _ in range(batch):
            driver.add([b"12"])
        driver.publish()
        assert echo(queue) == batch
        queue.publish()
        assert len(driver.collect()) == batch
    driver.close()


def test_packed_rings_need_not_be_a_power_of_two(memory: GuestMemory) -> None:
    driver = make_driver(memory, PACKED, size=5)
    queue = open_queue(memory, driver.ring)
    for length in [3, 3, 1, 5, 2, 4] * 3:
        driver.add([b"x"] * length)
        driver.publish()
        assert echo(queue) == 1
        queue.publish()
        assert len(driver.collect()) == 1
    driver.close()


LENGTHS = st.lists(st.integers(0, 40), max_size=3)
CHAINS = st.lists(
    st.tuples(LENGTHS, LENGTHS, st.booleans()).filter(lambda chain: chain[0] or chain[1]),
    min_size=1,
    max_size=2,
)
SHARED = GuestMemory(4 * MIB)


@settings(deadline=None)
@given(
    st.sampled_from(sorted(FORMATS.values())),
    st.booleans(),
    st.sampled_from([16, 32]),
    st.lists(CHAINS, min_size=1, max_size=30),
)
def test_whatever_the_driver_puts_in_arrives(
    features: int,
    event_idx: bool,
    size: int,
    batches: list[list[tuple[list[int], list[int], bool]]],
) -> None:
    driver = make_driver(SHARED, features if event_idx else features & ~spec.F_EVENT_IDX, size=size)
    queue = open_queue(SHARED, driver.ring)
    for batch in batches:
        sent = {}
        for readable, writable, indirect in batch:
            data = [bytes(range(length)) for length in readable]
            sent[driver.add(data, writable, indirect)] = b"".join(data), sum(writable)
        driver.publish()
        for _ in batch:
            chain = queue.pop()
            assert chain is not None
            data, room = sent[chain.head]
            assert chain.read(1 << 20) == data
            assert chain.write(data) == min(len(data), room)
            queue.push(chain)
        assert queue.pop() is None
        assert queue.publish()
        for used in driver.collect():
            data, room = sent.pop(used.token)
            assert used.data == data[:room]
            assert used.length == min(len(data), room)
        assert not sent
        driver.enable_interrupts()
    driver.close()


# ---- notifications ----


def test_the_driver_need_not_ring_while_the_device_looks(
    memory: GuestMemory, plain: Driver
) -> None:
    queue = open_queue(memory, plain.ring)
    plain.add([b"x"])
    assert plain.publish()
    queue.suppress()
    plain.add([b"x"])
    assert not plain.publish()
    assert queue.allow()
    assert echo(queue) == 2
    assert not queue.allow()
    plain.add([b"x"])
    assert plain.publish()


def test_with_the_event_index_the_driver_rings_once_for_the_next_request(
    driver: Driver, queue: Virtqueue
) -> None:
    driver.add([b"x"])
    assert driver.publish()
    queue.suppress()
    assert echo(queue) == 1
    assert not queue.allow()
    driver.add([b"x"])
    assert driver.publish()
    driver.add([b"x"])
    assert not driver.publish()
    assert queue.allow()


def test_what_became_available_meanwhile_is_seen_when_allowing(
    driver: Driver, queue: Virtqueue
) -> None:
    queue.suppress()
    driver.add([b"x"])
    driver.publish()
    assert queue.allow()


def test_no_interrupt_for_nothing(queue: Virtqueue) -> None:
    assert not queue.publish()


def test_the_driver_gets_no_interrupts_that_it_has_disabled(
    memory: GuestMemory, plain: Driver
) -> None:
    queue = open_queue(memory, plain.ring)
    plain.disable_interrupts()
    plain.add([b"x"])
    plain.publish()
    echo(queue)
    assert not queue.publish()
    plain.enable_interrupts()
    plain.add([b"x"])
    plain.publish()
    echo(queue)
    assert queue.publish()


def test_with_the_event_index_only_the_awaited_request_interrupts(
    driver: Driver, queue: Virtqueue
) -> None:
    def serve() -> bool:
        driver.add([b"x"])
        driver.publish()
        echo(queue)
        return queue.publish()

    driver.enable_interrupts()  # for the first
    assert serve()
    assert not serve()  # it is past that
    driver.collect()
    for _ in range(3 * driver.size):
        driver.enable_interrupts()
        assert serve()
        assert not serve()
        driver.collect()


def test_a_batch_that_passes_the_awaited_request_interrupts(
    driver: Driver, queue: Virtqueue
) -> None:
    driver.enable_interrupts()
    for _ in range(4):
        driver.add([b"x"])
    driver.publish()
    assert echo(queue) == 4
    assert queue.publish()


def test_an_event_of_the_other_lap_does_not_interrupt(memory: GuestMemory) -> None:
    driver = make_driver(memory, PACKED, size=4)
    queue = open_queue(memory, driver.ring)
    memory.write_u16(driver.ring.driver_area + 2, spec.EVENT_FLAGS_DESC)
    memory.write_u16(driver.ring.driver_area, 1)  # descriptor 1 of the second lap
    interrupts = []
    for _ in range(7):
        driver.add([b"x"])
        driver.publish()
        echo(queue)
        interrupts.append(queue.publish())
        driver.collect()
    assert interrupts == [False] * 5 + [True, False]
    driver.close()
