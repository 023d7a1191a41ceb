"""virtio over PCI (VIRTIO 1.2 §4.1)."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.bus import Bus, Device
from pyvmm.errors import UsageError
from pyvmm.irq import Doorbells, IrqLine, MsiVector
from pyvmm.loop import Loop
from pyvmm.memory import GuestMemory
from pyvmm.pci import pci_spec as pci
from pyvmm.pci.function import Bar, Function
from pyvmm.pci.msix import Msix
from pyvmm.virtio import pci_spec as spec
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.transport import RegisterTransport, areas


class PciTransport(RegisterTransport):
    """A virtio device as a PCI function, and the registers in its BAR.

    The root's lock, which is held when the function calls back, is taken before this one's.
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        loop: Loop,
        doorbells: Doorbells,
        *,
        mmio: Bus,
        line: IrqLine,
        vectors: Sequence[MsiVector],
    ) -> None:
        """`vectors` are as many as there are queues, and one. Raises UsageError if too many."""
        if len(vectors) > spec.VECTORS_MAX:
            raise UsageError(f"A device on PCI must have fewer than {spec.VECTORS_MAX} queues")
        self._mmio = mmio
        self._placed: int | None = None  # where the BAR is
        self._vectors: dict[int, int] = {}  # of the eventfds that have one
        self.function = VirtioFunction(self, device, line)
        self.msix = Msix(self.function, spec.BAR, spec.MSIX_TABLE, spec.MSIX_PBA, vectors)
        self.msix.on_enable = self._on_msix
        self.function.on_bar = self._on_bar
        self.function.on_command = self._on_command
        super().__init__(device, memory, loop, doorbells)
        self._may_dma = False
        self.function.add_virtio_capabilities(len(self.queues), len(device.read_config()))

    # ---- what the function tells; with the root's lock held ----

    def _on_command(self, command: int) -> None:
        with self.lock:
            self.allow_dma(bool(command & pci.COMMAND_BUS_MASTER))

    def _on_msix(self) -> None:
        with self.lock:
            self.watch_interrupts(self._active)

    def _on_bar(self, bar: Bar) -> None:
        with self.lock:
            self.disconnect_doorbells()
            if self._placed is not None:
                self._mmio.remove(self._placed)
            self._placed = None
            if bar.address is None:
                return
            try:
                self._mmio.place(bar.address, bar.size, self, width=spec.WIDTH)
            except UsageError as error:
                self.device.complain(f"placed a BAR where another is: {error}")
                return
            self._placed = bar.address
            if self._active:
                self.connect_doorbells()

    # ---- RegisterTransport ----

    def _clear(self) -> None:
        for eventfd, vector in self._vectors.items():
            self.msix.unbind(vector, eventfd)
        self._vectors.clear()
        super()._clear()

    def doorbell_at(self, index: int) -> tuple[int, int | None] | None:
        """See RegisterTransport."""
        if self._placed is None:
            return None
        return self._placed + spec.NOTIFY + index * spec.NOTIFY_MULTIPLIER, None

    def vector_of(self, eventfd: int) -> int | None:
        """See RegisterTransport."""
        return self._vectors.get(eventfd)

    def drive(self, level: bool) -> None:
        """See RegisterTransport."""
        self.function.set_interrupt(level)

    def watch_interrupts(self, wanted: bool) -> None:
        """See RegisterTransport; messages need no watching."""
        super().watch_interrupts(wanted and not self.msix.enabled)

    # ---- the BAR ----

    def read(self, offset: int, size: int) -> int:
        """Answer a read of the BAR; zero where nothing is."""
        page, at = offset & -spec.PAGE, offset & spec.PAGE - 1
        if page == spec.COMMON:
            return int.from_bytes(self._common()[at : at + size], "little")
        if page == spec.DEVICE:
            return self.read_config(at, size)
        if page == spec.ISR and at < spec.ISR_SIZE:
            return self.acknowledge(-1)
        if spec.MSIX_TABLE <= offset < spec.MSIX_PBA:
            return self.msix.read_table(offset - spec.MSIX_TABLE, size)
        if page == spec.MSIX_PBA:
            return self.msix.read_pending(at, size)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of the BAR."""
        page, at = offset & -spec.PAGE, offset & spec.PAGE - 1
        if page == spec.COMMON:
            self._write_common(at, size, value)
        elif page == spec.DEVICE:
            self.write_config(at, size, value)
        elif page == spec.NOTIFY:
            self.notify(at // spec.NOTIFY_MULTIPLIER)
        elif spec.MSIX_TABLE <= offset < spec.MSIX_PBA:
            self.msix.write_table(offset - spec.MSIX_TABLE, size, value)

    def _common(self) -> bytes:
        queue = self.queue
        return spec.COMMON_CFG.pack(
            self.device_feature_select,
            self.device_features,
            self.driver_feature_select,
            self.driver_features,
            self._vectors.get(self.config_call, spec.NO_VECTOR),
            len(self.queues),
            self.status,
            self.generation & 0xFF,
            self.queue_select,
            queue.size if queue else 0,
            self._vectors.get(queue.call, spec.NO_VECTOR) if queue else spec.NO_VECTOR,
            queue.enabled if queue else 0,
            queue.index if queue else 0,
            queue.descriptor_area if queue else 0,
            queue.driver_area if queue else 0,
            queue.device_area if queue else 0,
            0,  # queue_notify_data and queue_reset belong to features that are not offered
            0,
        )

    def _write_common(self, at: int, size: int, value: int) -> None:
        match at, size:
            case spec.DEVICE_FEATURE_SELECT, 4:
                self.device_feature_select = value
            case spec.DRIVER_FEATURE_SELECT, 4:
                self.driver_feature_select = value
            case spec.DRIVER_FEATURE, 4:
                self.driver_features = value
            case spec.CONFIG_MSIX_VECTOR, 2:
                self._set_vector(self.config_call, value)
            case spec.DEVICE_STATUS, 1:
                self.status = value
            case spec.QUEUE_SELECT, 2:
                self.queue_select = value
            case spec.QUEUE_SIZE, 2:
                self.set_queue_size(value)
            case spec.QUEUE_MSIX_VECTOR, 2:
                if self.queue is not None:
                    self._set_vector(self.queue.call, value)
            case spec.QUEUE_ENABLE, 2:
                self.enable_queue(value)
            case _, 4 if at & -4 in AREAS:
                self.set_queue_area(*AREAS[at & -4], value)
            case _:
                self.complain(f"wrote {size} bytes at {at:#x} of its common configuration (§4.1.3)")

    def _set_vector(self, eventfd: int, vector: int) -> None:
        """Choose the vector of an interrupt; one that is not there is as good as none."""
        before = self._vectors.pop(eventfd, None)
        if before is not None:
            self.msix.unbind(before, eventfd)
        if vector <= len(self.queues):
            self._vectors[eventfd] = vector
            self.msix.bind(vector, eventfd)


AREAS = areas(spec.QUEUE_DESC, spec.QUEUE_DRIVER, spec.QUEUE_DEVICE)


class VirtioFunction(Function):
    """The configuration space of a virtio device, with another way to its BAR's registers."""

    def __init__(self, registers: Device, device: VirtioDevice, line: IrqLine) -> None:
        super().__init__(
            spec.VENDOR,
            spec.DEVICE_BASE + device.ID,
            spec.CLASSES.get(device.ID, spec.CLASS_OTHER),
            revision=spec.REVISION,
            line=line,
        )
        self._registers = registers
        self.add_bar(spec.BAR, spec.BAR_SIZE, pci.BAR_64)

    def add_virtio_capabilities(self, queues: int, config_size: int) -> None:
        """Say where in the BAR what is; without a configuration space none is named."""
        notify_size = queues * spec.NOTIFY_MULTIPLIER
        multiplier = spec.NOTIFY_MULTIPLIER.to_bytes(4, "little")
        self._add(spec.CAP_COMMON, spec.COMMON, spec.COMMON_CFG.size)
        self._add(spec.CAP_ISR, spec.ISR, spec.ISR_SIZE)
        if config_size:
            self._add(spec.CAP_DEVICE, spec.DEVICE, config_size)
        self._add(spec.CAP_NOTIFY, spec.NOTIFY, notify_size, multiplier)
        self._window = self._add(
            spec.CAP_PCI, 0, 0, bytes(spec.CAP_DATA_SIZE), spec.CAP_WINDOW_WRITABLE
        )
        data = self._window + spec.CAP_DATA
        self.opaque = range(data, data + spec.CAP_DATA_SIZE)

    def _add(
        self, kind: int, offset: int, length: int, more: bytes = b"", writable: bytes = b""
    ) -> int:
        size = pci.CAPABILITY_HEADER + spec.CAP.size + len(more)
        body = spec.CAP.pack(size, kind, spec.BAR, 0, offset, length) + more
        return self.config.add_capability(pci.CAPABILITY_VENDOR, body, writable)

    def read(self, offset: int, size: int) -> int:
        """Answer a read; one of the window's data reads the BAR first (§4.1.4.9.1)."""
        target = self._target(offset)
        if target is not None:
            at, length = target
            with self._registers.lock:
                self.config.set_data(self.opaque.start, length, self._registers.read(at, length))
        return super().read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write; one of the window's data writes the BAR afterwards (§4.1.4.9.1)."""
        super().write(offset, size, value)
        target = self._target(offset)
        if target is not None:
            at, length = target
            with self._registers.lock:
                self._registers.write(at, length, self.config.get(self.opaque.start, length))

    def _target(self, offset: int) -> tuple[int, int] | None:
        """The offset in the BAR and the length that the window names, if `offset` is its data's."""
        if offset not in self.opaque:
            return None
        bar = self.config.get(self._window + spec.CAP_BAR, 1)
        at = self.config.get(self._window + spec.CAP_OFFSET, 4)
        length = self.config.get(self._window + spec.CAP_LENGTH, 4)
        fits = length in (1, 2, 4) and at % length == 0 and at + length <= spec.BAR_SIZE
        return (at, length) if bar == spec.BAR and fits else None
