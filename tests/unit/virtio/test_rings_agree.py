"""The queues in Python and csrc/ring.c, side by side: what the driver and the device see of them is
the same, byte for byte and step by step, whether the driver keeps the rules or breaks them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.native_queue import NativeQueue
from pyvmm.virtio.virtqueue import Virtqueue, open_queue
from tests.fakes.driver import PACKED, SPAN, SPLIT, Driver, make_driver
from tests.fakes.ringcase import (
    ALLOW,
    FEATURES,
    HIGH,
    POP,
    PUBLISH,
    PUMPED,
    PUSH,
    REGION,
    RESET,
    SUPPRESS,
    Opener,
    RingCase,
    poke,
    step,
)

# ---- drivers that keep the rules ----

READABLE = st.lists(st.binary(max_size=20), max_size=3)
WRITABLE = st.lists(st.integers(0, 20), max_size=3)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), READABLE, WRITABLE, st.booleans()),
        st.tuples(st.just("push"), st.integers(0, 7)),
        st.sampled_from(
            [
                (name,)
                for name in ("show", "pop", "publish", "suppress", "allow", "on", "off", "done")
            ]
        ),
    ),
    max_size=60,
)
FEATURE_SETS = [
    base & ~off for base in (SPLIT, PACKED) for off in (0, spec.F_EVENT_IDX, spec.F_INDIRECT_DESC)
]


class Side:
    """A driver and a device on memory of their own."""

    def __init__(self, opener: Opener, features: int, size: int) -> None:
        self.memory = GuestMemory(2 * MIB)
        self.driver: Driver = make_driver(self.memory, features, size=size)
        self.queue: Virtqueue = opener(self.memory, self.driver.ring)
        self.held: list[Chain] = []

    def close(self) -> None:
        self.held.clear()
        del self.queue
        self.driver.close()
        self.memory.close()

    def act(self, name: str, *more: object) -> object:
        return getattr(self, name)(*more)

    def add(self, readable: list[bytes], writable: list[int], indirect: bool) -> object:
        indirect = indirect and bool(self.driver.ring.features & spec.F_INDIRECT_DESC)
        count = 1 if indirect else len(readable) + len(writable)
        taken = sum(request.count for request in self.driver.requests.values())
        if not readable + writable or taken + count > self.driver.size:
            return None
        if indirect and len(readable) + len(writable) > self.driver.size:
            return None
        return self.driver.add(readable, writable, indirect)

    def show(self) -> object:
        return self.driver.publish()

    def pop(self) -> object:
        chain = self.queue.pop()
        if chain is None:
            return None
        self.held.append(chain)
        buffers = [bytes(part) for part in chain.readable], [len(part) for part in chain.writable]
        chain.write(chain.read(30))
        return chain.head, chain.count, buffers

    def push(self, which: int) -> object:
        if self.held:
            self.queue.push(self.held.pop(which % len(self.held)))
        return len(self.held)

    def publish(self) -> object:
        return self.queue.publish()

    def suppress(self) -> object:
        return self.queue.suppress()

    def allow(self) -> object:
        return self.queue.allow()

    def on(self) -> object:
        return self.driver.enable_interrupts()

    def off(self) -> object:
        return self.driver.disable_interrupts()

    def done(self) -> object:
        return self.driver.collect()

    def bytes(self) -> bytes:
        return self.memory.read(MIB, SPAN)


@contextmanager
def sides(features: int, size: int) -> Iterator[tuple[Side, Side]]:
    with (
        closing(Side(open_queue, features, size)) as python,
        closing(Side(NativeQueue, features, size)) as native,
    ):
        yield python, native


@pytest.mark.parametrize("features", FEATURE_SETS, ids=hex)
@settings(max_examples=40, deadline=None)
@given(size=st.sampled_from([1, 2, 4, 8]), actions=ACTIONS)
def test_rings_of_a_driver_that_keeps_the_rules(
    features: int, size: int, actions: list[tuple[object, ...]]
) -> None:
    with sides(features, size) as (python, native):
        for name, *more in actions:
            assert python.act(str(name), *more) == native.act(str(name), *more), name
            assert python.bytes() == native.bytes(), name


@pytest.mark.parametrize("features", FEATURE_SETS, ids=hex)
@pytest.mark.parametrize("size", [1, 4])
def test_agree_when_the_indices_wrap(features: int, size: int) -> None:
    rounds = 0x10001 if features == SPLIT and size == 1 else 20
    with sides(features, size) as (python, native):
        for turn in range(rounds):
            for side in (python, native):
                side.add([b"ask"], [] if size == 1 else [3], indirect=False)
                side.show()
                side.pop()
                side.push(0)
            assert python.publish() == native.publish()
            assert python.allow() == native.allow()
            assert len(python.driver.collect()) == len(native.driver.collect()) == 1
            if turn % 97 == 0 or turn > rounds - 3:
                assert python.bytes() == native.bytes()


# ---- drivers that break them ----

DESCRIPTORS, DRIVER, DEVICE, TABLES, BUFFERS = 0, 0x400, 0x800, 0x1000, 0x2000
ODD_ADDRESSES = [
    *(0, DESCRIPTORS, DRIVER, DEVICE, TABLES, TABLES + 8, REGION - 16, REGION),
    *(HIGH - 1, HIGH, HIGH + REGION - 16, HIGH + REGION, (1 << 64) - 16),
]
ODD_LENGTHS = [0, 15, 16, 32, REGION // 2, REGION, 1 << 31, (1 << 32) - 1]


class Crook:
    """A driver that mostly keeps the rules: one field in some ten is what it should not be."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.features = sum(flag for flag in FEATURES if self.random.random() < 0.6)
        self.packed = bool(self.features & spec.F_RING_PACKED)
        self.size = self.random.randint(1, 9) if self.packed else self.random.choice([1, 2, 4, 8])

    def either(self, right: int, *wrong: int, bits: int = 16) -> int:
        if self.random.random() < 0.9:
            return right
        return self.random.choice([*wrong, self.random.getrandbits(bits)])

    def descriptor(self, at: int, count: int) -> bytes:
        address = self.either(
            self.random.choice([0, HIGH]) + self.random.randrange(BUFFERS, REGION - 0x100),
            *ODD_ADDRESSES,
            bits=64,
        )
        length = self.either(self.random.randint(0, 0x100), *ODD_LENGTHS, bits=32)
        flags = self.either(self.random.choice([0, spec.DESC_F_WRITE]), *range(8))
        if self.random.random() < 0.5:
            flags |= spec.DESC_F_NEXT
        if count == self.size and self.random.random() < 0.3:
            address = self.either(TABLES, *ODD_ADDRESSES, bits=64)
            length = self.either(self.random.randint(1, self.size) * spec.DESC_SIZE, *ODD_LENGTHS)
            flags = self.either(spec.DESC_F_INDIRECT, *range(8))
        if self.packed:
            marks = self.either(spec.DESC_F_AVAIL, spec.DESC_F_USED, 0)
            return struct.pack("<QIHH", address, length, at, flags | marks)
        following = self.either((at + 1) % count, *range(count + 2))
        return struct.pack("<QIHH", address, length, flags, following)

    def table(self, count: int) -> bytes:
        return b"".join(self.descriptor(at, count) for at in range(count))

    def step(self) -> bytes:
        if self.random.random() < 0.8:
            kinds = [POP, POP, PUSH, PUBLISH, SUPPRESS, ALLOW, PUMPED]
            return step(self.random.choice(kinds), self.random.getrandbits(5))
        if self.random.random() < 0.1:
            return step(RESET)
        if self.packed:  # make a descriptor of this or the next round available, or not
            marks = self.random.choice([spec.DESC_F_AVAIL, spec.DESC_F_USED])
            return poke(self.random.randrange(self.size) * spec.DESC_SIZE + 14, marks)
        return poke(DRIVER + 2, self.either(self.random.randint(0, self.size), self.size + 1))

    def case(self) -> RingCase:
        image = bytearray(TABLES)
        image[: self.size * spec.DESC_SIZE] = self.table(self.size)
        if self.packed:
            words = [self.random.getrandbits(16), self.either(self.random.randint(0, 2))]
        else:
            index = self.either(self.random.randint(0, self.size), self.size + 1)
            heads = [self.either(self.random.randrange(self.size)) for _ in range(self.size)]
            words = [self.random.getrandbits(1), index, *heads, self.random.randint(0, self.size)]
        struct.pack_into(f"<{len(words)}H", image, DRIVER, *words)
        image += self.table(max(1, self.size - 1))
        script = b"".join(self.step() for _ in range(self.random.randint(1, 20)))
        areas = (DESCRIPTORS, DRIVER, DEVICE)
        return RingCase(self.features, self.size, areas, script, bytes(image))


@settings(max_examples=1500, deadline=None)
@given(seed=st.integers(0, (1 << 64) - 1))
def test_rings_of_a_driver_that_breaks_them(seed: int) -> None:
    case = Crook(seed).case()
    assert case.play(open_queue) == case.play(NativeQueue)


@settings(max_examples=200, deadline=None)
@given(
    packed=st.booleans(),
    size=st.one_of(st.sampled_from([0, 1, 3, 4, 1024, 1025]), st.integers(0, 0xFFFF)),
    areas=st.tuples(*[st.one_of(st.integers(0, REGION), st.sampled_from(ODD_ADDRESSES))] * 3),
)
def test_rings_that_are_set_up_wrongly(
    packed: bool, size: int, areas: tuple[int, int, int]
) -> None:
    features = spec.F_RING_PACKED if packed else 0
    case = RingCase(features, size, areas, step(ALLOW) + step(POP), b"")
    assert case.play(open_queue) == case.play(NativeQueue)
