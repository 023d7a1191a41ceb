"""The split virtqueue: VIRTIO 1.2 §2.7.

Indices are loaded and stored as the aligned 16-bit integers that they are, so that neither side
ever sees one half written; x86 keeps the order of stores, and of loads, as it is written here.
"""

from __future__ import annotations

import struct

from pyvmm.memory import GuestMemory
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue
from pyvmm.virtio.walk import Walk, area, check_size, fence

_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
_FLAGS, _INDEX, _RING = 0, 1, 2  # of the available and the used ring, in 16-bit units
_ELEMENTS = 1  # of the used ring, in 32-bit units
_ELEMENT = spec.USED_ELEMENT_SIZE // 4
_MASK = spec.RING_INDEX_MASK


class SplitQueue(Virtqueue):
    """See Virtqueue."""

    def __init__(self, memory: GuestMemory, ring: Ring) -> None:
        """See Virtqueue."""
        super().__init__(memory, ring)
        check_size(ring)
        size = self._size = ring.size
        ends = spec.RING_HEADER_SIZE + spec.RING_EVENT_SIZE
        self._table = area(
            memory,
            "descriptor table",
            ring.descriptor_area,
            size * spec.DESC_SIZE,
            spec.DESC_ALIGN,
        )
        self._avail = area(
            memory,
            "available ring",
            ring.driver_area,
            size * spec.AVAIL_ELEMENT_SIZE + ends,
            spec.AVAIL_ALIGN,
        ).cast("H")
        used = area(
            memory,
            "used ring",
            ring.device_area,
            size * spec.USED_ELEMENT_SIZE + ends,
            spec.USED_ALIGN,
        )
        self._used = used.cast("H")
        self._elements = used[: -spec.RING_EVENT_SIZE].cast("I")
        self._event_idx = bool(ring.features & spec.F_EVENT_IDX)
        self._indirect = bool(ring.features & spec.F_INDIRECT_DESC)
        self._next_avail = 0
        self._next_used = 0
        self._published = 0

    @property
    def position(self) -> int:
        """See Virtqueue."""
        return self._next_avail

    def pop(self) -> Chain | None:
        """See Virtqueue."""
        if not self._available():
            return None
        at = _RING + self._next_avail % self._size
        head = self._avail[at]
        walk = Walk(self.memory, self._size)
        count = self._follow(walk, self._table, self._size, head, self._indirect)
        self._next_avail = self._next_avail + 1 & _MASK
        return Chain(head, count, walk.readable, walk.writable)

    def _available(self) -> bool:
        """Whether there is a request. All that the driver has out must fit into the table."""
        index = self._avail[_INDEX]
        ahead = index - self._next_used & _MASK
        if ahead > self._size or ahead < (self._next_avail - self._next_used & _MASK):
            raise QueueError(f"the available index {index} is too far ahead (§2.7.6, §2.7.13)")
        return index != self._next_avail

    def _follow(self, walk: Walk, table: memoryview, size: int, at: int, indirect: bool) -> int:
        """Walk a chain through `table`; how many of its descriptors that were.

        Each descriptor is read once: the driver may change it at any time.
        """
        count = 0
        while True:
            if at >= size:
                raise QueueError(f"descriptor {at} is outside its table of {size} (§2.7.5)")
            address, length, flags, following = _DESCRIPTOR.unpack_from(table, at * spec.DESC_SIZE)
            count += 1
            if flags & spec.DESC_F_INDIRECT:
                last = not flags & spec.DESC_F_NEXT
                inner = walk.table(address, length, indirect and last)
                self._follow(walk, inner, length // spec.DESC_SIZE, 0, False)
                return count
            walk.add(address, length, flags)
            if not flags & spec.DESC_F_NEXT:
                return count
            at = following

    def push(self, chain: Chain) -> None:
        """See Virtqueue."""
        at = _ELEMENTS + _ELEMENT * (self._next_used % self._size)
        self._elements[at] = chain.head
        self._elements[at + 1] = chain.written
        self._next_used = self._next_used + 1 & _MASK

    def publish(self) -> bool:
        """See Virtqueue."""
        new, old = self._next_used, self._published
        if new == old:
            return False
        self._used[_INDEX] = self._published = new
        # The driver asks for an interrupt, fences, and looks at the index again. Were its wish read
        # before the index is stored, both could miss the other's.
        fence()
        if not self._event_idx:
            return not self._avail[_FLAGS] & spec.AVAIL_F_NO_INTERRUPT
        event = self._avail[_RING + self._size]  # used_event
        return (new - event - 1 & _MASK) < (new - old & _MASK)  # §2.7.7.2

    def suppress(self) -> None:
        """See Virtqueue. With the event index, avail_event stays behind, which does it."""
        if not self._event_idx:
            self._used[_FLAGS] = spec.USED_F_NO_NOTIFY

    def allow(self) -> bool:
        """See Virtqueue."""
        if self._event_idx:
            self._used[-1] = self._next_avail  # avail_event
        else:
            self._used[_FLAGS] = 0
        # The driver stores the index, fences, and looks here whether to ring. Were the index read
        # before this is stored, it would not ring for what is missed here.
        fence()
        return self._available()
