"""A disk's queues served by the threads of csrc/worker.c, and the requests that these leave to Blk.

They carry out plain reads, writes and flushes on a descriptor. What else there is, and what fails,
they hand over: Blk answers it on the device's worker, to the same effect as without them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from pyvmm.errors import HostError
from pyvmm.native import ffi, lib
from pyvmm.typed import TYPE_CHECKING, Any
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.native_queue import NativeQueue, queue_error
from pyvmm.virtio.virtqueue import QueueError, Ring

if TYPE_CHECKING:
    from pyvmm.hooks import Tracer
    from pyvmm.virtio.blk import Blk

NAME_LENGTH = 11  # bytes of a thread's name that are left for the disk's


class DiskQueue(NativeQueue):
    """A queue that C serves. Here its requests are only answered; any time, C is at it too."""

    def serve(self, disk: Any, place: int) -> None:
        """Belong to a struct pv_disk, as the queue at `place`."""
        self._disk, self._place = disk, place
        target = disk.queues[place]
        target.ring, target.doorbell, target.call = (
            self._native,
            self.ring.doorbell,
            self.ring.call,
        )

    def push(self, chain: Chain) -> None:
        """See Virtqueue."""
        lib.pv_disk_push(self._disk, self._place, chain.head, chain.count, chain.written)

    def publish(self) -> bool:
        """See Virtqueue."""
        return bool(lib.pv_disk_publish(self._disk, self._place))


class NativeBlk:
    """The threads of one active disk, at rest until `start`.

    All methods run on the device's worker's thread, except the setting of `size`, `writeback`
    and `trace`, which any thread may call. After `close` none may be called.
    """

    def __init__(self, blk: Blk, fd: int, rings: Sequence[Ring]) -> None:
        """Serve `rings` from `fd`, which stays the caller's.

        Raises QueueError for areas that are wrong, HostError if the host allows no more threads.
        """
        self._blk = blk
        self._queues = [DiskQueue(blk.memory, ring) for ring in rings]
        self.queues = {queue.ring.index: queue for queue in self._queues}
        self._targets = ffi.new("struct pv_disk_queue[]", len(rings))
        self._chain = ffi.new("struct pv_chain *")
        self._failed = ffi.new("int *")
        self._ring: Any = ffi.NULL  # of those who trace
        self._attention = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._disk = ffi.new(
            "struct pv_disk *",
            {
                "name": blk.name.encode()[:NAME_LENGTH],
                "fd": fd,
                "attention": self._attention,
                "read_only": blk.storage.read_only,
                "poll": blk.poll * 1000,
                "iops": blk.iops,
                "bps": blk.bps,
                "queue_count": len(rings),
                "queues": self._targets,
                "size": blk.storage.size,
                "writeback": blk.writeback,
            },
        )
        for place, queue in enumerate(self._queues):
            queue.serve(self._disk, place)
        error = lib.pv_disk_open(self._disk)
        if error:
            os.close(self._attention)
            reason = os.strerror(-error)
            raise HostError(f"The host allows no threads for disk {blk.name}: {reason}")

    def start(self) -> None:
        """Serve the queues from where they are."""
        self._blk.worker.loop.watch(self._attention, self._attend)
        lib.pv_disk_start(self._disk)

    def stop(self) -> None:
        """Leave the guest's memory alone, once what was begun is done, until `start`."""
        lib.pv_disk_stop(self._disk)
        self._blk.worker.loop.unwatch(self._attention)

    def close(self) -> None:
        """End the threads; what no thread has begun is dropped."""
        lib.pv_disk_close(self._disk)
        self._blk.worker.loop.unwatch(self._attention)
        os.close(self._attention)

    def set_size(self, size: int) -> None:
        """The disk has `size` bytes now. Any thread."""
        self._disk.size = size

    def set_writeback(self, writeback: bool) -> None:
        """From the next request on, writes may or must not stay in the host's cache. Any thread."""
        self._disk.writeback = writeback

    def trace(self, tracer: Tracer | None) -> None:
        """Tell `tracer` of what C does. Any thread."""
        if tracer is not None:
            queues = [queue.ring.index for queue in self._queues]
            self._ring = tracer.ring(self._blk.name, queues)
        self._disk.tracer = self._ring if tracer is not None else ffi.NULL

    def counts(self) -> list[tuple[int, ...]]:
        """The Operations that the threads have done: read, write, flush. Any thread, any time."""
        counters = self._disk.counters
        kinds = counters.read, counters.write, counters.flush
        return [(kind.operations, kind.bytes, kind.nanoseconds, 0) for kind in kinds]

    @property
    def interrupts(self) -> int:
        """How many they have signalled. Any thread, any time."""
        return int(self._disk.counters.interrupts)

    @property
    def in_flight(self) -> int:
        """How many requests are taken and not answered. Any thread, any time."""
        return int(self._disk.counters.in_flight)

    def _attend(self) -> None:
        """Answer what C has left, as much as fits a ring, so that a reset never waits long."""
        os.eventfd_read(self._attention)
        try:
            for _ in range(lib.PV_QUEUE_MAX):
                place = lib.pv_disk_take(self._disk, self._chain, self._failed)
                if place < 0:
                    break
                self._answer(self._queues[place])
            else:
                os.eventfd_write(self._attention, 1)
            if self._disk.broken:
                raise queue_error(self._disk.broken)
        except QueueError as error:
            self._blk.fail(error)

    def _answer(self, queue: DiskQueue) -> None:
        errno = self._failed[0]
        failed = OSError(errno, os.strerror(errno)) if errno else None
        self._blk.answer(queue, queue.chain(self._chain), failed)
