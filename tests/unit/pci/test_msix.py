"""PCI 3.0 §6.8.2: MSI-X's control, table and pending bits, and what may send when."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyvmm.pci import pci_spec as spec
from pyvmm.pci.function import Function
from pyvmm.pci.msix import Msix
from tests.fakes.interrupts import FakeVector, signalled

VECTORS = 3
TABLE, PBA = 0x4000, 0x6000
ENABLE, MASK = spec.MSIX_CONTROL_ENABLE, spec.MSIX_CONTROL_MASK


class Card:
    """A function with MSI-X, and an eventfd for each vector."""

    def __init__(self) -> None:
        self.function = Function(0x1AF4, 0x1042, 0)
        self.vectors = [FakeVector() for _ in range(VECTORS)]
        self.msix = Msix(self.function, 2, TABLE, PBA, self.vectors)
        self.at = spec.HEADER_SIZE
        self.eventfds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(VECTORS)]
        for index, eventfd in enumerate(self.eventfds):
            self.msix.bind(index, eventfd)

    def close(self) -> None:
        for eventfd in self.eventfds:
            os.close(eventfd)

    def control(self, value: int) -> None:
        self.function.write(self.at + spec.MSIX_CONTROL, 2, value)

    def bus_master(self, on: bool) -> None:
        self.function.write(spec.COMMAND, 2, spec.COMMAND_BUS_MASTER if on else 0)

    def mask(self, index: int, masked: bool) -> None:
        self.msix.write_table(index * 16 + spec.MSIX_VECTOR_CONTROL, 4, masked)

    def address(self, index: int, address: int, data: int) -> None:
        self.msix.write_table(index * 16, 4, address & 0xFFFF_FFFF)
        self.msix.write_table(index * 16 + 4, 4, address >> 32)
        self.msix.write_table(index * 16 + spec.MSIX_DATA, 4, data)

    def signal(self, index: int) -> None:
        os.eventfd_write(self.eventfds[index], 1)

    @property
    def sending(self) -> list[int]:
        """The vectors that may send."""
        return [index for index, vector in enumerate(self.vectors) if vector.connected]


@pytest.fixture
def card() -> Iterator[Card]:
    card = Card()
    yield card
    card.close()


@pytest.fixture
def live(card: Card) -> Card:
    """With everything unmasked."""
    card.bus_master(True)
    for index in range(VECTORS):
        card.address(index, 0xFEE0_0000 + (index << 12), 0x40 + index)
        card.mask(index, False)
    card.control(ENABLE)
    return card


def test_the_capability_says_how_many_and_where(card: Card) -> None:
    data = card.function.config.data[card.at : card.at + 12]
    assert data[0] == 0x11
    assert data[2:4] == (VECTORS - 1).to_bytes(2, "little")
    assert data[4:8] == (TABLE | 2).to_bytes(4, "little")
    assert data[8:12] == (PBA | 2).to_bytes(4, "little")
    card.control(0xFFFF)
    assert card.function.read(card.at + 2, 2) == 0xC000 | VECTORS - 1


def test_entries_are_masked_after_a_reset(card: Card) -> None:
    for index in range(VECTORS):
        assert [card.msix.read_table(index * 16 + at, 4) for at in (0, 4, 8, 12)] == [0, 0, 0, 1]
    assert card.msix.read_table(VECTORS * 16, 4) == 0


def test_table_entries_keep_what_exists_of_them(card: Card) -> None:
    card.msix.write_table(16, 4, 0xFEE0_0003)
    card.msix.write_table(20, 4, 0xFFFF_FFFF)
    card.msix.write_table(24, 4, 0x1234_5678)
    card.msix.write_table(28, 4, 0xFFFF_FFFF)
    assert card.msix.read_table(16, 4) == 0xFEE0_0000
    assert card.msix.read_table(20, 4) == 0xFFFF_FFFF
    assert card.msix.read_table(24, 4) == 0x1234_5678
    assert card.msix.read_table(28, 4) == 1
    card.msix.write_table(26, 2, 0xABCD)
    assert card.msix.read_table(24, 4) == 0xABCD_5678
    card.msix.write_table(VECTORS * 16, 4, 0xFFFF_FFFF)


def test_a_vector_sends_its_message_once_it_may(live: Card) -> None:
    assert live.sending == [0, 1, 2]
    assert live.vectors[1].message == (0xFEE0_1000, 0x41)
    assert live.vectors[1].connected == {live.eventfds[1]}


def test_a_message_that_changes_while_it_may_send_is_the_next_to_be_sent(live: Card) -> None:
    live.address(1, 0x1_FEE0_0000, 0x77)
    assert live.vectors[1].message == (0x1_FEE0_0000, 0x77)


def test_each_mask_holds_interrupts_and_shows_them_as_pending(live: Card) -> None:
    def held(index: int) -> None:
        assert index not in live.sending
        live.signal(index)
        assert live.msix.read_pending(0, 4) == 1 << index
        assert live.msix.read_pending(0, 1) == 1 << index
        assert live.msix.read_pending(1, 1) == 0
        assert signalled(live.eventfds[index]) == 1

    live.mask(1, True)
    assert live.sending == [0, 2]
    held(1)
    live.mask(1, False)
    live.control(ENABLE | MASK)
    held(2)
    live.control(ENABLE)
    live.bus_master(False)
    held(0)
    live.bus_master(True)
    assert live.sending == [0, 1, 2]
    live.control(0)
    held(0)


def test_interrupts_that_may_be_sent_are_not_pending(live: Card) -> None:
    live.signal(0)
    assert live.msix.read_pending(0, 8) == 0


def test_several_interrupts_may_share_a_vector(live: Card) -> None:
    live.msix.unbind(2, live.eventfds[2])
    live.msix.bind(0, live.eventfds[2])
    assert live.vectors[0].connected == {live.eventfds[0], live.eventfds[2]}
    assert live.sending == [0, 1]
    live.mask(0, True)
    live.signal(2)
    assert live.msix.read_pending(0, 4) == 1


def test_enabling_is_told_once(card: Card) -> None:
    told: list[bool] = []
    card.msix.on_enable = lambda: told.append(card.msix.enabled)
    card.control(ENABLE)
    card.control(ENABLE | MASK)
    card.control(0)
    assert told == [True, False]


def test_a_reset_of_the_function_masks_everything(live: Card) -> None:
    live.function.reset()
    assert live.sending == []
    assert not live.msix.enabled
    assert live.msix.read_table(12, 4) == 1


class Hammer(RuleBasedStateMachine):
    """Any access in any order: a vector sends if and only if nothing holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.card = Card()

    def teardown(self) -> None:
        self.card.close()

    @rule(offset=st.integers(0, VECTORS * 16 + 15), size=st.sampled_from([1, 2, 4]),
          value=st.integers(0, 2**32 - 1) | st.sampled_from([0, 1]))  # fmt: skip
    def table(self, offset: int, size: int, value: int) -> None:
        offset &= -size
        self.card.msix.write_table(offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= self.card.msix.read_table(offset, size) < 1 << 8 * size

    @rule(value=st.sampled_from([0, ENABLE, MASK, ENABLE | MASK, 0xFFFF]))
    def control(self, value: int) -> None:
        self.card.control(value)

    @rule(on=st.booleans())
    def bus_master(self, on: bool) -> None:
        self.card.bus_master(on)

    @rule(index=st.integers(0, VECTORS - 1), bound=st.booleans())
    def bind(self, index: int, bound: bool) -> None:
        change = self.card.msix.bind if bound else self.card.msix.unbind
        change(index, self.card.eventfds[index])

    @invariant()
    def what_sends_is_what_may(self) -> None:
        card = self.card
        on = card.function.config.get(card.at + 2, 2) & (ENABLE | MASK) == ENABLE
        on = on and card.function.bus_master
        for index in range(VECTORS):
            masked = card.msix.read_table(16 * index + 12, 4)
            assert masked in (0, 1)
            bound = card.msix._bound[index]
            assert card.vectors[index].connected == (bound if on and not masked else set())
            if card.vectors[index].connected:
                low, high, data, _ = (card.msix.read_table(16 * index + 4 * n, 4) for n in range(4))
                assert card.vectors[index].message == (high << 32 | low, data)


TestHammer = Hammer.TestCase
TestHammer.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
