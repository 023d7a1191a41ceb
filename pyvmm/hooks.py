"""Trace points as those who pass them see them: a tracer, or None, which costs one test.

pyvmm.tracing has the tracer, and its table says what the points are; csrc/trace.h has those of C.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.typed import Any, Protocol


class Tracer(Protocol):
    """What is told of what happens. Any thread; it never waits.

    `point` is a name of pyvmm/tracing/points.py, `source` the device; `fields` say more, each a str
    or an int.
    """

    def instant(self, point: str, source: str, **fields: Any) -> None:
        """Something has happened."""

    def begin(self, point: str, source: str, what: object, **fields: Any) -> None:
        """Something begins that takes time: `what` names it, until its end, at this source."""

    def end(self, point: str, source: str, what: object, **fields: Any) -> None:
        """It has ended."""

    def ring(self, source: str, queues: Sequence[int], thread: int = 0) -> Any:
        """A struct pv_tracer for thread number `thread` of `source`, the same for the same.

        `queues` are the indices of those that the thread serves, in its order. Who uses the ring
        keeps it.
        """
