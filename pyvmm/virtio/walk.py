"""What the Python queues of both formats share: areas, chains of buffers, and the fence."""

from __future__ import annotations

import threading

from pyvmm.errors import MemoryAccessError
from pyvmm.memory import GuestMemory
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.virtqueue import QueueError, Ring

_lock = threading.Lock()


def fence() -> None:
    """Have every store before it seen by the guest before any load after it is made.

    That is the one order that x86 does not keep by itself (Intel SDM volume 3, §8.2.3.4). A lock is
    taken by an atomic read-modify-write, which does (§8.2.3.9), and a free one without letting
    another Python thread go first, as a call into C would.
    """
    with _lock:
        pass


def check_size(ring: Ring) -> None:
    """Raises QueueError for a size that the ring's format does not allow (§2.7, §2.8.10.1)."""
    size = ring.size
    if not 1 <= size <= spec.QUEUE_SIZE_MAX or (not ring.packed and size & (size - 1)):
        raise QueueError(f"queue {ring.index} cannot have {size} entries (§2.7, §2.8.10.1)")


def area(memory: GuestMemory, what: str, address: int, length: int, align: int) -> memoryview:
    """An area of the ring in the guest's own memory. Raises QueueError."""
    if address % align:
        raise QueueError(f"the {what} is at {address:#x}, no multiple of {align} (§2.7, §2.8.10.1)")
    try:
        return memory.view(address, length)
    except MemoryAccessError as error:
        raise QueueError(f"the {what} is not in RAM: {error} (§2.7, §2.8.10.1)") from None


class Walk:
    """The buffers of one chain, checked as they are added. `limit` is the queue's size."""

    __slots__ = ("_length", "_limit", "_memory", "_room", "readable", "writable")

    def __init__(self, memory: GuestMemory, limit: int) -> None:
        self.readable: list[memoryview] = []
        self.writable: list[memoryview] = []
        self._memory = memory
        self._limit = self._room = limit
        self._length = 0

    def add(self, address: int, length: int, flags: int) -> None:
        """Take one descriptor's buffer; an empty one counts and is left out. Raises QueueError."""
        if not self._room:
            raise QueueError(
                f"a chain has more than {self._limit} descriptors (§2.7.5.3.1, §2.8.17)"
            )
        self._room -= 1
        buffers = self.writable if flags & spec.DESC_F_WRITE else self.readable
        if buffers is self.readable and self.writable:
            raise QueueError(
                "a chain has a readable buffer after a writable one (§2.7.4.2, §2.8.17)"
            )
        if not length:
            return
        self._length += length
        if self._length > spec.CHAIN_LENGTH_MAX:
            raise QueueError("a chain is longer than 2^32 - 1 bytes (§2.7.5.2)")
        try:
            buffers.append(self._memory.view(address, length))
        except MemoryAccessError as error:
            raise QueueError(f"a buffer is not in RAM: {error} (§2.7.5)") from None

    def table(self, address: int, length: int, allowed: bool) -> memoryview:
        """The indirect table that a descriptor refers to. Raises QueueError.

        `allowed` is whether there may be one: negotiated, not nested, the last of its chain.
        """
        if not allowed:
            raise QueueError("an indirect descriptor may not be here (§2.7.5.3.1, §2.8.19)")
        if not length or length % spec.DESC_SIZE or length > self._limit * spec.DESC_SIZE:
            raise QueueError(f"an indirect table has {length} bytes (§2.7.5.3, §2.8.7)")
        try:
            return self._memory.view(address, length)
        except MemoryAccessError as error:
            raise QueueError(f"an indirect table is not in RAM: {error} (§2.7.5.3)") from None
