"""The packed virtqueue: VIRTIO 1.2 §2.8.

Flags are loaded and stored as the aligned 16-bit integers that they are, so that neither side ever
sees one half written; x86 keeps the order of stores, and of loads, as it is written here.
"""

from __future__ import annotations

import struct

from pyvmm.memory import GuestMemory
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue
from pyvmm.virtio.walk import Walk, area, check_size, fence

_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, id, flags
_BUFFER = struct.Struct("<QIH")  # without the flags, which are read first and written last
_USED = struct.Struct("<IH")  # length, id
_USED_OFFSET = 8
_FLAGS = 7  # of a descriptor, in 16-bit units
_UNITS = spec.DESC_SIZE // 2
_OFFSET, _EVENT_FLAGS = 0, 1  # of an event suppression structure, in 16-bit units
_AVAILABLE_AND_USED = spec.DESC_F_AVAIL | spec.DESC_F_USED


class PackedQueue(Virtqueue):
    """See Virtqueue."""

    def __init__(self, memory: GuestMemory, ring: Ring) -> None:
        """See Virtqueue."""
        super().__init__(memory, ring)
        check_size(ring)
        self._size = ring.size
        self._ring = area(
            memory,
            "descriptor ring",
            ring.descriptor_area,
            self._size * spec.DESC_SIZE,
            spec.DESC_ALIGN,
        )
        self._flags = self._ring.cast("H")
        self._driver, self._device = (
            area(memory, what, at, spec.EVENT_SIZE, spec.EVENT_ALIGN).cast("H")
            for what, at in (
                ("driver's event suppression", ring.driver_area),
                ("device's event suppression", ring.device_area),
            )
        )
        self._event_idx = bool(ring.features & spec.F_EVENT_IDX)
        self._indirect = bool(ring.features & spec.F_INDIRECT_DESC)
        self._next_avail, self._avail_wrap = 0, True
        self._next_used, self._used_wrap = 0, True
        self._out = 0  # descriptors popped and not pushed
        self._unpublished = 0  # descriptors pushed and not published
        self._first: tuple[int, int] | None = None  # where those begin, and the flags for it

    @property
    def position(self) -> int:
        """See Virtqueue."""
        return self._next_avail

    def pop(self) -> Chain | None:
        """See Virtqueue."""
        if not self._available():
            return None
        size, at, count = self._size, self._next_avail, 0
        flags = self._flags[at * _UNITS + _FLAGS]
        walk = Walk(self.memory, size)
        while True:
            address, length, head = _BUFFER.unpack_from(self._ring, at * spec.DESC_SIZE)
            count += 1
            if self._out + count > size:
                raise QueueError("a chain takes descriptors that are not the driver's (§2.8.16)")
            at = at + 1 if at + 1 < size else 0
            if flags & spec.DESC_F_INDIRECT:
                alone = count == 1 and not flags & spec.DESC_F_NEXT
                self._add_table(walk, walk.table(address, length, self._indirect and alone))
                break
            walk.add(address, length, flags)
            if not flags & spec.DESC_F_NEXT:
                break
            flags = self._flags[at * _UNITS + _FLAGS]
        self._avail_wrap ^= at <= self._next_avail
        self._next_avail = at
        self._out += count
        return Chain(head, count, walk.readable, walk.writable)

    def _available(self) -> bool:
        """Whether the driver has changed the flags of the next descriptor (§2.8.1)."""
        bits = self._flags[self._next_avail * _UNITS + _FLAGS] & _AVAILABLE_AND_USED
        return bits == (spec.DESC_F_AVAIL if self._avail_wrap else spec.DESC_F_USED)

    def _add_table(self, walk: Walk, table: memoryview) -> None:
        """Add all of an indirect table, in which no flag but WRITE counts (§2.8.7)."""
        for address, length, _, flags in _DESCRIPTOR.iter_unpack(table):
            walk.add(address, length, flags)

    def push(self, chain: Chain) -> None:
        """See Virtqueue. The flags of the first descriptor since `publish` are kept for it."""
        at = self._next_used
        _USED.pack_into(self._ring, at * spec.DESC_SIZE + _USED_OFFSET, chain.written, chain.head)
        flags = _AVAILABLE_AND_USED if self._used_wrap else 0
        if chain.written:
            flags |= spec.DESC_F_WRITE
        if self._first is None:
            self._first = at, flags
        else:
            self._flags[at * _UNITS + _FLAGS] = flags
        self._out -= chain.count
        self._unpublished += chain.count
        self._next_used += chain.count
        if self._next_used >= self._size:
            self._next_used -= self._size
            self._used_wrap = not self._used_wrap

    def publish(self) -> bool:
        """See Virtqueue."""
        if self._first is None:
            return False
        at, flags = self._first
        self._flags[at * _UNITS + _FLAGS] = flags
        count, self._first, self._unpublished = self._unpublished, None, 0
        # The driver asks for an interrupt, fences, and looks at the flags again. Were its wish read
        # before the flags are stored, both could miss the other's.
        fence()
        wish = self._driver[_EVENT_FLAGS] & spec.EVENT_FLAGS_MASK
        if wish != spec.EVENT_FLAGS_DESC or not self._event_idx:
            return wish != spec.EVENT_FLAGS_DISABLE
        where = self._driver[_OFFSET]
        event = where & ~spec.EVENT_WRAP
        if bool(where & spec.EVENT_WRAP) != self._used_wrap:
            event -= self._size
        return 0 < self._next_used - event <= count  # whether it is among those just shown

    def suppress(self) -> None:
        """See Virtqueue."""
        self._device[_EVENT_FLAGS] = spec.EVENT_FLAGS_DISABLE

    def allow(self) -> bool:
        """See Virtqueue."""
        if self._event_idx:
            wrap = spec.EVENT_WRAP if self._avail_wrap else 0
            self._device[_OFFSET] = self._next_avail | wrap
            self._device[_EVENT_FLAGS] = spec.EVENT_FLAGS_DESC
        else:
            self._device[_EVENT_FLAGS] = spec.EVENT_FLAGS_ENABLE
        # The driver stores the flags, fences, and looks here whether to ring. Were its flags read
        # before this is stored, it would not ring for what is missed here.
        fence()
        return self._available()
