"""What the registers of both transports have in common: status, features, queues, configuration.

The registers belong to the vCPUs' threads: `lock`, of the bus, is held there and may be held for as
long as the device's worker takes to activate or reset it. So the worker and the event loop never
take it. What they change, the interrupt status and the configuration space, has small locks of its
own.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial

from pyvmm.bus import Device
from pyvmm.errors import HostError
from pyvmm.irq import Doorbells
from pyvmm.loop import Loop
from pyvmm.memory import GuestMemory
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.virtqueue import Ring

LOW_32 = (1 << 32) - 1
FEATURE_WORDS = 2  # of 32 bits each, that any device may offer
# §3.1.1: what the driver has reached, FAILED left aside. It may take two steps at once up to here:
STEPS = tuple(
    sum((spec.STATUS_ACKNOWLEDGE, spec.STATUS_DRIVER, spec.STATUS_FEATURES_OK)[:count])
    for count in range(4)
)
LAST_STEP = STEPS[-1] | spec.STATUS_DRIVER_OK


class QueueSetup:
    """A queue's registers, and the eventfds of its doorbell and of its interrupt."""

    def __init__(self, index: int, largest: int) -> None:
        self.index = index
        self.largest = largest
        self.doorbell = _eventfd()
        self.call = _eventfd()
        self.reset()

    def reset(self) -> None:
        """Set every register to its initial value and forget what is signalled."""
        self.size = self.largest
        self.enabled = False
        self.descriptor_area = self.driver_area = self.device_area = 0
        for eventfd in (self.doorbell, self.call):
            drain(eventfd)

    def close(self) -> None:
        """Release the eventfds."""
        os.close(self.doorbell)
        os.close(self.call)


class RegisterTransport(Device):
    """A virtio device's registers. Subclasses map addresses to them and carry interrupts.

    Unless a method says otherwise it is called on a vCPU's thread with `lock` held.
    """

    def __init__(
        self, device: VirtioDevice, memory: GuestMemory, loop: Loop, doorbells: Doorbells
    ) -> None:
        super().__init__(device.name)
        self.device = device
        self.queues = [QueueSetup(*item) for item in enumerate(device.queue_sizes)]
        self.config_call = _eventfd()
        self._loop = loop
        self._doorbells = doorbells
        self._connected: list[tuple[int, int, int | None]] = []  # doorbells, as they were connected
        self._may_dma = True
        self._active = False  # the device is activated
        self._serving = False  # and not quiesced
        self._pin_lock = threading.Lock()
        self._config_lock = threading.Lock()
        self._config = (0, b"")  # generation and content, changed as one
        device.attach(memory, self)
        self._clear()

    def close(self) -> None:
        """Close the device, then release the eventfds; no vCPU runs any more."""
        self.disconnect_doorbells()
        self.watch_interrupts(False)
        self.device.close()
        for queue in self.queues:
            queue.close()
        os.close(self.config_call)

    # ---- what the device may ask for (pyvmm/virtio/device.py); any thread ----

    def config_changed(self) -> None:
        """See Transport."""
        with self._config_lock:
            self._config = (self._config[0] + 1, self.device.read_config())
        if self._status & spec.STATUS_DRIVER_OK:
            os.eventfd_write(self.config_call, 1)

    def needs_reset(self) -> None:
        """See Transport."""
        self._needs_reset = True
        os.eventfd_write(self.config_call, 1)

    # ---- status ----

    def reset(self) -> None:
        """Reset the device, with requests in flight or not: §2.4."""
        if self._active:
            self.device.worker.call(self.device.deactivate)
        self._clear()

    def _clear(self) -> None:
        self._active = self._serving = self._needs_reset = self._complained = False
        self._status = 0
        self._driver_features = 0
        self.device_feature_select = self.driver_feature_select = self.queue_select = 0
        self.disconnect_doorbells()
        self.watch_interrupts(False)
        drain(self.config_call)
        for queue in self.queues:
            queue.reset()
        with self._config_lock:
            self._config = (self._config[0], self.device.read_config())

    @property
    def status(self) -> int:
        """The device status register."""
        return self._status | (spec.STATUS_NEEDS_RESET if self._needs_reset else 0)

    @status.setter
    def status(self, value: int) -> None:
        if value == 0:
            self.reset()
            return
        value &= ~spec.STATUS_NEEDS_RESET  # §2.1: the device's own
        old, reached = self._status, value & ~spec.STATUS_FAILED
        skips = reached == LAST_STEP and not old & spec.STATUS_FEATURES_OK  # step 6 of §3.1.1
        if old & ~value or reached not in (*STEPS, LAST_STEP) or skips:
            self.complain(f"set the status from {old:#x} to {value:#x} (§2.1.1)")
            return
        if value & ~old & spec.STATUS_FEATURES_OK and not self._features_acceptable():
            value &= ~spec.STATUS_FEATURES_OK
        self._status = value
        self._update()

    def _features_acceptable(self) -> bool:
        accepted = self._driver_features
        unknown = accepted & ~self.device.features
        if unknown:
            self.complain(f"accepted the features {unknown:#x}, which are not offered (§2.2.1)")
        elif not accepted & spec.F_VERSION_1:
            self.complain("did not accept VIRTIO_F_VERSION_1 (§6.1)")
        return not unknown and bool(accepted & spec.F_VERSION_1)

    def allow_dma(self, allowed: bool) -> None:
        """Let the device reach memory, or not; it starts out with that right."""
        self._may_dma = allowed
        self._update()

    def _update(self) -> None:
        """Let the device work if it is to."""
        running = bool(self._status & spec.STATUS_DRIVER_OK) and self._may_dma
        if running == self._serving:
            return
        self._serving = running
        device = self.device
        if self._active:
            device.worker.call(device.resume if running else device.quiesce)
        elif running:
            self._activate()

    def _activate(self) -> None:
        self._active = True
        self.watch_interrupts(True)
        self.connect_doorbells()
        rings = [
            Ring(
                queue.index,
                queue.size,
                queue.descriptor_area,
                queue.driver_area,
                queue.device_area,
                self._driver_features,
                queue.doorbell,
                queue.call,
            )
            for queue in self.queues
            if queue.enabled
        ]
        try:
            self.device.worker.call(partial(self.device.activate, self._driver_features, rings))
        except HostError as error:
            self.device.log.warning("%s: %s", self.name, error)
            with suppress(HostError):  # it has not even a thread
                self.device.worker.call(self.device.deactivate)
            self._active = False
            self.needs_reset()

    def complain(self, what: str) -> None:
        """Log what the driver did wrong, once until it resets the device; nothing else happens."""
        if not self._complained:
            self._complained = True
            self.device.complain(what)

    # ---- features ----

    @property
    def device_features(self) -> int:
        """The 32 offered feature bits that are selected."""
        return self.device.features >> 32 * self.device_feature_select & LOW_32

    @property
    def driver_features(self) -> int:
        """The 32 accepted feature bits that are selected."""
        return self._driver_features >> 32 * self.driver_feature_select & LOW_32

    @driver_features.setter
    def driver_features(self, value: int) -> None:
        if self._status & spec.STATUS_FEATURES_OK:
            self.complain("changed the features after FEATURES_OK (§3.1.1)")
        elif self.driver_feature_select < FEATURE_WORDS:
            shift = 32 * self.driver_feature_select
            self._driver_features &= ~(LOW_32 << shift)
            self._driver_features |= value << shift

    @property
    def accepted_features(self) -> int:
        """All that the driver has accepted. Any thread."""
        return self._driver_features

    # ---- queues ----

    def vector_of(self, eventfd: int) -> int | None:
        """The MSI-X vector of an interrupt, if it has one. Any thread."""
        return None

    @property
    def queue(self) -> QueueSetup | None:
        """The selected queue, if there is one."""
        at = self.queue_select
        return self.queues[at] if at < len(self.queues) else None

    def _settable(self) -> QueueSetup | None:
        """The selected queue if it may be set up now, between FEATURES_OK and its enabling."""
        queue = self.queue
        if queue is None:
            return None
        reached = self._status & (spec.STATUS_FEATURES_OK | spec.STATUS_DRIVER_OK)
        if reached == spec.STATUS_FEATURES_OK and not queue.enabled:
            return queue
        self.complain(f"set up queue {queue.index} out of turn (§3.1.1)")
        return None

    def set_queue_size(self, size: int) -> None:
        """Take the selected queue's size: 1 to the largest, a power of two for a split ring."""
        queue = self._settable()
        if queue is None:
            return
        packed = self._driver_features & spec.F_RING_PACKED
        if not 1 <= size <= queue.largest or not (packed or size & size - 1 == 0):
            self.complain(f"gave queue {queue.index} {size} entries (§2.7, §2.8.10)")
            return
        queue.size = size

    def set_queue_area(self, area: str, shift: int, value: int) -> None:
        """Take 32 bits, from bit `shift` on, of an area's address; `area` is its name in Ring."""
        queue = self._settable()
        if queue is not None:
            rest = getattr(queue, area) & ~(LOW_32 << shift)
            setattr(queue, area, rest | value << shift)

    def enable_queue(self, value: int) -> None:
        """Take a write of the selected queue's switch, which can only be switched on."""
        queue = self._settable()
        if queue is not None:
            queue.enabled = value == 1

    def notify(self, index: int) -> None:
        """Ring the doorbell of queue `index`, as KVM does for writes that it knows."""
        if index < len(self.queues) and self.queues[index].enabled:
            os.eventfd_write(self.queues[index].doorbell, 1)
        else:
            self.complain(f"rang for queue {index}, which is not in use (§3.1.1)")

    def doorbell_at(self, index: int) -> tuple[int, int | None] | None:
        """The address of a queue's doorbell and the value to match, or None if there is none."""
        raise NotImplementedError

    def connect_doorbells(self) -> None:
        """Have KVM signal the doorbells of the enabled queues."""
        for queue in self.queues:
            at = self.doorbell_at(queue.index) if queue.enabled else None
            if at is None:
                continue
            address, match = at
            try:
                self._doorbells.connect(address, queue.doorbell, match)
            except HostError as error:  # the host's limit; `notify` rings this one
                self.device.log.warning("%s: a doorbell is slow: %s", self.name, error)
            else:
                self._connected.append((address, queue.doorbell, match))

    def disconnect_doorbells(self) -> None:
        """Have KVM leave them alone."""
        while self._connected:
            self._doorbells.disconnect(*self._connected.pop())

    # ---- the device's configuration space ----

    @property
    def generation(self) -> int:
        """Changes whenever the device changes its configuration space (§2.5)."""
        return self._config[0]

    def read_config(self, offset: int, size: int) -> int:
        """Answer a read of the configuration space; zero beyond its end."""
        return int.from_bytes(self._config[1][offset : offset + size], "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Take a write of the configuration space."""
        self.device.write_config(offset, value.to_bytes(size, "little"))
        with self._config_lock:
            self._config = (self._config[0], self.device.read_config())

    # ---- interrupts by a wire; any thread ----

    def drive(self, level: bool) -> None:
        """Set the level of the wire."""
        raise NotImplementedError

    def watch_interrupts(self, wanted: bool) -> None:
        """Have the event loop turn signalled interrupts into levels of the wire, or stop that."""
        with self._pin_lock:
            self._wired = wanted
            if not wanted:
                self._interrupt_status = 0
                self.drive(False)
        calls = [(queue.call, spec.INTERRUPT_QUEUE) for queue in self.queues]
        for eventfd, bit in (*calls, (self.config_call, spec.INTERRUPT_CONFIG)):
            if wanted:
                self._loop.watch(eventfd, partial(self._called, eventfd, bit))
            else:
                self._loop.unwatch(eventfd)

    def _called(self, eventfd: int, bit: int) -> None:
        if not drain(eventfd):
            return
        with self._pin_lock:
            if self._wired:
                self._interrupt_status |= bit
                self.drive(True)
            else:  # it has just become somebody else's
                os.eventfd_write(eventfd, 1)

    @property
    def interrupt_status(self) -> int:
        """Why the wire is high: bits of INTERRUPT_QUEUE and INTERRUPT_CONFIG."""
        return self._interrupt_status

    def acknowledge(self, bits: int) -> int:
        """Clear bits of the interrupt status; what it was before."""
        with self._pin_lock:
            before = self._interrupt_status
            self._interrupt_status &= ~bits
            self.drive(False)
            if self._interrupt_status:  # an edge, for those controllers that wait for one
                self.drive(True)
        return before


def areas(descriptor: int, driver: int, device: int) -> dict[int, tuple[str, int]]:
    """Of the offsets of 32-bit registers: which area's address each holds, and from which bit on.

    The arguments are the offsets of the lower halves, by Ring's names.
    """
    bases = {"descriptor_area": descriptor, "driver_area": driver, "device_area": device}
    return {at + shift // 8: (name, shift) for name, at in bases.items() for shift in (0, 32)}


def drain(eventfd: int) -> bool:
    """Forget what is signalled; whether anything was."""
    try:
        return os.eventfd_read(eventfd) > 0
    except BlockingIOError:
        return False


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
