"""The block device: what each request means (VIRTIO 1.2 §5.2).

Every request gets its status. It starts as IOERR and is written last, whatever happens before. A
request waits in two cases only: its disk is out of space and is to wait for some, or it would
exceed a rate. Then the device takes no further ones, until a timer lets it go on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from pyvmm import fastpath
from pyvmm.log import Log
from pyvmm.loop import Timer
from pyvmm.typed import TYPE_CHECKING, Protocol
from pyvmm.virtio import blk_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.blk_counter import BlockCounter
from pyvmm.virtio.blk_request import Request
from pyvmm.virtio.bucket import TokenBucket
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.device import VirtioDevice, ring_doorbell
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue

if TYPE_CHECKING:
    from pyvmm.virtio.native_blk import NativeBlk
    from pyvmm.virtio.statistics import BlockStatistics

log = Log(__name__)

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
    ) -> None:
        """`serial` is ASCII, at most 20 characters; `iops` and `bps` are rates, 0 is no limit.

        `poll` is for how many microseconds at most csrc/worker.c looks at the queues before it
        waits for a doorbell.

        `writeback` is the cache mode after a reset. `hold` stops the machine for a reason until
        what it returns is called: for writes that find no space. Without it they fail.
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
        self._go_on: Callable[[], object] | None = None  # ends the hold, if there is one
        self._kept: list[tuple[Virtqueue, Request]] = []
        self._timer: Timer | None = None  # no request is taken while it runs
        self._quiet_until = 0.0

    def close(self) -> None:
        """See VirtioDevice."""
        super().close()
        self.storage.close()

    def resize(self) -> None:
        """Tell the driver that the storage has another size now. Any thread."""
        native = self._native
        if native is not None:
            native.set_size(self.storage.size)
        self.transport.config_changed()

    def statistics(self) -> BlockStatistics:
        """See VirtioDevice. Any thread."""
        return self._counter.statistics()

    @property
    def data_path(self) -> str:
        """See VirtioDevice. Any thread."""
        return "Python" if self._native is None else "C"

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
        if self.storage.fd is None or not fastpath.enabled():
            super().activate(features, rings)
        else:
            self._activate_native(self.storage.fd, features, rings)

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
            self._complain(failed)
            self._finish(request, spec.S_IOERR)
        elif not self._attempt(queue, request):
            return
        self.complete(queue, chain)

    def _attempt(self, queue: Virtqueue, request: Request) -> bool:
        """Carry it out and set its status; False if it is kept until there is space."""
        try:
            status = self._carry_out(request)
        except OSError as error:
            if self._hold and error.errno in NO_SPACE and request.kind != spec.T_FLUSH:
                self._keep(queue, request, self._hold)
                return False
            self._complain(error)
            status = spec.S_IOERR
        self._finish(request, status)
        return True

    def _finish(self, request: Request, status: int) -> None:
        request.finish(status)
        self._counter.end(request, status)

    def _carry_out(self, request: Request) -> int:
        """The request's status. Raises OSError."""
        match request.kind:
            case spec.T_IN:
                return self._read(request)
            case spec.T_OUT:
                return self._write(request)
            case spec.T_FLUSH:
                self.storage.flush()
                return spec.S_OK
            case spec.T_GET_ID:
                return self._get_id(request)
            case spec.T_DISCARD if self.features & spec.F_DISCARD:
                return self._discard(request)
            case spec.T_WRITE_ZEROES if self.features & spec.F_WRITE_ZEROES:
                return self._write_zeroes(request)
            case None:
                return spec.S_IOERR
            case _:
                return spec.S_UNSUPP

    def _inside(self, sector: int, length: int) -> bool:
        return sector * spec.SECTOR + length <= self.storage.size and length % spec.SECTOR == 0

    def _read(self, request: Request) -> int:
        if not self._inside(request.sector, request.room):
            return spec.S_IOERR
        self.storage.preadv(request.writable, request.sector * spec.SECTOR)
        request.chain.written = request.room
        return spec.S_OK

    def _write(self, request: Request) -> int:
        length = sum(map(len, request.readable))
        if self.storage.read_only or not self._inside(request.sector, length):
            return spec.S_IOERR
        self.storage.pwritev(request.readable, request.sector * spec.SECTOR)
        self._written()
        return spec.S_OK

    def _written(self) -> None:
        """Data was written: without a write cache it has to be permanent now (§5.2.6.2)."""
        if not self.writeback:
            self.storage.flush()

    def _get_id(self, request: Request) -> int:
        if request.room != spec.ID_SIZE:
            return spec.S_IOERR
        request.chain.write(self.serial)
        return spec.S_OK

    def _discard(self, request: Request) -> int:
        status, ranges = self._ranges(request, spec.DISCARD_SECTORS, 0)
        request.covered = sum(length for _, length, _ in ranges)
        for offset, length, _ in ranges:
            self.storage.discard(offset, length)
        return status

    def _write_zeroes(self, request: Request) -> int:
        status, ranges = self._ranges(request, spec.WRITE_ZEROES_SECTORS, spec.SEGMENT_UNMAP)
        request.covered = sum(length for _, length, _ in ranges)
        for offset, length, flags in ranges:
            unmap = bool(flags & spec.SEGMENT_UNMAP and self.features & spec.F_DISCARD)
            self.storage.write_zeroes(offset, length, unmap)
        if ranges:
            self._written()
        return status

    def _ranges(
        self, request: Request, longest: int, allowed: int
    ) -> tuple[int, list[tuple[int, int, int]]]:
        """A status, and if that is OK the (offset, length, flags) of every range, all checked."""
        if request.length - request.room > spec.RANGES * spec.SEGMENT.size:
            return spec.S_IOERR, []
        data = b"".join(request.readable)
        if not data or len(data) % spec.SEGMENT.size:
            return spec.S_IOERR, []
        segments = list(spec.SEGMENT.iter_unpack(data))
        if any(flags & ~allowed for _, _, flags in segments):
            return spec.S_UNSUPP, []
        for sector, sectors, _ in segments:
            if sectors > longest or not self._inside(sector, sectors * spec.SECTOR):
                return spec.S_IOERR, []
        return spec.S_OK, [
            (sector * spec.SECTOR, sectors * spec.SECTOR, flags)
            for sector, sectors, flags in segments
            if sectors
        ]

    # ---- waiting ----

    def _charge(self, length: int) -> None:
        """Take what a request costs from the rates; they may have to recover before the next."""
        now = self.worker.loop.now()
        waits = [bucket.take(length if by_byte else 1, now) for bucket, by_byte in self._buckets]
        if any(waits):
            self._wait(max(waits))

    def _keep(
        self, queue: Virtqueue, request: Request, hold: Callable[[str], Callable[[], object]]
    ) -> None:
        self._kept.append((queue, request))
        if self._go_on is None:
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

    def _complain(self, error: OSError) -> None:
        now = self.worker.loop.now()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            log.warning("%s: a request failed: %s", self.name, error.strerror or error)
