"""Counts what a disk does."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import repeat, zip_longest

from pyvmm.typed import Protocol
from pyvmm.virtio import blk_spec as spec
from pyvmm.virtio.blk_request import Request
from pyvmm.virtio.statistics import BlockStatistics, Operations

# The requests of each kind, in the order of BlockStatistics. There are others, which nobody counts.
KINDS = ((spec.T_IN,), (spec.T_OUT,), (spec.T_FLUSH,), (spec.T_DISCARD, spec.T_WRITE_ZEROES))
INDEX: dict[int | None, int] = {kind: at for at, kinds in enumerate(KINDS) for kind in kinds}


def kind_of(request: Request) -> str:
    """The name of its kind: a field of BlockStatistics.

    Of those that fail only a flush has been at csrc/worker.c before, and the guest may have changed
    its header since.
    """
    return BlockStatistics.fields[INDEX.get(request.kind, INDEX[spec.T_FLUSH])]


class Threads(Protocol):
    """Those that serve a disk in Python's place."""

    def counts(self) -> Sequence[Sequence[int]]:
        """The fields of Operations, for some of KINDS from the first on."""

    @property
    def in_flight(self) -> int:
        """How many requests are taken and not answered, by Python either."""


class BlockCounter:
    """The counts of one disk. The worker's thread, but for `statistics`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held while `_threads` and what they counted change
        self._threads: Threads | None = None
        self._counts = [[0] * len(Operations.fields) for _ in KINDS]
        self._in_flight = 0  # of what Python takes

    def statistics(self) -> BlockStatistics:
        """What was done until now. Any thread."""
        with self._lock:
            in_flight = self._in_flight if self._threads is None else self._threads.in_flight
            read, write, flush, discard = (Operations(*kind) for kind in self._totals())
        return BlockStatistics(read, write, flush, discard, in_flight)

    def _totals(self) -> list[list[int]]:
        others = () if self._threads is None else self._threads.counts()
        pairs = zip_longest(self._counts, others, fillvalue=repeat(0))
        return [[mine + theirs for mine, theirs in zip(*pair, strict=False)] for pair in pairs]

    def use(self, threads: Threads | None) -> None:
        """Others serve the disk from now on, or nobody does; what is in flight is dropped."""
        with self._lock:
            self._counts = self._totals()
            self._threads = threads
            self._in_flight = 0

    def begin(self) -> None:
        """Python has a request."""
        self._in_flight += 1

    def end(self, request: Request, status: int) -> None:
        """It has answered it."""
        self._in_flight -= 1
        index = INDEX.get(request.kind)
        if index is None:
            return
        counts = self._counts[index]
        if status == spec.S_OK:
            counts[0] += 1
            counts[1] += request.covered
            counts[2] += time.monotonic_ns() - request.taken
        else:
            counts[3] += 1
