"""A virtqueue as the device's side sees it, whatever its format.

Three implement it by the same rules, and are tested against one another: SplitQueue and PackedQueue
in Python, NativeQueue by csrc/ring.c.
"""

from __future__ import annotations

from pyvmm.memory import GuestMemory
from pyvmm.value import Value
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.chain import Chain


class QueueError(Exception):
    """The driver broke a rule of the queue; the text says which, with its section.

    It never leaves the device's worker: the device then needs a reset (VIRTIO 1.2 §2.1.2).
    """


class Ring(Value):
    """A queue as the driver set it up. The three areas' addresses are guest-physical.

    `size` is 1 to QUEUE_SIZE_MAX, for a split ring a power of two. `doorbell` is the eventfd that
    is signalled when the driver notifies the device, `call` the one that raises the queue's
    interrupt; both belong to the transport.
    """

    index: int
    size: int
    descriptor_area: int
    driver_area: int
    device_area: int
    features: int  # negotiated
    doorbell: int
    call: int

    @property
    def packed(self) -> bool:
        """Whether it is a packed ring (VIRTIO 1.2 §2.8)."""
        return bool(self.features & spec.F_RING_PACKED)


class Virtqueue:
    """What a device does with a queue; one thread at a time.

    `pop`, `allow` and `publish` raise QueueError for what the driver must not do.
    """

    def __init__(self, memory: GuestMemory, ring: Ring) -> None:
        """Raises QueueError if an area is not wholly in RAM or is misaligned."""
        self.memory = memory
        self.ring = ring

    @property
    def position(self) -> int:
        """Where the next request will be: split: an index that runs freely; packed: an entry."""
        raise NotImplementedError

    def pop(self) -> Chain | None:
        """The next request that the driver made available, or None."""
        raise NotImplementedError

    def push(self, chain: Chain) -> None:
        """Give a chain back, with `chain.written` as what was written; `publish` shows it."""
        raise NotImplementedError

    def publish(self) -> bool:
        """Show the driver all that was pushed; whether it wants an interrupt for it."""
        raise NotImplementedError

    def suppress(self) -> None:
        """Tell the driver that it need not ring: the device is looking anyway."""
        raise NotImplementedError

    def allow(self) -> bool:
        """Ask the driver to ring again; True if something has become available meanwhile."""
        raise NotImplementedError


def open_queue(memory: GuestMemory, ring: Ring) -> Virtqueue:
    """The Python implementation for the ring's format. Raises QueueError."""
    if ring.packed:
        from pyvmm.virtio.packed_queue import PackedQueue

        return PackedQueue(memory, ring)
    from pyvmm.virtio.split_queue import SplitQueue

    return SplitQueue(memory, ring)
