"""A sink that keeps what it gets."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.tracing.event import Event


class Kept:
    """See pyvmm.tracing.sinks.Sink."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False

    def write(self, events: Sequence[Event]) -> None:
        self.events += events

    def close(self) -> None:
        self.closed = True
