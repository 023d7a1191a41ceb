"""What a person is shown of a device: its registers by name, its queues by index."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.virtio import virtio_spec
from pyvmm.virtio.blk import Blk
from pyvmm.virtio.description import QueueDescription, describe, kind_of
from pyvmm.virtio.mmio import MmioTransport
from tests.fakes.driver import PACKED, SPLIT
from tests.fakes.interrupts import FakeDoorbells, Probe
from tests.fakes.lines import FakeLine
from tests.fakes.storage import MemoryStorage
from tests.unit.virtio.test_transport import BASE, FAILED, RUNNING, Board

AREA = 0x1_0000


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board(packed=True)
    yield board
    board.close()


def test_a_device_that_no_driver_has_is_reset(board: Board) -> None:
    found = describe(board.transport)
    assert (found.name, found.kind, found.status, found.negotiated) == ("probe", "block", (), ())
    assert {"VERSION_1", "RING_PACKED"} <= set(found.offered)
    assert not any(queue.enabled for queue in found.queues)


def test_status_and_features_are_named(board: Board) -> None:
    board.start(SPLIT)
    found = describe(board.transport)
    assert found.status == ("ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK")
    assert set(found.negotiated) == {"VERSION_1", "INDIRECT_DESC", "EVENT_IDX"}
    board.status = RUNNING | FAILED
    board.transport.needs_reset()
    assert describe(board.transport).status[-2:] == ("NEEDS_RESET", "FAILED")


def test_a_bit_without_a_name_has_its_number(board: Board) -> None:
    board.device.features |= 1 << 23
    assert "BIT 23" in describe(board.transport).offered


def test_indices_are_those_of_the_guests_memory(board: Board) -> None:
    board.negotiate(SPLIT)
    board.set_up_queue(0, 32, AREA)
    board.status = RUNNING
    board.memory.write_u16(AREA + 0x1002, 7)
    board.memory.write_u16(AREA + 0x2002, 5)
    first, second, *_ = describe(board.transport).queues
    assert first == QueueDescription(
        0, 32, True, AREA, AREA + 0x1000, AREA + 0x2000, None, 7, 5, None
    )
    assert (second.enabled, second.available, second.used) == (False, None, None)


def test_a_queue_outside_ram_has_no_indices(board: Board) -> None:
    board.start(SPLIT)
    assert describe(board.transport).queues[0].available is None


def test_a_packed_queue_has_no_indices_in_memory(board: Board) -> None:
    board.negotiate(SPLIT | PACKED)
    board.set_up_queue(0, 32, AREA)
    board.status = RUNNING
    found = describe(board.transport)
    assert found.packed
    assert found.queues[0].available is None


@pytest.mark.parametrize("features", [SPLIT, SPLIT | PACKED], ids=["split", "packed"])
def test_seen_is_how_far_a_device_has_come(features: int) -> None:
    board = Board()
    board.device = Blk("vda", MemoryStorage(), packed=True)  # type: ignore[assignment]
    board.transport = MmioTransport(
        board.device, board.memory, board.loop, FakeDoorbells(), base=BASE, line=FakeLine()
    )
    board.negotiate(features)
    board.set_up_queue(0, 32, AREA)
    board.status = RUNNING
    found = describe(board.transport)
    assert (found.queues[0].seen, found.data_path) == (0, "Python")
    board.transport.allow_dma(False)
    assert describe(board.transport).queues[0].seen == 0
    board.status = 0
    assert describe(board.transport).queues[0].seen is None
    board.close()


def test_every_kind_has_a_name() -> None:
    assert kind_of(virtio_spec.ID_NET) == "net"
    assert kind_of(virtio_spec.ID_FS) == "fs"
    assert kind_of(99) == "device 99"
    assert kind_of(Probe.ID) == "block"
