"""VIRTIO 1.2 §4.2: the registers of the MMIO transport and its interrupt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.virtio import mmio_spec as spec
from pyvmm.virtio import virtio_spec
from tests.fakes.interrupts import turn
from tests.unit.virtio.test_transport import Board


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    board.close()


def test_identity(board: Board) -> None:
    assert board.get(spec.MAGIC).to_bytes(4, "little") == b"virt"
    assert board.get(spec.VERSION) == 2
    assert board.get(spec.DEVICE_ID) == virtio_spec.ID_BLOCK
    assert board.get(spec.VENDOR_ID) == 0x1AF4


def test_queue_sizes_are_told(board: Board) -> None:
    for index, size in enumerate((64, 256, 0)):
        board.set(spec.QUEUE_SEL, index)
        assert board.get(spec.QUEUE_SIZE_MAX) == size


def test_there_is_no_shared_memory(board: Board) -> None:
    board.set(spec.SHM_SEL, 0)
    for register in (spec.SHM_LEN, spec.SHM_LEN + 4, spec.SHM_BASE, spec.SHM_BASE + 4):
        assert board.get(register) == 0xFFFF_FFFF


def test_write_only_registers_read_as_zero(board: Board) -> None:
    board.start()
    for register in (spec.DRIVER_FEATURES, spec.QUEUE_SEL, spec.QUEUE_SIZE, spec.QUEUE_DESC):
        assert board.get(register) == 0


@pytest.mark.parametrize(("register", "size"), [(0x70, 1), (0x71, 1), (0x72, 2)])
def test_narrow_accesses_of_registers_do_nothing(board: Board, register: int, size: int) -> None:
    board.set(register, 1, size)
    assert board.status == 0
    board.status = 1
    assert board.get(register, size) == 0


def test_the_line_is_high_until_every_reason_is_acknowledged(board: Board) -> None:
    board.start()
    board.device.interrupt(0)
    board.transport.config_changed()
    turn(board.loop)
    assert board.get(spec.INTERRUPT_STATUS) == 3
    assert board.line.edges == 1
    board.set(spec.INTERRUPT_ACK, virtio_spec.INTERRUPT_QUEUE)
    assert board.get(spec.INTERRUPT_STATUS) == virtio_spec.INTERRUPT_CONFIG
    assert board.line.level
    assert board.line.edges == 2  # a controller that waits for an edge sees that there is more
    board.set(spec.INTERRUPT_ACK, virtio_spec.INTERRUPT_CONFIG)
    assert not board.line.level
