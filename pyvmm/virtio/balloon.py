"""The memory balloon, VIRTIO 1.2 §5.5: memory that the guest lends, and tells us is free.

Either kind is returned to the host at once, and is zeros when the guest touches it again.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence

from pyvmm.errors import MemoryAccessError, UsageError
from pyvmm.events import BalloonChanged, Event
from pyvmm.layout import KIB, MIB
from pyvmm.memory import GuestMemory, parse_size
from pyvmm.virtio import balloon_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.device import Transport, VirtioDevice
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue

QUEUE_SIZE = 128
MOST = 64 * KIB  # bytes of a request that are looked at; Linux's have 1 KiB


class Balloon(VirtioDevice):
    """See VirtioDevice. `target` is what the guest is to be left with at first, as in `resize`.

    `tell` is told of each BalloonChanged.
    """

    ID = virtio_spec.ID_BALLOON

    def __init__(
        self,
        name: str,
        *,
        target: int | str | None = None,
        tell: Callable[[Event], object] = lambda event: None,
    ) -> None:
        features = spec.F_STATS_VQ | spec.F_DEFLATE_ON_OOM | spec.F_PAGE_REPORTING
        super().__init__(name, [QUEUE_SIZE] * spec.QUEUES, features)
        self._initial = target
        self._tell = tell
        self._wanted = 0  # pages in the balloon, as we would like it
        self._actual = 0  # pages in the balloon, as the driver says
        self._roles: dict[int, Callable[[Chain], None]] = {}
        self._statistics: dict[str, int] = {}
        self._answered = threading.Condition()  # the statistics, and how often they came
        self._answers = 0
        self._buffer: tuple[Virtqueue, Chain] | None = None  # the driver's buffer for them

    def attach(self, memory: GuestMemory, transport: Transport) -> None:
        """See VirtioDevice. Raises UsageError if the guest has not so much memory."""
        super().attach(memory, transport)
        if self._initial is not None:
            self._set_target(self._initial)

    # ---- for programs; any thread ----

    def resize(self, target: int | str) -> None:
        """Ask the guest to make do with `target` of its memory, in bytes or as `256M`.

        It does so as far and as fast as it can; `size` says how far it is. Raises UsageError for
        less than 1M or more than there is.
        """
        self._set_target(target)
        self.transport.config_changed()

    def _set_target(self, target: int | str) -> None:
        size = parse_size(target, "balloon")
        if not MIB <= size <= self.memory.size:
            limit = f"{self.memory.size >> 20}M"
            raise UsageError(f"The guest must be left with 1M to {limit} of memory, not {target}")
        self._wanted = (self.memory.size - size) // spec.PAGE

    @property
    def target(self) -> int:
        """How many bytes of its memory the guest is to be left with."""
        return self.memory.size - self._wanted * spec.PAGE

    @property
    def size(self) -> int:
        """How many bytes of its memory the guest has, as its driver says."""
        return self.memory.size - min(self._actual * spec.PAGE, self.memory.size)

    def guest_statistics(self, timeout: float = 5.0) -> dict[str, int]:
        """What the guest says about its memory now: bytes and counts by name (STATS_NAMES).

        Raises TimeoutError if its driver does not answer within `timeout` seconds. Not on the
        worker's thread.
        """
        with self._answered:
            before = self._answers
            self.worker.loop.call_soon(self._ask)
            if not self._answered.wait_for(lambda: self._answers != before, timeout):
                raise TimeoutError(f"The guest gave no statistics within {timeout:g} s")
            return dict(self._statistics)

    # ---- for the driver ----

    def read_config(self) -> bytes:
        """See VirtioDevice."""
        return spec.CONFIG.pack(self._wanted, self._actual)

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver tells how many pages the balloon has."""
        if offset == spec.ACTUAL and len(data) == spec.ACTUAL_SIZE:
            before, self._actual = self.size, int.from_bytes(data, "little")
            if self.size != before:
                self._tell(BalloonChanged(self.size))

    def activate(self, features: int, rings: Sequence[Ring]) -> None:
        """See VirtioDevice. The reporting queue is the last one, whatever its number."""
        self._roles = {max(ring.index for ring in rings): self._report} if rings else {}
        self._roles[spec.INFLATE] = self._inflate
        self._roles[spec.DEFLATE] = _ignore  # what the guest touches is there again
        super().activate(features, rings)

    def _stop(self) -> None:
        super()._stop()
        self._buffer = None
        self._actual = 0

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        """Carry out one request; statistics' are kept until they are asked for again."""
        if queue.ring.index == spec.STATS and self.negotiated & spec.F_STATS_VQ:
            self._take_statistics(chain)
            held, self._buffer = self._buffer, (queue, chain)
            if held is not None:  # more than the one buffer that §5.5.6.3.1 allows
                queue.push(held[1])
            return False
        self._roles.get(queue.ring.index, _ignore)(chain)
        return True

    def _inflate(self, chain: Chain) -> None:
        data = chain.read(MOST)
        pages = sorted(page for (page,) in struct.iter_unpack("<I", data[: len(data) & ~3]))
        start = end = 0
        for page in pages:  # the driver's own order is often backwards
            if page > end:
                self._discard(start, end)
                start = page
            end = page + 1
        self._discard(start, end)

    def _discard(self, start: int, end: int) -> None:
        try:
            self.memory.discard_pages(start * spec.PAGE, (end - start) * spec.PAGE)
        except MemoryAccessError as error:
            raise QueueError(f"a page for the balloon is not in RAM: {error} (§5.5.6)") from None

    def _report(self, chain: Chain) -> None:
        """Pages that the guest does not use, as buffers (§5.5.6.7)."""
        for buffer in chain.writable:
            self.memory.discard_pages(self.memory.address_of(buffer), len(buffer))

    def _take_statistics(self, chain: Chain) -> None:
        data = chain.read(MOST)
        entries = spec.STAT.iter_unpack(data[: len(data) - len(data) % spec.STAT.size])
        with self._answered:
            self._statistics = {
                spec.STATS_NAMES[tag]: value
                for tag, value in entries
                if tag < len(spec.STATS_NAMES)
            }
            self._answers += 1
            self._answered.notify_all()

    def _ask(self) -> None:
        if self._buffer is not None:
            held, self._buffer = self._buffer, None
            self.complete(*held)


def _ignore(chain: Chain) -> None:
    pass
