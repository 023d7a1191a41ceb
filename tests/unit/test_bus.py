"""The bus: who answers what, and what becomes of accesses that nobody can take as they are."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.bus import Bus, Device, Window
from pyvmm.errors import UsageError


class Registers(Device):
    """Bytes, and a log of the accesses; each must come as the device's claim allows."""

    def __init__(self, name: str, size: int, width: int) -> None:
        super().__init__(name)
        self.bytes = bytearray(range(1, size + 1))
        self.width = width
        self.log: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self._check("read", offset, size)
        return int.from_bytes(self.bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self._check("write", offset, size)
        self.bytes[offset : offset + size] = value.to_bytes(size, "little")

    def _check(self, kind: str, offset: int, size: int) -> None:
        assert self.lock.locked()
        assert size in (1, 2, 4, 8)
        assert size <= self.width
        assert offset % size == 0
        assert 0 <= offset <= len(self.bytes) - size
        self.log.append((kind, offset, size))


def test_an_access_reaches_the_device_whose_claim_holds_it() -> None:
    bus = Bus("pio")
    low, high = Registers("low", 4, 4), Registers("high", 4, 4)
    bus.claim(0x20, 4, high, width=4)
    bus.claim(0x10, 4, low, width=4)
    assert bus.read(0x12, 2) == 0x0403
    bus.write(0x20, 4, 0xDDCCBBAA)
    assert high.bytes == b"\xaa\xbb\xcc\xdd"
    assert low.log == [("read", 2, 2)]
    assert [claim.base for claim in bus.claims] == [0x10, 0x20]


def test_what_nobody_claimed_reads_as_ones_and_takes_no_writes() -> None:
    bus = Bus("pio")
    for size in (1, 2, 4, 8):
        assert bus.read(0x1000, size) == (1 << 8 * size) - 1
        bus.write(0x1000, size, 0)


@pytest.mark.parametrize(("base", "size"), [(0xF, 2), (0x10, 1), (0x13, 1), (0x8, 0x20), (0x13, 9)])
def test_an_overlapping_claim_is_refused_and_names_both(base: int, size: int) -> None:
    bus = Bus("pio")
    bus.claim(0x10, 4, Registers("first", 4, 1))
    with pytest.raises(UsageError, match=r"second at pio .* overlaps first at 0x10"):
        bus.claim(base, size, Registers("second", size, 1))


@pytest.mark.parametrize(("base", "size"), [(0xE, 2), (0x14, 4)])
def test_a_claim_may_touch_another(base: int, size: int) -> None:
    bus = Bus("pio")
    bus.claim(0x10, 4, Registers("first", 4, 1))
    bus.claim(base, size, Registers("second", size, 1))


def test_a_wide_access_is_split_lowest_address_first() -> None:
    bus = Bus("pio")
    device = Registers("narrow", 4, 1)
    bus.claim(0x10, 4, device)
    assert bus.read(0x10, 4) == 0x04030201
    bus.write(0x10, 2, 0xBBAA)
    assert device.log == [("read", at, 1) for at in range(4)] + [("write", 0, 1), ("write", 1, 1)]


def test_a_misaligned_access_is_split_at_the_alignment() -> None:
    bus = Bus("mmio")
    device = Registers("wide", 8, 4)
    bus.claim(0x1000, 8, device, width=4)
    assert bus.read(0x1001, 4) == 0x05040302
    assert device.log == [("read", 1, 1), ("read", 2, 2), ("read", 4, 1)]


def test_alignment_is_that_of_the_register_not_of_the_address() -> None:
    bus = Bus("pio")
    device = Registers("odd", 4, 2)
    bus.claim(0x71, 2, device, offset=2, width=2)
    assert bus.read(0x71, 2) == 0x0403
    assert device.log == [("read", 2, 2)]


def test_an_access_across_the_end_of_a_claim_reads_ones_there() -> None:
    bus = Bus("pio")
    bus.claim(0x10, 2, Registers("short", 2, 4), width=4)
    assert bus.read(0x10, 4) == 0xFFFF0201
    assert bus.read(0xF, 2) == 0x01FF
    bus.write(0xE, 8, 0)


def test_a_device_may_have_two_claims() -> None:
    bus = Bus("pio")
    device = Registers("i8042", 2, 1)
    bus.claim(0x60, 1, device, offset=0)
    bus.claim(0x64, 1, device, offset=1)
    assert (bus.read(0x60, 1), bus.read(0x64, 1)) == (1, 2)


def test_what_is_posted_is_drained_before_any_other_access() -> None:
    order = []

    class Draining(Window):
        def drain(self) -> None:
            order.append("drain")

    class Logging(Device):
        def read(self, offset: int, size: int) -> int:
            order.append("read")
            return 0

        def write(self, offset: int, size: int, value: int) -> None:
            order.append("write")

    bus = Bus("pio", lambda *_: Draining())
    bus.claim(0, 1, Logging("device"))
    bus.read(0, 1)
    bus.write(0, 1, 0)
    assert order == ["drain", "read", "drain", "write"]


def test_a_device_that_fails_gives_its_lock_back() -> None:
    class Failing(Device):
        def read(self, offset: int, size: int) -> int:
            raise ZeroDivisionError

    device = Failing("failing")
    bus = Bus("pio")
    bus.claim(0, 1, device)
    with pytest.raises(ZeroDivisionError):
        bus.read(0, 1)
    assert not device.lock.locked()


SIZES = st.sampled_from((1, 2, 4, 8))
CLAIMS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(1, 12), SIZES, st.integers(0, 3)), max_size=4
)


def make_bus(claims: list[tuple[int, int, int, int]]) -> tuple[Bus, dict[int, int]]:
    """Claims one behind the other, with gaps; and what byte each address has."""
    bus, expected, at = Bus("mmio"), {}, 0x100
    for gap, size, width, offset in claims:
        at += gap
        device = Registers(f"device at {at:#x}", size + offset, width)
        bus.claim(at, size, device, offset=offset, width=width)
        expected |= {at + i: device.bytes[offset + i] for i in range(size)}
        at += size
    return bus, expected


@given(CLAIMS, st.integers(0xF8, 0x140), SIZES)
def test_any_read_gives_the_bytes_of_whoever_has_them(
    claims: list[tuple[int, int, int, int]], address: int, size: int
) -> None:
    bus, expected = make_bus(claims)
    data = bus.read(address, size).to_bytes(size, "little")
    assert data == bytes(expected.get(address + i, 0xFF) for i in range(size))


@given(CLAIMS, st.integers(0xF8, 0x140), SIZES, st.binary(min_size=8, max_size=8))
def test_any_write_changes_the_bytes_it_covers_and_no_other(
    claims: list[tuple[int, int, int, int]], address: int, size: int, data: bytes
) -> None:
    bus, expected = make_bus(claims)
    bus.write(address, size, int.from_bytes(data[:size], "little"))
    expected |= {address + i: data[i] for i in range(size) if address + i in expected}
    assert all(bus.read(at, 1) == value for at, value in expected.items())


@given(CLAIMS)
def test_claims_never_overlap(claims: list[tuple[int, int, int, int]]) -> None:
    bus, _ = make_bus(claims)
    for first, second in itertools.pairwise(bus.claims):
        assert first.end <= second.base


def test_what_is_placed_can_be_moved_while_others_stay() -> None:
    bus = Bus("mmio")
    fixed, moving = Device("fixed"), Device("moving")
    bus.claim(0x1000, 0x100, fixed)
    bus.place(0x2000, 0x100, moving, width=4)
    with pytest.raises(UsageError, match="moving at mmio 0x10f0 overlaps fixed at 0x1000"):
        bus.place(0x10F0, 0x100, moving)
    bus.remove(0x2000)
    bus.place(0x0800, 0x100, moving, width=4)
    assert [(claim.base, claim.device) for claim in bus.claims] == [
        (0x0800, moving),
        (0x1000, fixed),
    ]
