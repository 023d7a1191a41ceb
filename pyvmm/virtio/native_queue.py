"""Virtqueues walked by csrc/ring.c, and what its callers in C need to be given."""

from __future__ import annotations

from pyvmm.errors import MemoryAccessError
from pyvmm.memory import GuestMemory
from pyvmm.native import ffi, lib
from pyvmm.typed import Any
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue, open_queue

# What SplitQueue and PackedQueue say of the same; {0} and {1} are `fault` of struct pv_queue, {ram}
# says that there is no RAM of length {1} at {0}.
_REASONS = {
    lib.PV_RING_INDEX: "the available index {0} is too far ahead (§2.7.6, §2.7.13)",
    lib.PV_RING_HEAD: "descriptor {0} is outside its table of {1} (§2.7.5)",
    lib.PV_RING_LOOP: "a chain has more than {0} descriptors (§2.7.5.3.1, §2.8.17)",
    lib.PV_RING_TAKEN: "a chain takes descriptors that are not the driver's (§2.8.16)",
    lib.PV_RING_BUFFER: "a buffer is not in RAM: {ram} (§2.7.5)",
    lib.PV_RING_ORDER: "a chain has a readable buffer after a writable one (§2.7.4.2, §2.8.17)",
    lib.PV_RING_LENGTH: "a chain is longer than 2^32 - 1 bytes (§2.7.5.2)",
    lib.PV_RING_INDIRECT: "an indirect descriptor may not be here (§2.7.5.3.1, §2.8.19)",
    lib.PV_RING_TABLE: "an indirect table has {0} bytes (§2.7.5.3, §2.8.7)",
    lib.PV_RING_OUTSIDE: "an indirect table is not in RAM: {ram} (§2.7.5.3)",
    lib.PV_RING_ROOM: "a receive buffer must have room for a header (§5.1.6.3.1)",
}


def native_memory(memory: GuestMemory) -> Any:
    """A struct pv_memory of all RAM. It must not be used after `memory` is closed. Any thread."""
    native = ffi.new("struct pv_memory *", {"count": len(memory.regions)})
    for region, target in zip(memory.regions, native.regions, strict=False):
        target.base, target.size = region.base, region.size
        target.host = ffi.from_buffer("uint8_t[]", region.view)
    return native


def native_ring(memory: GuestMemory, ring: Ring) -> Any:
    """A struct pv_queue at the beginning of `ring`, under the rules of native_memory. Any thread.

    Raises QueueError for areas that are not wholly in RAM or misaligned.
    """
    native = ffi.new(
        "struct pv_queue *",
        {
            "memory": native_memory(memory)[0],
            "descriptor_area": ring.descriptor_area,
            "driver_area": ring.driver_area,
            "device_area": ring.device_area,
            "size": ring.size,
            "packed": ring.packed,
            "event_idx": bool(ring.features & spec.F_EVENT_IDX),
            "indirect": bool(ring.features & spec.F_INDIRECT_DESC),
        },
    )
    if lib.pv_queue_open(native) < 0:
        open_queue(memory, ring)  # says in full what is wrong
        raise AssertionError("The queues in C and in Python disagree")
    return native


def queue_error(native: Any) -> QueueError:
    """What the last function of csrc/ring.c that failed on a struct pv_queue has found."""
    first, second = native.fault
    reason = _REASONS[native.error]
    return QueueError(reason.format(first, second, ram=MemoryAccessError(first, second)))


class NativeQueue(Virtqueue):
    """See Virtqueue."""

    def __init__(self, memory: GuestMemory, ring: Ring) -> None:
        """See Virtqueue."""
        super().__init__(memory, ring)
        self._native = native_ring(memory, ring)
        self._chain = ffi.new("struct pv_chain *")

    @property
    def position(self) -> int:
        """See Virtqueue."""
        return int(self._native.next_avail)

    def pop(self) -> Chain | None:
        """See Virtqueue."""
        if not self._check(lib.pv_queue_pop(self._native, self._chain)):
            return None
        return self.chain(self._chain)

    def chain(self, chain: Any) -> Chain:
        """The request in a struct pv_chain that was popped from here."""
        end = chain.readable + chain.writable
        buffers = [self._view(chain.buffers[i]) for i in range(end)]
        return Chain(chain.head, chain.count, buffers[: chain.readable], buffers[chain.readable :])

    def push(self, chain: Chain) -> None:
        """See Virtqueue."""
        lib.pv_queue_push(self._native, chain.head, chain.count, chain.written)

    def publish(self) -> bool:
        """See Virtqueue."""
        return bool(lib.pv_queue_publish(self._native))

    def suppress(self) -> None:
        """See Virtqueue."""
        lib.pv_queue_suppress(self._native)

    def allow(self) -> bool:
        """See Virtqueue."""
        return bool(self._check(lib.pv_queue_allow(self._native)))

    def _check(self, result: int) -> int:
        if result < 0:
            raise queue_error(self._native)
        return result

    def _view(self, buffer: Any) -> memoryview:
        """The guest's memory again that C has found at an address of the host."""
        for region, native in zip(self.memory.regions, self._native.memory.regions, strict=False):
            start = buffer.base - native.host
            if 0 <= start < region.size:
                return region.view[start : start + buffer.length]
        raise AssertionError("csrc/ring.c found a buffer outside RAM")
