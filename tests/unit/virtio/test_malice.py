"""What a device does about a driver's bad ring, and that it works again after a reset: a device
served by Python and a disk served in C, both behind real registers."""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Iterator

import pytest

from pyvmm.backends.disk import RawDisk
from pyvmm.irq import Doorbells
from pyvmm.loop import Loop
from pyvmm.virtio import mmio_spec as spec
from pyvmm.virtio import virtio_spec as virtio
from pyvmm.virtio.blk import Blk
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.mmio import MmioTransport
from pyvmm.virtio.virtqueue import Virtqueue
from tests.corpus.rings import RINGS, SCRIPT
from tests.fakes.lines import FakeLine
from tests.fakes.ringcase import HIGH, REGION, RingCase, SmallMemory

PATIENCE = 20_000  # ms until what must happen has failed to
# Those that need no more than to be there, and that the registers let through.
AT_ONCE = {
    name: case
    for name, (case, reason) in RINGS.items()
    if reason and "entries" not in reason and case.script == SCRIPT
}
ADDRESSES = {
    "descriptor": (spec.QUEUE_DESC, 0),
    "driver": (spec.QUEUE_DRIVER, 1),
    "device": (spec.QUEUE_DEVICE, 2),
}


class Echo(VirtioDevice):
    ID = virtio.ID_RNG

    def __init__(self) -> None:
        super().__init__("echo", [64], packed=True)

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        chain.write(chain.read(REGION))
        return True


def disk() -> Blk:
    fd = os.memfd_create("disk", os.MFD_CLOEXEC)
    os.ftruncate(fd, REGION)
    return Blk("disk", RawDisk(fd, "disk"), packed=True)


class NoDoorbells(Doorbells):
    """Doorbells that KVM does not catch."""

    def connect(self, address: int, eventfd: int, datamatch: int | None = None) -> None:
        pass

    def disconnect(self, address: int, eventfd: int, datamatch: int | None = None) -> None:
        pass


class Driver:
    """A driver that writes the registers as it must, and the rings as a RingCase says."""

    def __init__(self, device: VirtioDevice) -> None:
        self.loop = Loop()
        self.memory = SmallMemory()
        self.line = FakeLine()
        self.transport = MmioTransport(
            device, self.memory, self.loop, NoDoorbells(), base=0, line=self.line
        )

    def close(self) -> None:
        self.transport.close()
        self.loop.close()
        self.memory.close()

    def read(self, register: int) -> int:
        return self.transport.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.transport.write(register, 4, value)

    def start(self, case: RingCase) -> None:
        self.memory.write(0, bytes(REGION))
        self.memory.write(HIGH, bytes(REGION))
        self.memory.write(0, case.image)
        for status in (0, 1, 3):
            self.write(spec.STATUS, status)
        features = case.features | virtio.F_VERSION_1
        for word in range(2):
            self.write(spec.DRIVER_FEATURES_SEL, word)
            self.write(spec.DRIVER_FEATURES, features >> 32 * word & 0xFFFF_FFFF)
        self.write(spec.STATUS, 11)
        self.write(spec.QUEUE_SIZE, case.size)
        for register, area in ADDRESSES.values():
            self.write(register, case.areas[area] & 0xFFFF_FFFF)
            self.write(register + 4, case.areas[area] >> 32)
        self.write(spec.QUEUE_READY, 1)
        self.write(spec.STATUS, 15)

    def wait_for_interrupt(self, eventfd: int) -> int:
        """Wait until `eventfd` is signalled; why the line is high then."""
        poll = select.poll()
        poll.register(eventfd, select.POLLIN)
        assert poll.poll(PATIENCE), "no interrupt"
        self.loop.call_soon(self.loop.stop)
        self.loop.run()
        assert self.line.level
        return self.read(spec.INTERRUPT_STATUS)


@pytest.fixture(params=[Echo, disk], ids=["python", "native"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    driver = Driver(request.param())
    yield driver
    driver.close()


@pytest.mark.parametrize("name", AT_ONCE)
def test_a_bad_ring_needs_a_reset_and_no_more(
    driver: Driver, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    case, reason = RINGS[name]
    caplog.set_level(logging.WARNING)
    driver.start(case)
    why = driver.wait_for_interrupt(driver.transport.config_call)
    assert why & virtio.INTERRUPT_CONFIG
    assert driver.read(spec.STATUS) == 15 | virtio.STATUS_NEEDS_RESET

    driver.write(spec.QUEUE_NOTIFY, 0)
    driver.transport.device.worker.call(lambda: None)
    assert [record for record in caplog.messages if "broke a rule" in record] == caplog.messages
    assert len(caplog.messages) == 1
    assert reason in caplog.text

    driver.write(spec.STATUS, 0)
    assert driver.read(spec.STATUS) == 0
    driver.start(RINGS[name.split("-")[0] + "-good"][0])
    why = driver.wait_for_interrupt(driver.transport.queues[0].call)
    assert why & virtio.INTERRUPT_QUEUE
    assert driver.read(spec.STATUS) == 15
    assert len(caplog.messages) == 1
