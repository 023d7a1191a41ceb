"""The contract of all virtio devices, and the one pump that moves their requests.

A device is made by the machine, attached to a transport (pci.py or mmio.py) and told by it what the
driver does. It knows neither the transport nor the format of its queues:

    activate    the driver is ready: queues may be used from here on
    pump        the driver rang: pop, handle, push, signal
    quiesce     the device may not reach memory (PCI bus mastering is off): nothing is lost
    resume      now it may again
    deactivate  the driver resets the device: the guest's memory is not touched from here on

The smallest whole device answers one kind of request (pyvmm/virtio/rng.py).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from pyvmm.log import DEVICE_LOGS, Log
from pyvmm.memory import GuestMemory
from pyvmm.typed import ClassVar, Protocol
from pyvmm.value import Value
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue, open_queue
from pyvmm.worker import Worker

COMPLAINTS_MAX = 16  # log lines about a device's driver: a guest could write any number


class Transport(Protocol):
    """What a device may ask of its transport. Any thread."""

    def config_changed(self) -> None:
        """Tell the driver that configuration space is not what it was."""

    def needs_reset(self) -> None:
        """Set DEVICE_NEEDS_RESET and tell the driver (VIRTIO 1.2 §2.1.2)."""


class VirtioDevice:
    """A virtio device. Unless a method says otherwise, it runs on the worker's thread.

    Subclasses set ID, and implement `handle`, or `pump` where requests wait for something else
    than the driver. `features` are the device's own; those of the queues are added here.
    """

    ID: ClassVar[int]  # VIRTIO 1.2 §5
    shares_memory = False  # whether another process maps the guest's RAM

    def __init__(
        self,
        name: str,
        queue_sizes: Sequence[int],
        features: int = 0,
        *,
        packed: bool = False,
    ) -> None:
        """`queue_sizes` are the most entries of each queue; `packed` offers packed rings too."""
        self.name = name
        self.queue_sizes = tuple(queue_sizes)
        self.features = (
            features
            | spec.F_VERSION_1
            | spec.F_INDIRECT_DESC
            | spec.F_EVENT_IDX
            | (spec.F_RING_PACKED if packed else 0)
        )
        self.log = Log(f"{DEVICE_LOGS}{name}")
        self.worker = Worker(name)
        self.memory: GuestMemory
        self.transport: Transport
        self.negotiated = 0
        self._complaints = 0
        self.queues: dict[int, Virtqueue] = {}  # those that may be used now, by index
        self._held: dict[int, Virtqueue] = {}  # those in use while it is quiesced
        self._late: list[tuple[Virtqueue, Chain]] = []  # completed meanwhile

    def attach(self, memory: GuestMemory, transport: Transport) -> None:
        """Connect it, once, before the guest runs."""
        self.memory = memory
        self.transport = transport

    def close(self) -> None:
        """Release everything; no vCPU runs any more. On the thread that closes the machine."""
        self.worker.call(self.deactivate)
        self.worker.close()

    @property
    def data_path(self) -> str:
        """Who serves its requests: Python, C, vhost-net, vhost-user and so on. Any thread."""
        return "Python"

    def statistics(self) -> Value | None:
        """What it has done (pyvmm.virtio.statistics), or None where nobody counts. Any thread."""
        return None

    def positions(self) -> dict[int, int]:
        """How far it has come in its queues, by index: Virtqueue.position, where it is known."""
        return {index: queue.position for index, queue in (self._held | self.queues).items()}

    # ---- configuration space; on any thread, with the transport's lock for it held ----

    def read_config(self) -> bytes:
        """The device-specific configuration space, whole (VIRTIO 1.2 §2.5).

        The transport asks for it when the driver resets or configures the device, and when the
        device says `config_changed`.
        """
        return b""

    def write_config(self, offset: int, data: bytes) -> None:
        """Take a write of configuration space; ignored where nothing may be written."""

    # ---- life ----

    def activate(self, features: int, rings: Sequence[Ring]) -> None:
        """The driver has set DRIVER_OK. `rings` are the enabled queues."""
        self.negotiated = features
        try:
            for ring in rings:
                self.queues[ring.index] = open_queue(self.memory, ring)
        except QueueError as error:
            self.fail(error)
            return
        self._serve()

    def quiesce(self) -> None:
        """Leave the guest's memory alone until `resume`, with every queue kept as it is.

        A device that is called back by others than the driver finds `queues` empty until then.
        """
        self._ignore_doorbells()
        self._held, self.queues = self.queues, {}

    def resume(self) -> None:
        """Go on after `quiesce`: every queue's doorbell rings."""
        self._held, self.queues = {}, self._held
        late, self._late = self._late, []
        for queue, chain in late:
            self.complete(queue, chain)
        self._serve()

    def deactivate(self) -> None:
        """The driver resets the device: leave the guest's memory alone. May be called twice."""
        self._stop()
        self.negotiated = 0

    def finish(self) -> None:
        """The guest has ended: hand on what it has left for others. Any thread."""

    def fail(self, error: QueueError) -> None:
        """The driver broke a rule: say so once, and do nothing more until it resets the device."""
        self.complain(f"broke a rule: {error}")
        self._stop()
        self.transport.needs_reset()

    def complain(self, what: str) -> None:
        """Log what the driver has done wrong, unless it has filled the log already. Any thread."""
        if self._complaints < COMPLAINTS_MAX:
            self._complaints += 1
            self.log.warning("%s: the guest's driver %s", self.name, what)

    def _stop(self) -> None:
        self._ignore_doorbells()
        self.queues.clear()
        self._held.clear()
        self._late.clear()

    def _serve(self) -> None:
        for queue in self.queues.values():
            self.worker.loop.watch(queue.ring.doorbell, partial(self._rung, queue))
            ring_doorbell(queue)  # the driver may have filled it before

    def _ignore_doorbells(self) -> None:
        for queue in self.queues.values():
            self.worker.loop.unwatch(queue.ring.doorbell)

    # ---- requests ----

    def _rung(self, queue: Virtqueue) -> None:
        try:
            os.eventfd_read(queue.ring.doorbell)
        except BlockingIOError:  # somebody else took the signal
            return
        try:
            self.pump(queue)
        except QueueError as error:
            self.fail(error)

    def pump(self, queue: Virtqueue) -> None:
        """Serve what is available, at most one ring full, so that a reset never waits long."""
        queue.suppress()
        for _ in range(queue.ring.size):
            chain = queue.pop()
            if chain is None:
                break
            if self.handle(queue, chain):
                queue.push(chain)
        self.publish(queue)
        if queue.allow():
            ring_doorbell(queue)

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        """Carry out one request; False if it is kept, to be given to `complete` later."""
        raise NotImplementedError

    def complete(self, queue: Virtqueue, chain: Chain) -> None:
        """Answer a request that `handle` kept; not if the driver has reset the device meanwhile.

        While the device is quiesced it waits for `resume`.
        """
        if self._held.get(queue.ring.index) is queue:
            self._late.append((queue, chain))
            return
        if self.queues.get(queue.ring.index) is not queue:
            return
        try:
            queue.push(chain)
            self.publish(queue)
        except QueueError as error:
            self.fail(error)

    def publish(self, queue: Virtqueue) -> None:
        """Show the driver what was pushed, with an interrupt if it wants one."""
        if queue.publish():
            os.eventfd_write(queue.ring.call, 1)


def ring_doorbell(queue: Virtqueue) -> None:
    """Have the worker look at `queue`, as if the driver had notified it."""
    os.eventfd_write(queue.ring.doorbell, 1)
