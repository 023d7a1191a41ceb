"""VIRTIO 1.2 §4.1: the PCI function, what its capabilities point to, and its interrupts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm import layout
from pyvmm.bus import Bus
from pyvmm.errors import UsageError
from pyvmm.layout import MIB
from pyvmm.loop import Loop
from pyvmm.memory import GuestMemory
from pyvmm.pci import pci_spec as pci
from pyvmm.pci.function import HostBridge
from pyvmm.pci.root import PciRoot
from pyvmm.virtio import pci_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.pci import PciTransport
from tests.fakes.interrupts import FakeDoorbells, FakeVector, Probe, signalled, turn
from tests.fakes.lines import FakeLine, FakeWindow
from tests.unit.virtio.test_transport import READY, RUNNING

BAR = layout.PCI_WINDOW + 0x10_0000
ELSEWHERE = layout.PCI_WINDOW + 0x20_0000
MASTER = pci.COMMAND_BUS_MASTER | pci.COMMAND_MEMORY


class Slot:
    """A probe on a PCI bus, and a driver's way to it."""

    def __init__(self, mmio: Bus, root: PciRoot, number: int) -> None:
        self.mmio = mmio
        self.config = layout.ECAM + (number << 15)
        self.memory = GuestMemory(MIB)
        self.loop = Loop()
        self.line = FakeLine()
        self.doorbells = FakeDoorbells()
        self.vectors = [FakeVector() for _ in range(3)]
        self.device = Probe()
        self.transport = PciTransport(
            self.device,
            self.memory,
            self.loop,
            self.doorbells,
            mmio=mmio,
            line=self.line,
            vectors=self.vectors,
        )
        root.add(number, self.transport.function)

    def close(self) -> None:
        self.transport.close()
        self.loop.close()
        self.memory.close()

    # ---- configuration space ----

    def read(self, register: int, size: int = 4) -> int:
        return self.mmio.read(self.config + register, size)

    def write(self, register: int, size: int, value: int) -> None:
        self.mmio.write(self.config + register, size, value)

    def place(self, address: int, command: int = MASTER) -> None:
        self.write(pci.BAR0, 4, address & 0xFFFF_FFFF)
        self.write(pci.BAR0 + 4, 4, address >> 32)
        self.write(pci.COMMAND, 2, command)

    def capabilities(self) -> list[tuple[int, int, bytes]]:
        """(identity, offset, bytes) of each; a vendor's says how long it is, MSI-X has 12."""
        found, at = [], self.read(pci.CAPABILITIES, 1)
        while at:
            identity = self.read(at, 1)
            size = self.read(at + 2, 1) if identity == pci.CAPABILITY_VENDOR else 12
            data = bytes(self.read(at + offset, 1) for offset in range(size))
            found.append((identity, at, data))
            at = self.read(at + 1, 1)
        return found

    def structure(self, kind: int) -> tuple[int, bytes]:
        """The offset and the bytes of the virtio capability of a kind."""
        ((at, data),) = [
            (at, data)
            for identity, at, data in self.capabilities()
            if identity == pci.CAPABILITY_VENDOR and data[3] == kind
        ]
        return at, data

    def window(self, at: int, size: int) -> None:
        capability, _ = self.structure(spec.CAP_PCI)
        self.write(capability + spec.CAP_BAR, 1, spec.BAR)
        self.write(capability + spec.CAP_OFFSET, 4, at)
        self.write(capability + spec.CAP_LENGTH, 4, size)

    @property
    def window_data(self) -> int:
        return self.structure(spec.CAP_PCI)[0] + spec.CAP_DATA

    # ---- the common configuration ----

    def get(self, at: int, size: int) -> int:
        return self.mmio.read(BAR + spec.COMMON + at, size)

    def set(self, at: int, size: int, value: int) -> None:
        self.mmio.write(BAR + spec.COMMON + at, size, value)

    def start(self, queues: int = 2) -> None:
        for status in (0, 1, 3):
            self.set(spec.DEVICE_STATUS, 1, status)
        self.set(spec.DRIVER_FEATURE_SELECT, 4, 1)
        self.set(spec.DRIVER_FEATURE, 4, virtio_spec.F_VERSION_1 >> 32)
        self.set(spec.DEVICE_STATUS, 1, READY)
        for index in range(queues):
            self.set(spec.QUEUE_SELECT, 2, index)
            self.set(spec.QUEUE_SIZE, 2, 16)
            for area in (spec.QUEUE_DESC, spec.QUEUE_DRIVER, spec.QUEUE_DEVICE):
                self.set(area, 4, area << 12)
                self.set(area + 4, 4, 1)
            self.set(spec.QUEUE_ENABLE, 2, 1)
        self.set(spec.DEVICE_STATUS, 1, RUNNING)

    def enable_msix(self) -> None:
        (at,) = [at for kind, at, _ in self.capabilities() if kind == pci.CAPABILITY_MSIX]
        for entry in range(3):
            base = BAR + spec.MSIX_TABLE + 16 * entry
            self.mmio.write(base, 8, 0xFEE0_0000)
            self.mmio.write(base + 8, 4, 0x30 + entry)
            self.mmio.write(base + 12, 4, 0)
        self.write(at + pci.MSIX_CONTROL, 2, pci.MSIX_CONTROL_ENABLE)

    def choose_vectors(self) -> None:
        """Entry 0 for the configuration, 1 and 2 for the queues."""
        self.set(spec.CONFIG_MSIX_VECTOR, 2, 0)
        for index in range(2):
            self.set(spec.QUEUE_SELECT, 2, index)
            self.set(spec.QUEUE_MSIX_VECTOR, 2, 1 + index)


class Board:
    def __init__(self) -> None:
        self.mmio = Bus("mmio", lambda *claim: FakeWindow())
        self.root = PciRoot("PCI", lambda: None)
        self.root.add(0, HostBridge())
        self.slots = [Slot(self.mmio, self.root, number) for number in (1, 2)]
        self.root.claim(Bus("pio"), self.mmio)
        self.root.reset()


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    for slot in board.slots:
        slot.close()


@pytest.fixture
def slot(board: Board) -> Slot:
    slot = board.slots[0]
    slot.place(BAR)
    return slot


def test_the_function_is_a_modern_virtio_device(slot: Slot) -> None:
    assert slot.read(pci.VENDOR_ID, 2) == 0x1AF4
    assert slot.read(pci.DEVICE_ID, 2) == 0x1042
    assert slot.read(pci.REVISION, 1) == 1
    assert slot.read(pci.CLASS, 1) | slot.read(pci.CLASS + 1, 2) << 8 == 0x01_0000
    assert slot.read(pci.SUBSYSTEM_ID, 2) >= 0x40
    assert slot.read(pci.INTERRUPT_PIN, 1) == 1
    slot.write(pci.BAR0, 4, 0xFFFF_FFFF)
    assert slot.read(pci.BAR0) == (-spec.BAR_SIZE & 0xFFFF_FFFF) | pci.BAR_64


def test_capabilities_point_into_the_bar_without_overlap(slot: Slot) -> None:
    spans = []
    for kind in (spec.CAP_COMMON, spec.CAP_ISR, spec.CAP_DEVICE, spec.CAP_NOTIFY):
        _, data = slot.structure(kind)
        assert data[spec.CAP_BAR] == spec.BAR
        offset = int.from_bytes(data[spec.CAP_OFFSET : spec.CAP_OFFSET + 4], "little")
        length = int.from_bytes(data[spec.CAP_LENGTH : spec.CAP_LENGTH + 4], "little")
        assert length
        spans.append((offset, offset + length))
    spans += [(spec.MSIX_TABLE, spec.MSIX_TABLE + 48), (spec.MSIX_PBA, spec.MSIX_PBA + 8)]
    spans.sort()
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    assert spans[-1][1] <= spec.BAR_SIZE
    _, notify = slot.structure(spec.CAP_NOTIFY)
    assert notify[16:] == (4).to_bytes(4, "little")


def test_a_driver_starts_the_device(slot: Slot) -> None:
    assert slot.get(spec.NUM_QUEUES, 2) == 2
    slot.start()
    assert slot.get(spec.DEVICE_STATUS, 1) == RUNNING
    assert slot.device.told == ["activate"]
    assert [ring.size for ring in slot.device.rings] == [16, 16]
    assert slot.device.rings[0].driver_area == 1 << 32 | spec.QUEUE_DRIVER << 12
    assert slot.get(spec.QUEUE_SIZE, 2) == 16
    assert slot.get(spec.QUEUE_NOTIFY_OFF, 2) == 1
    assert slot.get(spec.QUEUE_DEVICE, 8) == 1 << 32 | spec.QUEUE_DEVICE << 12


def test_common_configuration_is_read_at_any_width(slot: Slot) -> None:
    slot.set(spec.DEVICE_FEATURE_SELECT, 4, 1)
    whole = slot.get(spec.DEVICE_FEATURE, 4)
    assert whole == slot.device.features >> 32
    for at in range(4):
        assert slot.get(spec.DEVICE_FEATURE + at, 1) == whole >> 8 * at & 0xFF


def test_a_write_of_another_width_than_the_fields_does_nothing(
    slot: Slot, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        slot.set(spec.DEVICE_STATUS, 4, 0x0101_0101)
        slot.set(spec.QUEUE_SELECT, 1, 1)
    assert slot.get(spec.DEVICE_STATUS, 1) == slot.get(spec.QUEUE_SELECT, 2) == 0
    assert caplog.text.count("common configuration") == 1


def test_queues_that_do_not_exist_have_size_zero(slot: Slot) -> None:
    slot.set(spec.QUEUE_SELECT, 2, 2)
    assert slot.get(spec.QUEUE_SIZE, 2) == 0
    slot.set(spec.QUEUE_MSIX_VECTOR, 2, 0)
    assert slot.get(spec.QUEUE_MSIX_VECTOR, 2) == spec.NO_VECTOR


def test_every_queue_has_a_doorbell_of_its_own(slot: Slot) -> None:
    slot.start()
    bells = [ring.doorbell for ring in slot.device.rings]
    assert slot.doorbells.connected == {
        (BAR + spec.NOTIFY, None): bells[0],
        (BAR + spec.NOTIFY + 4, None): bells[1],
    }
    slot.mmio.write(BAR + spec.NOTIFY + 4, 2, 1)
    assert [signalled(bell) for bell in bells] == [0, 1]


def test_doorbells_move_with_the_bar(slot: Slot) -> None:
    slot.start()
    slot.place(ELSEWHERE)
    assert set(slot.doorbells.connected) == {
        (ELSEWHERE + spec.NOTIFY, None),
        (ELSEWHERE + spec.NOTIFY + 4, None),
    }
    assert slot.mmio.read(BAR, 4) == 0xFFFF_FFFF
    assert slot.mmio.read(ELSEWHERE + spec.DEVICE_STATUS, 1) == RUNNING
    slot.write(pci.COMMAND, 2, pci.COMMAND_BUS_MASTER)
    assert slot.doorbells.connected == {}
    assert slot.device.told == ["activate"]
    slot.write(pci.COMMAND, 2, MASTER)
    assert len(slot.doorbells.connected) == 2


def test_a_bar_on_top_of_another_is_not_there(
    board: Board, slot: Slot, caplog: pytest.LogCaptureFixture
) -> None:
    other = board.slots[1]
    with caplog.at_level(logging.WARNING):
        other.place(BAR)
    assert "overlaps" in caplog.text
    slot.start()
    assert slot.device.told == ["activate"]
    assert other.device.told == []
    other.place(ELSEWHERE)
    assert slot.mmio.read(ELSEWHERE + spec.NUM_QUEUES, 2) == 2


def test_without_bus_mastering_the_device_waits(slot: Slot) -> None:
    slot.write(pci.COMMAND, 2, pci.COMMAND_MEMORY)
    slot.start()
    assert slot.device.told == []
    slot.write(pci.COMMAND, 2, MASTER)
    slot.write(pci.COMMAND, 2, pci.COMMAND_MEMORY)
    slot.write(pci.COMMAND, 2, MASTER)
    assert slot.device.told == ["activate", "quiesce", "resume"]


def test_the_wire_is_high_until_the_isr_is_read(slot: Slot) -> None:
    slot.start()
    slot.device.interrupt(1)
    turn(slot.loop)
    assert slot.line.level
    assert slot.read(pci.STATUS, 2) & pci.STATUS_INTERRUPT
    assert slot.mmio.read(BAR + spec.ISR, 1) == virtio_spec.INTERRUPT_QUEUE
    assert not slot.line.level
    assert not slot.read(pci.STATUS, 2) & pci.STATUS_INTERRUPT
    assert slot.mmio.read(BAR + spec.ISR, 1) == 0
    slot.transport.config_changed()
    turn(slot.loop)
    assert slot.mmio.read(BAR + spec.ISR, 1) == virtio_spec.INTERRUPT_CONFIG


def test_a_disabled_wire_is_low_but_says_that_it_is_asserted(slot: Slot) -> None:
    slot.start()
    slot.write(pci.COMMAND, 2, MASTER | pci.COMMAND_INTX_DISABLE)
    slot.device.interrupt(0)
    turn(slot.loop)
    assert not slot.line.level
    assert slot.read(pci.STATUS, 2) & pci.STATUS_INTERRUPT
    slot.write(pci.COMMAND, 2, MASTER)
    assert slot.line.level


def test_messages_replace_the_wire(slot: Slot) -> None:
    slot.start()
    slot.choose_vectors()
    assert not any(vector.connected for vector in slot.vectors)
    slot.enable_msix()
    calls = [ring.call for ring in slot.device.rings]
    assert [vector.connected for vector in slot.vectors[1:]] == [{calls[0]}, {calls[1]}]
    assert len(slot.vectors[0].connected) == 1
    assert slot.vectors[2].message == (0xFEE0_0000, 0x32)
    slot.device.interrupt(0)
    turn(slot.loop)
    assert not slot.line.level
    assert signalled(calls[0]) == 1  # left to whom it is connected to


def test_vectors_can_be_chosen_while_messages_are_on(slot: Slot) -> None:
    slot.enable_msix()
    slot.choose_vectors()
    slot.start()  # which resets it
    assert not any(vector.connected for vector in slot.vectors)
    assert slot.get(spec.CONFIG_MSIX_VECTOR, 2) == spec.NO_VECTOR
    slot.choose_vectors()
    assert all(len(vector.connected) == 1 for vector in slot.vectors)
    assert slot.get(spec.QUEUE_MSIX_VECTOR, 2) == 2
    slot.set(spec.QUEUE_MSIX_VECTOR, 2, 3)  # there are three
    assert slot.get(spec.QUEUE_MSIX_VECTOR, 2) == spec.NO_VECTOR
    assert not slot.vectors[2].connected


def test_configuration_space_is_a_window_to_the_bar(slot: Slot) -> None:
    slot.window(spec.COMMON + spec.NUM_QUEUES, 2)
    assert slot.read(slot.window_data) & 0xFFFF == 2
    slot.window(spec.COMMON + spec.DEVICE_STATUS, 1)
    slot.write(slot.window_data, 4, 1)
    assert slot.get(spec.DEVICE_STATUS, 1) == 1
    slot.window(spec.DEVICE, 4)
    assert slot.read(slot.window_data) == 0x0302_0100


@pytest.mark.parametrize(
    ("at", "size"), [(0, 0), (0, 3), (0, 8), (1, 2), (spec.BAR_SIZE, 1), (0xFFFF_FFFC, 4)]
)
def test_a_window_to_nowhere_does_nothing(slot: Slot, at: int, size: int) -> None:
    slot.window(at, size)
    slot.write(slot.window_data, 4, 0x0101_0101)
    assert slot.read(slot.window_data) == 0x0101_0101
    assert slot.get(spec.DEVICE_STATUS, 1) == 0


def test_all_but_the_window_is_published(board: Board, slot: Slot) -> None:
    assert isinstance(board.root.window, FakeWindow)
    published = board.root.window.data
    base = slot.config - layout.ECAM
    data = slot.window_data
    assert len(published[base]) == data
    assert len(published[base + data + 4]) == pci.CONFIG_SIZE - data - 4
    assert slot.read(pci.COMMAND, 2) == int.from_bytes(published[base][4:6], "little")


def test_a_reset_of_the_board_stops_the_device(board: Board, slot: Slot) -> None:
    slot.start()
    slot.choose_vectors()
    slot.enable_msix()
    slot.transport.reset()
    board.root.reset()
    assert slot.device.told == ["activate", "deactivate"]
    assert slot.doorbells.connected == {}
    assert not any(vector.connected for vector in slot.vectors)
    assert slot.mmio.read(BAR, 4) == 0xFFFF_FFFF
    slot.place(BAR)
    slot.start()
    assert slot.device.told[2:] == ["activate"]


def test_too_many_queues_are_refused() -> None:
    loop, memory = Loop(), GuestMemory(MIB)
    with pytest.raises(UsageError, match="fewer than 512"):
        PciTransport(
            Probe(),
            memory,
            loop,
            FakeDoorbells(),
            mmio=Bus("mmio"),
            line=FakeLine(),
            vectors=[FakeVector()] * 513,
        )
    loop.close()
    memory.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.integers(0, spec.BAR_SIZE - 1) | st.integers(0, 0x40) | st.integers(0x4000, 0x4040),
            st.sampled_from([1, 2, 4, 8]),
            st.integers(0, 2**64 - 1) | st.integers(0, 16),
        ),
        max_size=50,
    )
)
def test_no_access_in_any_order_does_harm(accesses: list[tuple[bool, int, int, int]]) -> None:
    board = Board()
    slot = board.slots[0]
    slot.place(BAR)
    slot.start()
    for to_bar, offset, size, value in accesses:
        base = BAR if to_bar else slot.config
        offset = offset if to_bar else offset & 0xFF
        slot.mmio.write(base + offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= slot.mmio.read(base + offset, size) < 1 << 8 * size
    assert slot.read(0) == 0x1042_1AF4
    for slot in board.slots:
        slot.close()
