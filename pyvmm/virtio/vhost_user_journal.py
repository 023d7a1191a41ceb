"""What a back end has been given and has not answered, for one that cannot tell its successor.

A back end that answers out of order and dies takes that knowledge with it: a ring shows the last
requests made available and the last ones used, not which are still out (vhost-user, "Inflight I/O
tracking"). So it gets an available ring of ours, to which requests are copied when the driver
rings. This one cannot run ahead of what is known here, and after a death it is written again: first
what has not been answered.

Descriptors, buffers, used ring and interrupts stay between the driver and the back end.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

from pyvmm.layout import PAGE
from pyvmm.memory import GuestMemory, Region
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.virtqueue import QueueError, Ring
from pyvmm.virtio.walk import area, fence

BASE = 1 << 56  # where back ends see our rings: an address that no RAM has
_INDEX, _RING = 1, 2  # of an available or used ring, in 16-bit units
_ELEMENTS = 1  # of a used ring, in 32-bit units
_ELEMENT = spec.USED_ELEMENT_SIZE // 4
_MASK = spec.RING_INDEX_MASK


class Journal:
    """The journal of one split queue with the event index. The worker's thread."""

    def __init__(self, memory: GuestMemory, ring: Ring, page: memoryview, address: int) -> None:
        """Show `page`, at `address` for the back end, in place of the driver's available ring.

        Raises QueueError if an area is not in RAM or is misaligned.
        """
        size = self._size = ring.size
        ends = spec.RING_HEADER_SIZE + spec.RING_EVENT_SIZE
        length = size * spec.AVAIL_ELEMENT_SIZE + ends
        self._avail = area(
            memory, "available ring", ring.driver_area, length, spec.AVAIL_ALIGN
        ).cast("H")
        self._shown = page[:length].cast("H")
        length = size * spec.USED_ELEMENT_SIZE + ends
        used = area(memory, "used ring", ring.device_area, length, spec.USED_ALIGN)
        self._used = used.cast("H")
        self._elements = used[: -spec.RING_EVENT_SIZE].cast("I")
        self.doorbell = ring.doorbell  # the driver's
        self._kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._out: dict[int, None] = {}  # what is not answered, the oldest first
        self._taken = 0  # the available index up to which requests are passed on
        self._answered = 0  # the used index up to which answers are known
        self.ring = ring.replace(driver_area=address, doorbell=self._kick)  # for the back end

    def close(self) -> None:
        """Let the eventfd go."""
        os.close(self._kick)

    def forward(self) -> None:
        """Pass on what the driver has made available. Raises QueueError."""
        index = self._avail[_INDEX]
        self._settle()  # after the index was read: the driver adds what it has got back
        if (index - self._answered & _MASK) > self._size:
            raise QueueError(f"the available index {index} is too far ahead (§2.7.13)")
        while self._taken != index:
            head = self._avail[_RING + self._taken % self._size]
            if head >= self._size or head in self._out:
                raise QueueError(f"request {head} cannot be made available (§2.7.5, §2.7.13)")
            self._shown[_RING + self._taken % self._size] = head
            self._out[head] = None
            self._taken = self._taken + 1 & _MASK
        self._shown[_INDEX] = index
        os.eventfd_write(self._kick, 1)
        self._used[-1] = index  # avail_event
        # The driver stores the index, fences, and looks here whether to ring. Were the index read
        # before this is stored, it would not ring for what is missed here.
        fence()
        if self._avail[_INDEX] != index:
            os.eventfd_write(self.doorbell, 1)

    def rewind(self) -> int:
        """Put all that is unanswered into our ring; the index to start at. Raises QueueError.

        No back end may be at work.
        """
        self._settle()
        for place, head in enumerate(self._out, self._answered):
            self._shown[_RING + place % self._size] = head
        self._shown[_INDEX] = self._taken
        return self._answered

    def _settle(self) -> None:
        """Strike out what was answered. Never more than are out: so none is overwritten before."""
        end = self._used[_INDEX]
        if (end - self._answered & _MASK) > len(self._out):
            raise QueueError(f"the used index {end} is ahead of the requests (§2.7.8)")
        while self._answered != end:
            head = self._elements[_ELEMENTS + _ELEMENT * (self._answered % self._size)]
            if head not in self._out:
                raise QueueError(f"request {head} is answered and was not made (§2.7.8)")
            del self._out[head]
            self._answered = self._answered + 1 & _MASK


class Journals:
    """The journals of a device's queues, and the memory of theirs that the back end sees."""

    def __init__(self, memory: GuestMemory, rings: Sequence[Ring]) -> None:
        """Raises QueueError, as Journal does."""
        size = len(rings) * PAGE
        self._queues: dict[int, Journal] = {}
        fd = os.memfd_create("journal", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        view = memoryview(mmap.mmap(fd, size))
        self.region = Region(BASE, size, fd, 0, view)
        try:
            for place, ring in enumerate(rings):
                at = place * PAGE
                self._queues[ring.index] = Journal(memory, ring, view[at : at + PAGE], BASE + at)
        except QueueError:
            self.close()
            raise

    def __getitem__(self, index: int) -> Journal:
        """The journal of queue `index`."""
        return self._queues[index]

    def close(self) -> None:
        """Release the memory."""
        for journal in self._queues.values():
            journal.close()
        os.close(self.region.fd)
