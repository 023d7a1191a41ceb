"""VIRTIO 1.2 §2 and §3.1: status, features, queues and configuration, whatever the transport."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.errors import HostError
from pyvmm.layout import MIB
from pyvmm.loop import Loop
from pyvmm.memory import GuestMemory
from pyvmm.virtio import mmio_spec, virtio_spec
from pyvmm.virtio.mmio import MmioTransport
from tests.fakes.interrupts import PROBE_FEATURE, FakeDoorbells, Probe, signalled, turn
from tests.fakes.lines import FakeLine

ACK, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
NEEDS_RESET, FAILED = 64, 128
READY = ACK | DRIVER | FEATURES_OK
RUNNING = READY | DRIVER_OK
BASE = 0xFEB0_0000


class Board:
    """An MMIO transport with a probe behind it, and the accesses of a driver."""

    def __init__(self, *, packed: bool = False) -> None:
        self.memory = GuestMemory(MIB)
        self.loop = Loop()
        self.line = FakeLine()
        self.doorbells = FakeDoorbells()
        self.device = Probe(packed=packed)
        self.transport = MmioTransport(
            self.device, self.memory, self.loop, self.doorbells, base=BASE, line=self.line
        )

    def close(self) -> None:
        self.transport.close()
        self.loop.close()
        self.memory.close()

    def get(self, register: int, size: int = 4) -> int:
        return self.transport.read(register, size)

    def set(self, register: int, value: int, size: int = 4) -> None:
        self.transport.write(register, size, value)

    @property
    def status(self) -> int:
        return self.get(mmio_spec.STATUS)

    @status.setter
    def status(self, value: int) -> None:
        self.set(mmio_spec.STATUS, value)

    def offered(self) -> int:
        features = 0
        for word in range(2):
            self.set(mmio_spec.DEVICE_FEATURES_SEL, word)
            features |= self.get(mmio_spec.DEVICE_FEATURES) << 32 * word
        return features

    def accept(self, features: int) -> None:
        for word in range(2):
            self.set(mmio_spec.DRIVER_FEATURES_SEL, word)
            self.set(mmio_spec.DRIVER_FEATURES, features >> 32 * word & 0xFFFF_FFFF)

    def negotiate(self, features: int = virtio_spec.F_VERSION_1) -> None:
        self.status = 0
        self.status = ACK
        self.status = ACK | DRIVER
        self.accept(features)
        self.status = READY

    def set_up_queue(self, index: int, size: int, area: int = 0x1_2345_6000) -> None:
        self.set(mmio_spec.QUEUE_SEL, index)
        self.set(mmio_spec.QUEUE_SIZE, size)
        for number, register in enumerate(
            (mmio_spec.QUEUE_DESC, mmio_spec.QUEUE_DRIVER, mmio_spec.QUEUE_DEVICE)
        ):
            self.set(register, area + number * 0x1000 & 0xFFFF_FFFF)
            self.set(register + 4, area >> 32)
        self.set(mmio_spec.QUEUE_READY, 1)

    def start(self, features: int = virtio_spec.F_VERSION_1) -> None:
        self.negotiate(features)
        self.set_up_queue(0, 32)
        self.set_up_queue(1, 256)
        self.status = RUNNING


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    board.close()


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING)
    return caplog


def test_a_driver_gets_to_driver_ok_in_the_order_of_section_3_1_1(board: Board) -> None:
    for status in (ACK, ACK | DRIVER):
        board.status = status
        assert board.status == status
    assert board.offered() & PROBE_FEATURE
    assert board.offered() & virtio_spec.F_VERSION_1
    board.accept(virtio_spec.F_VERSION_1 | PROBE_FEATURE)
    board.status = READY
    assert board.status == READY
    assert board.device.told == []
    board.status = RUNNING
    assert board.device.told == ["activate"]
    assert board.device.negotiated == virtio_spec.F_VERSION_1 | PROBE_FEATURE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (0, DRIVER),
        (0, DRIVER_OK),
        (0, FEATURES_OK),
        (ACK | DRIVER, ACK | DRIVER | DRIVER_OK),  # a driver of before 1.0
        (ACK | DRIVER, RUNNING),  # without looking whether the features were taken
        (ACK | DRIVER, ACK),
        (READY, ACK | DRIVER),
        (RUNNING, READY),
        (RUNNING, DRIVER_OK),
        (ACK, ACK | 16),
        (READY, RUNNING | 32),
    ],
)
def test_other_changes_of_status_are_refused(
    board: Board, complaints: pytest.LogCaptureFixture, before: int, after: int
) -> None:
    steps = [ACK, ACK | DRIVER, READY, RUNNING]
    for step in steps[: steps.index(before) + 1] if before else []:
        if step == READY:
            board.accept(virtio_spec.F_VERSION_1)
        board.status = step
    told = list(board.device.told)
    board.status = after
    assert board.status == before
    assert board.device.told == told
    board.status = after
    assert complaints.text.count("§2.1.1") == 1


def test_a_driver_may_give_up_at_any_time_and_start_again(board: Board) -> None:
    board.status = ACK
    board.status = ACK | FAILED
    assert board.status == ACK | FAILED
    board.status = ACK  # it cannot take that back but by a reset
    assert board.status == ACK | FAILED
    board.start()
    assert board.status == RUNNING


@pytest.mark.parametrize(
    "features",
    [0, PROBE_FEATURE, virtio_spec.F_VERSION_1 | 1 << 5, virtio_spec.F_VERSION_1 | 1 << 63,
     virtio_spec.F_VERSION_1 | virtio_spec.F_RING_PACKED],
)  # fmt: skip
def test_features_without_version_1_or_not_offered_are_not_accepted(
    board: Board, features: int
) -> None:
    board.negotiate(features)
    assert board.status == ACK | DRIVER
    board.status = RUNNING
    assert board.device.told == []


def test_features_stay_as_they_were_accepted(board: Board) -> None:
    board.negotiate(virtio_spec.F_VERSION_1)
    board.accept(virtio_spec.F_VERSION_1 | PROBE_FEATURE)
    board.status = RUNNING
    assert board.device.negotiated == virtio_spec.F_VERSION_1


def test_feature_words_that_do_not_exist_are_zero(board: Board) -> None:
    for word in (2, 31, 0xFFFF_FFFF):
        board.set(mmio_spec.DEVICE_FEATURES_SEL, word)
        assert board.get(mmio_spec.DEVICE_FEATURES) == 0
        board.set(mmio_spec.DRIVER_FEATURES_SEL, word)
        board.set(mmio_spec.DRIVER_FEATURES, 0xFFFF_FFFF)
    board.negotiate()
    assert board.status == READY


def test_a_device_gets_the_enabled_queues_as_they_were_set_up(board: Board) -> None:
    board.negotiate()
    board.set_up_queue(1, 128)
    board.status = RUNNING
    (ring,) = board.device.rings
    assert (ring.index, ring.size, ring.features) == (1, 128, virtio_spec.F_VERSION_1)
    assert ring.descriptor_area == 0x1_2345_6000
    assert ring.driver_area == 0x1_2345_7000
    assert ring.device_area == 0x1_2345_8000


@pytest.mark.parametrize("size", [0, 3, 48, 512, 0xFFFF_FFFF])
def test_a_queue_size_that_split_rings_have_not_is_refused(
    board: Board, complaints: pytest.LogCaptureFixture, size: int
) -> None:
    board.negotiate()
    board.set_up_queue(1, size)
    board.status = RUNNING
    assert board.device.rings[0].size == 256
    assert "§2.7" in complaints.text


def test_a_packed_ring_may_have_any_size() -> None:
    board = Board(packed=True)
    board.negotiate(virtio_spec.F_VERSION_1 | virtio_spec.F_RING_PACKED)
    board.set_up_queue(1, 100)
    board.status = RUNNING
    assert board.device.rings[0].size == 100
    board.close()


def test_queues_cannot_be_set_up_before_features_ok_nor_after_driver_ok(
    board: Board, complaints: pytest.LogCaptureFixture
) -> None:
    board.status = ACK
    board.set_up_queue(0, 16)
    assert board.get(mmio_spec.QUEUE_READY) == 0
    assert "out of turn" in complaints.text
    board.start()
    board.set_up_queue(0, 16)
    board.set(mmio_spec.QUEUE_READY, 0)
    assert board.get(mmio_spec.QUEUE_READY) == 1
    assert [ring.size for ring in board.device.rings] == [32, 256]


def test_an_enabled_queue_does_not_change(board: Board) -> None:
    board.negotiate()
    board.set_up_queue(0, 32)
    board.set_up_queue(0, 64, 0x5000)
    board.status = RUNNING
    assert (board.device.rings[0].size, board.device.rings[0].device_area) == (32, 0x1_2345_8000)


def test_queues_that_do_not_exist_are_empty(board: Board) -> None:
    board.negotiate()
    for index in (2, 0xFFFF_FFFF):
        board.set_up_queue(index, 16)
        assert board.get(mmio_spec.QUEUE_SIZE_MAX) == board.get(mmio_spec.QUEUE_READY) == 0


def test_a_reset_puts_back_every_register_after_the_device_has_stopped(board: Board) -> None:
    board.start()
    board.device.interrupt(0)
    turn(board.loop)
    assert board.line.level
    board.transport.notify(1)
    before = [queue.doorbell for queue in board.transport.queues]
    board.status = 0
    assert board.device.told == ["activate", "deactivate"]
    assert board.status == board.get(mmio_spec.INTERRUPT_STATUS) == 0
    assert not board.line.level
    assert board.doorbells.connected == {}
    assert [signalled(doorbell) for doorbell in before] == [0, 0]
    board.set(mmio_spec.QUEUE_SEL, 0)
    assert board.get(mmio_spec.QUEUE_READY) == 0
    board.status = 0
    assert board.device.told == ["activate", "deactivate"]
    board.start()
    assert board.device.told == ["activate", "deactivate", "activate"]


def test_what_was_signalled_before_a_reset_interrupts_nobody_afterwards(board: Board) -> None:
    board.start()
    board.device.interrupt(0)
    board.status = 0
    turn(board.loop)
    assert not board.line.level
    board.start()
    turn(board.loop)
    assert not board.line.level


def test_a_device_that_needs_a_reset_says_so_with_an_interrupt(board: Board) -> None:
    board.start()
    board.transport.needs_reset()
    turn(board.loop)
    assert board.status == RUNNING | NEEDS_RESET
    assert board.get(mmio_spec.INTERRUPT_STATUS) == virtio_spec.INTERRUPT_CONFIG
    board.status = RUNNING | NEEDS_RESET  # Linux adds bits to what it reads
    assert board.status == RUNNING | NEEDS_RESET
    board.status = 0
    assert board.status == 0


def test_a_changed_configuration_has_a_new_generation_and_interrupts(board: Board) -> None:
    board.start()
    generation = board.get(mmio_spec.CONFIG_GENERATION)
    board.device.config[0] = 0xAA
    assert board.get(mmio_spec.CONFIG, 1) == 0  # what is seen changes with the generation only
    board.transport.config_changed()
    assert board.get(mmio_spec.CONFIG, 1) == 0xAA
    assert board.get(mmio_spec.CONFIG_GENERATION) == generation + 1
    turn(board.loop)
    assert board.get(mmio_spec.INTERRUPT_STATUS) == virtio_spec.INTERRUPT_CONFIG


def test_a_change_before_driver_ok_does_not_interrupt(board: Board) -> None:
    board.negotiate()
    board.transport.config_changed()
    board.set_up_queue(0, 32)
    board.status = RUNNING
    turn(board.loop)
    assert not board.line.level


def test_configuration_is_read_and_written_at_every_width(board: Board) -> None:
    assert board.get(mmio_spec.CONFIG, 4) == 0x0302_0100
    assert board.get(mmio_spec.CONFIG + 6, 2) == 0x0706
    assert board.get(mmio_spec.CONFIG + 6, 4) == 0x0706
    assert board.get(mmio_spec.CONFIG + 8, 4) == 0
    generation = board.get(mmio_spec.CONFIG_GENERATION)
    board.set(mmio_spec.CONFIG + 2, 0x55, 1)
    assert board.get(mmio_spec.CONFIG, 4) == 0x0355_0100
    assert board.get(mmio_spec.CONFIG_GENERATION) == generation


def test_a_device_is_quiet_while_it_may_not_reach_memory(board: Board) -> None:
    board.transport.allow_dma(False)
    board.start()
    assert board.device.told == []
    board.transport.allow_dma(True)
    board.transport.allow_dma(True)
    board.transport.allow_dma(False)
    board.transport.allow_dma(True)
    assert board.device.told == ["activate", "quiesce", "resume"]
    board.transport.allow_dma(False)
    board.status = 0
    board.transport.allow_dma(True)
    assert board.device.told[3:] == ["quiesce", "deactivate"]


def test_a_device_that_the_host_cannot_start_needs_a_reset(
    board: Board, monkeypatch: pytest.MonkeyPatch, complaints: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise HostError("The host allows no more threads")

    monkeypatch.setattr(board.device, "activate", refuse)
    board.start()
    assert board.status == RUNNING | NEEDS_RESET
    assert "no more threads" in complaints.text
    turn(board.loop)
    assert board.get(mmio_spec.INTERRUPT_STATUS) == virtio_spec.INTERRUPT_CONFIG
    assert board.device.told == ["deactivate"]  # what it has begun
    monkeypatch.undo()
    board.start()
    assert board.device.told[1:] == ["activate"]


def test_complaints_do_not_fill_the_log(board: Board, complaints: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        board.status = DRIVER_OK
        board.status = 0
    assert len(complaints.records) <= 17


def test_doorbells_are_connected_while_the_device_is_active(board: Board) -> None:
    board.negotiate()
    board.set_up_queue(1, 16)
    assert board.doorbells.connected == {}
    board.status = RUNNING
    ring = board.device.rings[0]
    assert board.doorbells.connected == {(BASE + mmio_spec.QUEUE_NOTIFY, 1): ring.doorbell}
    board.set(mmio_spec.QUEUE_NOTIFY, 1)
    assert signalled(ring.doorbell) == 1
    board.set(mmio_spec.QUEUE_NOTIFY, 0)
    board.set(mmio_spec.QUEUE_NOTIFY, 7)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.integers(0, 0x110) | st.sampled_from([mmio_spec.STATUS, mmio_spec.QUEUE_READY]),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 2**32 - 1) | st.integers(0, 16) | st.sampled_from([READY, RUNNING]),
        ),
        max_size=60,
    )
)
def test_no_access_in_any_order_does_harm(accesses: list[tuple[bool, int, int, int]]) -> None:
    board = Board()
    board.negotiate()
    for write, register, size, value in accesses:
        if write:
            board.set(register, value & (1 << 8 * size) - 1, size)
        assert 0 <= board.get(register, size) < 1 << 8 * size
        assert board.status & ~FAILED in (0, ACK, ACK | DRIVER, READY, RUNNING)
        assert ("activate" in board.device.told[-1:]) == bool(board.status & DRIVER_OK)
    board.close()
