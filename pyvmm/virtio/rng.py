"""The entropy device: VIRTIO 1.2 §5.4, with random numbers of the host's getrandom(2)."""

from __future__ import annotations

import os
from functools import partial

from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.bucket import TokenBucket
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.virtqueue import Virtqueue

QUEUE_SIZE = 64
MOST = 64 << 10  # bytes for one request; §5.4.6.2 lets a device give less than was asked for


class Rng(VirtioDevice):
    """See VirtioDevice. `rate` is a limit in bytes a second, 0 for none."""

    ID = spec.ID_RNG

    def __init__(self, name: str, *, rate: int = 0) -> None:
        super().__init__(name, [QUEUE_SIZE])
        self._most = min(rate, MOST) if rate else MOST
        self._bucket = TokenBucket(rate, rate) if rate else None

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        """Fill the buffers; with a limit, answer when it allows."""
        room = sum(map(len, chain.writable))
        count = chain.write(os.getrandom(min(room, self._most)))
        now = self.worker.loop.now()
        wait = self._bucket.take(count, now) if self._bucket is not None else 0.0
        if wait:
            self.worker.loop.call_at(now + wait, partial(self.complete, queue, chain))
        return not wait
