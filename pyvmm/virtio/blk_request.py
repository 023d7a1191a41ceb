"""The framing of a block request: VIRTIO 1.2 §5.2.6."""

from __future__ import annotations

import time

from pyvmm.virtio import blk_spec as spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.virtqueue import QueueError


class Request:
    """A chain taken apart: header, data and status, however it is framed (§2.7.4.1).

    `covered` is how many bytes of the disk it is about, `taken` when it came, in nanoseconds.
    """

    __slots__ = (
        *("chain", "covered", "kind", "readable", "room", "sector", "status", "taken"),
        "writable",
    )

    def __init__(self, chain: Chain) -> None:
        """Raises QueueError if there is no status byte to answer with."""
        writable = [buffer for buffer in chain.writable if len(buffer)]
        if not writable:
            raise QueueError("A block request must end in a byte for its status (§5.2.6)")
        *whole, last = writable
        self.status = last[-1:]
        self.status[0] = spec.S_IOERR
        chain.writable = [*whole, last[:-1]] if len(last) > 1 else whole
        self.chain = chain
        header = chain.read(spec.HEADER.size)
        self.kind: int | None = None  # stays so if the header is cut short
        self.sector = 0
        if len(header) == spec.HEADER.size:
            self.kind, self.sector = spec.HEADER.unpack(header)
        self.readable = tuple(filter(len, chain.readable))
        self.writable = tuple(chain.writable)
        self.room = sum(map(len, self.writable))
        self.covered = self.length
        self.taken = time.monotonic_ns()

    @property
    def length(self) -> int:
        """The bytes of data."""
        return self.room + sum(map(len, self.readable))

    def finish(self, status: int) -> None:
        """Write the status. It counts as written if nothing before it is left out (§2.7.8.2)."""
        self.status[0] = status
        if self.chain.written == self.room:
            self.chain.written += 1
