"""What a person is shown of the PCI bus."""

from __future__ import annotations

import pytest

from pyvmm.pci import pci_spec as spec
from pyvmm.pci.description import BarDescription, describe
from tests.unit.pci.test_root import Board


@pytest.fixture
def board() -> Board:
    return Board()


def test_functions_come_in_the_order_of_their_places(board: Board) -> None:
    bridge, card = describe(board.root)
    assert (bridge.device, bridge.class_code >> 8, bridge.bars) == (0, 0x0600, ())
    assert (card.device, card.number, card.vendor, card.device_id) == (3, 0, 0x1AF4, 0x1042)
    assert (card.class_code, card.revision, card.pin, card.vectors) == (0x01_0802, 1, 1, 0)
    assert (bridge.pin, bridge.capabilities) == (spec.PIN_NONE, ())


def test_bars_are_where_the_guest_has_put_them(board: Board) -> None:
    board.card.write(spec.BAR0, 4, 0xC010_0000)
    memory, ports, high = describe(board.root)[1].bars
    assert memory == BarDescription(0, 0x4000, False, 32, False, None)
    assert (ports.ports, ports.size) == (True, 0x20)
    assert (high.width, high.prefetch, high.size) == (64, True, 1 << 33)
    board.card.write(spec.COMMAND, 2, spec.COMMAND_MEMORY)
    assert describe(board.root)[1].bars[0].address == 0xC010_0000


def test_capabilities_have_their_bytes(board: Board) -> None:
    first = board.card.config.add_capability(spec.CAPABILITY_VENDOR, b"abcd")
    second = board.card.config.add_capability(spec.CAPABILITY_MSIX, b"efgh")
    one, other = describe(board.root)[1].capabilities
    assert (one.offset, one.identity, one.body[:4]) == (first, spec.CAPABILITY_VENDOR, b"abcd")
    assert (other.offset, other.body[:4]) == (second, b"efgh")
    assert len(one.body) == second - first - spec.CAPABILITY_HEADER
