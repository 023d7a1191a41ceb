"""What a back end has been given and has not answered, for one that cannot tell its successor.

A back end that answers out of order and dies takes that knowledge with it: a ring shows the last
requests made available and the last ones used, not which are still out (vhost-user, "Inflight I/O
tracking"). So it gets an available ring of ours, to which requests are copied when the driver
rings. This one cannot run ahead of what is known here, and after a death it is written again: first
what has not been answered.

Descriptors, buffers, used ring and interrupts stay between the driver and the back end.

What it has answered may be lost with it too: writes that were never flushed. The driver would not
do them again, and would be told that its next flush had made them safe. So these are counted.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence

from pyvmm.layout import PAGE
from pyvmm.memory import GuestMemory, Region
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.virtqueue import QueueError, Ring
from pyvmm.virtio.walk import area, fence

BASE = 1 << 56  # where back ends see our rings: an address that no RAM has
_FLAGS, _INDEX, _RING = 0, 1, 2  # of an available or used ring, in 16-bit units
_ELEMENTS = 1  # of a used ring, in 32-bit units
_ELEMENT = spec.USED_ELEMENT_SIZE // 4
_MASK = spec.RING_INDEX_MASK
_WRITES = -1  # what is kept of a write; of another request, how many writes its answer makes safe

Kind = Callable[[Ring, int], str]


class Journal:
    """The journal of one split queue with the event index. The worker's thread."""

    def __init__(self, journals: Journals, ring: Ring, page: memoryview, address: int) -> None:
        """Show `page`, at `address` for the back end, in place of the driver's available ring.

        Raises QueueError if an area is not in RAM or is misaligned.
        """
        self._journals = journals
        self._driver_ring = ring
        memory = journals.memory
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
        self._out: dict[int, int] = {}  # what is not answered, the oldest first
        self._taken = 0  # the available index up to which requests are passed on
        self._answered = 0  # the used index up to which answers are known
        self.ring = ring.replace(driver_area=address, doorbell=self._kick)  # for the back end

    def close(self) -> None:
        """Let the eventfd go."""
        os.close(self._kick)

    def forward(self) -> None:
        """Pass on what the driver has made available. Raises QueueError."""
        index = self._avail[_INDEX]
        self.settle()  # after the index was read: the driver adds what it has got back
        if (index - self._answered & _MASK) > self._size:
            raise QueueError(f"the available index {index} is too far ahead (§2.7.13)")
        while self._taken != index:
            head = self._avail[_RING + self._taken % self._size]
            if head >= self._size or head in self._out:
                raise QueueError(f"request {head} cannot be made available (§2.7.5, §2.7.13)")
            self._shown[_RING + self._taken % self._size] = head
            self._out[head] = self._journals.promise(self._driver_ring, head)
            self._taken = self._taken + 1 & _MASK
        self._shown[_INDEX] = index
        os.eventfd_write(self._kick, 1)
        self._used[-1] = index  # avail_event
        # The driver stores the index, fences, and looks here whether to ring. Were the index read
        # before this is stored, it would not ring for what is missed here.
        fence()
        if self._avail[_INDEX] != index:
            os.eventfd_write(self.doorbell, 1)

    def end(self) -> None:
        """The back end is about to be stopped, and need not interrupt for what it answers then.

        It must not, even: libvhost-user closes the eventfd when it stops a ring, and panics later.
        """
        self._shown[_FLAGS] = spec.AVAIL_F_NO_INTERRUPT

    def rewind(self) -> None:
        """Put all that is unanswered into our ring, from the used index on. Raises QueueError.

        No back end may be at work.
        """
        self.settle()
        for place, head in enumerate(self._out, self._answered):
            self._shown[_RING + place % self._size] = head
        self._shown[_INDEX] = self._taken
        self._shown[_FLAGS] = 0

    def settle(self) -> None:
        """Strike out what was answered. Raises QueueError.

        That is never more than is out, so no used entry is overwritten before it is seen here.
        """
        end = self._used[_INDEX]
        if (end - self._answered & _MASK) > len(self._out):
            raise QueueError(f"the used index {end} is ahead of the requests (§2.7.8)")
        while self._answered != end:
            head = self._elements[_ELEMENTS + _ELEMENT * (self._answered % self._size)]
            if head not in self._out:
                raise QueueError(f"request {head} is answered and was not made (§2.7.8)")
            self._journals.keep(self._out.pop(head))
            self._answered = self._answered + 1 & _MASK


class Journals:
    """The journals of a device's queues, and the memory of theirs that the back end sees.

    `kind` says of a ring's request, by its head, whether it is `"write"`, `"flush"` or another.
    """

    def __init__(self, memory: GuestMemory, rings: Sequence[Ring], kind: Kind, unsafe: int) -> None:
        """`unsafe` writes are so already. Raises QueueError, as Journal does."""
        self.memory = memory
        self._kind = kind
        self._queues: dict[int, Journal] = {}
        self._written = unsafe  # writes that were answered
        self._safe = 0  # how many of these no death can undo
        size = len(rings) * PAGE
        fd = os.memfd_create("journal", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        view = memoryview(mmap.mmap(fd, size))
        self.region = Region(BASE, size, fd, 0, view)
        try:
            for place, ring in enumerate(rings):
                at = place * PAGE
                self._queues[ring.index] = Journal(self, ring, view[at : at + PAGE], BASE + at)
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

    @property
    def unsafe(self) -> int:
        """How many writes were answered and not flushed since, as of the last `settle`."""
        return self._written - self._safe

    def settle(self) -> None:
        """Take note of all answers. Raises QueueError."""
        for journal in self._queues.values():
            journal.settle()

    def promise(self, ring: Ring, head: int) -> int:
        """What to `keep` when the request is answered. Raises QueueError."""
        kind = self._kind(ring, head)
        if kind == "write":
            return _WRITES
        if kind == "flush":
            self.settle()
            return self._written
        return 0

    def keep(self, promise: int) -> None:
        """A request was answered."""
        if promise == _WRITES:
            self._written += 1
        else:
            self._safe = max(self._safe, promise)
