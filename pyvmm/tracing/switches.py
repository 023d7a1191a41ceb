"""What the monitor has switched on: one choice for all its users."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pyvmm.tracing.points import Selection, parse_rule
from pyvmm.tracing.sinks import Tail, open_sink

if TYPE_CHECKING:
    from pyvmm.tracing.tracer import Output, Tracer


class Switches:
    """What it wants goes to a Tail, and to a file if one is named. Any thread but a device's."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._selection = Selection()
        self._tail = Tail(tracer.origin)
        self._outputs: list[Output] = []
        self._lock = threading.Lock()  # several users may switch at once

    def set(self, patterns: tuple[str, ...], on: bool) -> None:
        """Switch points on or off. Raises UsageError; nothing has changed then."""
        for pattern in patterns:
            parse_rule(pattern)
        with self._lock:
            for pattern in patterns:
                self._selection.set(pattern, on)
            if on:
                self._begin()
            self._tracer.update()

    def clear(self) -> None:
        """Switch all off, and end the file."""
        with self._lock:
            for output in self._outputs:
                self._tracer.remove(output)
            self._outputs.clear()
            self._selection.clear()

    def write_to(self, path: str, format: str) -> None:
        """Put what is wanted into a new file, in place of one before. Raises HostError."""
        sink = open_sink(path, format, self._tracer.origin)
        with self._lock:
            self._begin()
            for output in self._outputs[1:]:
                self._tracer.remove(output)
            self._outputs[1:] = [self._tracer.add(self._selection, sink)]

    def _begin(self) -> None:
        """Have the tail get what is wanted."""
        if not self._outputs:
            self._outputs.append(self._tracer.add(self._selection, self._tail))

    def last(self, count: int) -> list[str]:
        """The lines of the last `count` events."""
        self._tracer.flush()
        return self._tail.last(count)
