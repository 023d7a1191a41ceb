"""The block device: what each request means (VIRTIO 1.2 §5.2).

Every request gets its status. It starts as IOERR and is written last, whatever happens before. A
request waits in two cases only: its disk is out of space and is to wait for some, or it would
exceed a rate. Then the device takes no further ones, until a timer lets it go on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from pyvmm import fastpath
from pyvmm.errors import HostError
from pyvmm.events import BlockError, Event
from pyvmm.loop import Timer
from pyvmm.memory import parse_size
from pyvmm.typed import TYPE_CHECKING, Protocol
from pyvmm.virtio import blk_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.blk_counter import BlockCounter, kind_of
from pyvmm.virtio.blk_execution import carry_out
from pyvmm.virtio.blk_request import Request
from pyvmm.virtio.bucket import TokenBucket
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.device import VirtioDevice, ring_doorbell
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue

if TYPE_CHECKING:
    from pyvmm.virtio.native_blk import NativeBlk
    from pyvmm.virtio.statistics import BlockStatistics

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
PROBE_SECONDS = 1.0  # between attempts to write what there was no space for
QUIET_SECONDS = 10.0  # between two log lines about failing requests
BURST_SECONDS = 0.02  # of a rate, that may be used at once after a pause


class Storage(Protocol):
    """The host's side of a disk. All but `size` is constant; sizes are in bytes.

    The methods are called on the worker's thread; `offset` and lengths are inside the disk and
    multiples of 512, `length` is above 0. They do all that is asked or raise OSError.
    """

    size: int  # a multiple of `block_size`
    block_size: int  # the logical one: 512 or 4096
    physical_block_size: int
    minimum_io: int  # and the next: 0 if unknown
    optimal_io: int
    read_only: bool
    can_discard: bool
    fd: int | None  # has the disk's bytes at their offsets, for C to use; None if there is none

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill `buffers`."""

    def pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Store `buffers`; until `flush` they may be lost with the host."""

    def flush(self) -> None:
        """Make all that was written permanent."""

    def discard(self, offset: int, length: int) -> None:
        """The guest needs this no more; what is read there afterwards is anything it wrote or 0."""

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        """Make it read as zeros; with `unmap` the space may be given up."""

    def resize(self, total: int) -> None:
        """Have `total` bytes from now on; what was beyond is lost.

        Raises UsageError where that cannot be, OSError.
        """

    def commit(self) -> None:
        """Write what a snapshot keeps into its image.

        Raises UsageError if it is no snapshot, HostError if others have the image, OSError.
        """

    def close(self) -> None:
        """Release it."""


class Blk(VirtioDevice):
    """A virtio-blk device, and the owner of its storage."""

    ID = virtio_spec.ID_BLOCK

    def __init__(
        self,
        name: str,
        storage: Storage,
        *,
        queues: int = 1,
        serial: str = "",
        writeback: bool = True,
        discard: bool = True,
        iops: int = 0,
        bps: int = 0,
        poll: int = 0,
        hold: Callable[[str], Callable[[], object]] | None = None,
        packed: bool = False,
        tell: Callable[[Event], object] = lambda event: None,
    ) -> None:
        """`serial` is ASCII, at most 20 characters; `iops` and `bps` are rates, 0 is no limit.

        `poll` is for how many microseconds at most csrc/worker.c looks at the queues before it
        waits for a doorbell.

        `writeback` is the cache mode after a reset. `hold` stops the machine for a reason until
        what it returns is called: for writes that find no space. Without it they fail. `tell` is
        told of each BlockError.
        """
        features = (
            spec.F_SIZE_MAX
            | spec.F_SEG_MAX
            | spec.F_BLK_SIZE
            | spec.F_TOPOLOGY
            | spec.F_FLUSH
            | spec.F_CONFIG_WCE
            | spec.F_MQ
        )
        if storage.read_only:
            features |= spec.F_RO
        else:
            features |= spec.F_WRITE_ZEROES
            features |= spec.F_DISCARD if discard and storage.can_discard else 0
        super().__init__(name, [spec.QUEUE_SIZE] * queues, features, packed=packed)
        self.storage = storage
        self.serial = serial.encode("ascii").ljust(spec.ID_SIZE, b"\0")
        self.writeback = self._initial_writeback = writeback
        self.iops, self.bps, self.poll = iops, bps, poll
        self._native: NativeBlk | None = None
        self._counter = BlockCounter()
        self._buckets = [
            (TokenBucket(rate, rate * BURST_SECONDS), per_byte)
            for rate, per_byte in ((iops, False), (bps, True))
            if rate
        ]
        self._hold = hold
        self._tell = tell
        self._go_on: Callable[[], object] | None = None  # ends the hold, if there is one
        self._kept: list[tuple[Virtqueue, Request]] = []
        self._timer: Timer | None = None  # no request is taken while it runs
        self._quiet_until = 0.0

    def close(self) -> None:
        """See VirtioDevice."""
        super().close()
        self.storage.close()

    def resize(self, size: int | str) -> None:
        """Make the disk `size` bytes, also as `10G`, and tell the driver. Any thread.

        A file is made so long; what was beyond a smaller size is lost. A block device must have
        the size already. Raises UsageError where that cannot be, HostError.
        """
        total = parse_size(size, "size")
        self._change("resized", lambda: self.storage.resize(total))
        self.transport.config_changed()

    def commit(self) -> None:
        """Write what a snapshot keeps into its image; requests wait meanwhile. Any thread.

        Raises UsageError if the disk is no snapshot, HostError.
        """
        self._change("committed", self.storage.commit)

    def _change(self, done: str, change: Callable[[], object]) -> None:
        """Change the storage while no request is at it. Any thread."""

        def run() -> None:
            serving = bool(self.queues)
            if serving:
                self.quiesce()
            try:
                change()
            except OSError as error:
                raise HostError(f"{self.name} cannot be {done}: {error.strerror}") from error
            finally:
                if self._native is not None:
                    self._native.set_size(self.storage.size)
                if serving:
                    self.resume()

        self.worker.call(run)

    def statistics(self) -> BlockStatistics:
        """See VirtioDevice. Any thread."""
        return self._counter.statistics()

    @property
    def data_path(self) -> str:
        """See VirtioDevice. Any thread."""
        return "Python" if self._fd is None else "C"

    @property
    def _fd(self) -> int | None:
        """What csrc/worker.c is to serve the queues from, if it can."""
        return self.storage.fd if fastpath.enabled() else None

    # ---- configuration space ----

    def read_config(self) -> bytes:
        """See VirtioDevice."""
        disk = self.storage
        block = disk.block_size
        return spec.CONFIG.pack(
            disk.size // spec.SECTOR,
            spec.SEGMENT_SIZE,
            spec.SEGMENTS,
            block,
            max(disk.physical_block_size // block, 1).bit_length() - 1,
            0,
            min(disk.minimum_io // block, 0xFFFF),
            disk.optimal_io // block,
            self.writeback,
            len(self.queue_sizes),
            *((spec.DISCARD_SECTORS, spec.RANGES) if self.features & spec.F_DISCARD else (0, 0)),
            max(disk.physical_block_size, block) // spec.SECTOR,
            spec.WRITE_ZEROES_SECTORS,
            spec.RANGES,
            bool(self.features & spec.F_DISCARD),
        )

    def write_config(self, offset: int, data: bytes) -> None:
        """Take the cache mode (§5.2.5)."""
        if offset == spec.CONFIG_WRITEBACK and len(data) == 1:
            self.writeback = bool(data[0])
            native = self._native  # the worker may end it now
            if native is not None:
                native.set_writeback(self.writeback)

    # ---- life ----

    def activate(self, features: int, rings: Sequence[Ring]) -> None:
        """See VirtioDevice. A driver that cannot flush gets a writethrough cache (§5.2.5.2)."""
        if not features & spec.F_FLUSH:
            self.writeback = False
        fd = self._fd
        if fd is None:
            super().activate(features, rings)
        else:
            self._activate_native(fd, features, rings)

    def _activate_native(self, fd: int, features: int, rings: Sequence[Ring]) -> None:
        """Have csrc/worker.c serve the queues."""
        from pyvmm.virtio.native_blk import NativeBlk

        try:
            self._native = NativeBlk(self, fd, rings)
        except QueueError as error:
            self.fail(error)
            return
        self._counter.use(self._native)
        self.negotiated = features
        self.queues.update(self._native.queues)
        self._serve()

    def _serve(self) -> None:
        if self._native is None:
            super()._serve()
        else:
            self._native.start()

    def _ignore_doorbells(self) -> None:
        if self._native is None:
            super()._ignore_doorbells()
        else:
            self._native.stop()

    def deactivate(self) -> None:
        """See VirtioDevice."""
        super().deactivate()
        self.writeback = self._initial_writeback

    def _stop(self) -> None:
        if self._native is not None:
            self._native.close()
            self._native = None
        self._counter.use(None)
        super()._stop()
        self._kept.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._end_hold()

    # ---- requests ----

    def pump(self, queue: Virtqueue) -> None:
        """See VirtioDevice; it takes nothing while requests have to wait."""
        queue.suppress()
        for _ in range(queue.ring.size):
            chain = queue.pop() if self._timer is None else None
            if chain is None:
                break
            if self.handle(queue, chain):
                queue.push(chain)
        self.publish(queue)
        if self._timer is None and queue.allow():
            ring_doorbell(queue)

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        """See VirtioDevice."""
        request = Request(chain)
        self._counter.begin()
        self._charge(request.length)
        return self._attempt(queue, request)

    def answer(self, queue: Virtqueue, chain: Chain, failed: OSError | None) -> None:
        """Carry out a request that csrc/worker.c has popped, or refuse it if it has `failed` there.

        Its rate is paid. Raises QueueError if it has no room for a status.
        """
        request = Request(chain)
        self._counter.begin()
        if failed:
            self._complain(request, failed)
            self._finish(request, spec.S_IOERR)
        elif not self._attempt(queue, request):
            return
        self.complete(queue, chain)

    def _attempt(self, queue: Virtqueue, request: Request) -> bool:
        """Carry it out and set its status; False if it is kept until there is space."""
        try:
            status = carry_out(self, request)
        except OSError as error:
            if self._hold and error.errno in NO_SPACE and request.kind != spec.T_FLUSH:
                self._keep(queue, request, error, self._hold)
                return False
            self._complain(request, error)
            status = spec.S_IOERR
        self._finish(request, status)
        return True

    def _finish(self, request: Request, status: int) -> None:
        request.finish(status)
        self._counter.end(request, status)

    # ---- waiting ----

    def _charge(self, length: int) -> None:
        """Take what a request costs from the rates; they may have to recover before the next."""
        now = self.worker.loop.now()
        waits = [bucket.take(length if by_byte else 1, now) for bucket, by_byte in self._buckets]
        if any(waits):
            self._wait(max(waits))

    def _keep(
        self,
        queue: Virtqueue,
        request: Request,
        error: OSError,
        hold: Callable[[str], Callable[[], object]],
    ) -> None:
        self._kept.append((queue, request))
        if self._go_on is None:
            self._tell_of(request, error, stopped=True)
            self._go_on = hold(f"{self.name} is out of space on the host; it goes on when there is")
        self._wait(PROBE_SECONDS)

    def _wait(self, seconds: float) -> None:
        if self._timer is None:
            loop = self.worker.loop
            self._timer = loop.call_at(loop.now() + seconds, self._waited)

    def _waited(self) -> None:
        self._timer = None
        if not self.queues:  # quiesced, and the guest has to run to end that
            self._end_hold()
            if self._kept:
                self._wait(PROBE_SECONDS)
            return
        kept, self._kept = self._kept, []
        for queue, request in kept:
            if self.queues and self._attempt(queue, request):
                self.complete(queue, request.chain)
        if not self._kept:
            self._end_hold()
            for queue in self.queues.values():
                ring_doorbell(queue)

    def _end_hold(self) -> None:
        if self._go_on is not None:
            self._go_on()
            self._go_on = None

    def _complain(self, request: Request, error: OSError) -> None:
        self._tell_of(request, error, stopped=False)
        now = self.worker.loop.now()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            self.log.warning("%s: a request failed: %s", self.name, error.strerror or error)

    def _tell_of(self, request: Request, error: OSError, *, stopped: bool) -> None:
        reason = error.strerror or str(error)
        self._tell(BlockError(self.name, kind_of(request), reason, stopped))
