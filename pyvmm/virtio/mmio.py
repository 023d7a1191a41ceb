"""virtio over MMIO, version 2 (VIRTIO 1.2 §4.2)."""

from __future__ import annotations

from pyvmm.irq import Doorbells, IrqLine
from pyvmm.loop import Loop
from pyvmm.memory import GuestMemory
from pyvmm.virtio import mmio_spec as spec
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.transport import LOW_32, RegisterTransport, areas

AREAS = areas(spec.QUEUE_DESC, spec.QUEUE_DRIVER, spec.QUEUE_DEVICE)
NO_SHARED_MEMORY = range(spec.SHM_LEN, spec.SHM_BASE + 8)


class MmioTransport(RegisterTransport):
    """A virtio device's registers at guest-physical `base`, with a level-triggered `line`."""

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        loop: Loop,
        doorbells: Doorbells,
        *,
        base: int,
        line: IrqLine,
    ) -> None:
        self.base = base
        self._line = line
        super().__init__(device, memory, loop, doorbells)

    def doorbell_at(self, index: int) -> tuple[int, int | None] | None:
        """See RegisterTransport."""
        return self.base + spec.QUEUE_NOTIFY, index

    def drive(self, level: bool) -> None:
        """See RegisterTransport."""
        self._line.set(level)

    def read(self, offset: int, size: int) -> int:
        """Answer a read; zero where nothing is and of what can only be written."""
        if offset >= spec.CONFIG:
            return self.read_config(offset - spec.CONFIG, size)
        if size != spec.REGISTER_SIZE:
            self.complain(f"read {size} bytes at {offset:#x} of its registers (§4.2.2.2)")
            return 0
        if offset in NO_SHARED_MEMORY:
            return LOW_32
        queue = self.queue
        match offset:
            case spec.MAGIC:
                return spec.MAGIC_VALUE
            case spec.VERSION:
                return spec.VERSION_VALUE
            case spec.DEVICE_ID:
                return self.device.ID
            case spec.VENDOR_ID:
                return spec.VENDOR_VALUE
            case spec.DEVICE_FEATURES:
                return self.device_features
            case spec.QUEUE_SIZE_MAX:
                return queue.largest if queue else 0
            case spec.QUEUE_READY:
                return queue.enabled if queue else 0
            case spec.INTERRUPT_STATUS:
                return self.interrupt_status
            case spec.STATUS:
                return self.status
            case spec.CONFIG_GENERATION:
                return self.generation & LOW_32
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write; ignored where nothing is and of what can only be read."""
        if offset >= spec.CONFIG:
            self.write_config(offset - spec.CONFIG, size, value)
            return
        if size != spec.REGISTER_SIZE:
            self.complain(f"wrote {size} bytes at {offset:#x} of its registers (§4.2.2.2)")
            return
        match offset:
            case spec.DEVICE_FEATURES_SEL:
                self.device_feature_select = value
            case spec.DRIVER_FEATURES:
                self.driver_features = value
            case spec.DRIVER_FEATURES_SEL:
                self.driver_feature_select = value
            case spec.QUEUE_SEL:
                self.queue_select = value
            case spec.QUEUE_SIZE:
                self.set_queue_size(value)
            case spec.QUEUE_READY:
                self.enable_queue(value)
            case spec.QUEUE_NOTIFY:
                self.notify(value)
            case spec.INTERRUPT_ACK:
                self.acknowledge(value)
            case spec.STATUS:
                self.status = value
            case _ if offset in AREAS:
                self.set_queue_area(*AREAS[offset], value)
