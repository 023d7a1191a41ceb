"""Where events go. A sink is used by one thread at a time; `write` raises OSError."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from typing import IO, Any, Protocol

from pyvmm.errors import HostError, UsageError
from pyvmm.tracing.event import BEGIN, END, MICROSECOND, Event, name_of

KEPT = 4096  # events that Tail remembers
FORMATS = ("text", "json")
ACCESSES = ("exit.pio", "exit.mmio")  # what has a duration


class Sink(Protocol):
    """Takes events, in the order of their ends."""

    def write(self, events: Sequence[Event]) -> None:
        """Take some more, and let readers see them. Raises OSError."""

    def close(self) -> None:
        """There are no more. Raises OSError."""


class Text:
    """A line for each event."""

    def __init__(self, file: IO[str], origin: int) -> None:
        """Times are given since `origin`, in nanoseconds of CLOCK_MONOTONIC. It owns `file`."""
        self._file = file
        self._origin = origin

    def write(self, events: Sequence[Event]) -> None:
        """See Sink."""
        self._file.writelines(f"{event.text(self._origin)}\n" for event in events)
        self._file.flush()

    def close(self) -> None:
        """See Sink."""
        self._file.close()


class Json:
    """Chrome's trace event format, JSON object form, which ui.perfetto.dev reads.

    Every source is a thread. An exit is a complete event (X) on its vCPU, a request a nestable
    asynchronous one (b, e), for those of one device overlap; all else is an instant (i).
    """

    def __init__(self, file: IO[str], origin: int) -> None:
        """See Text."""
        self._file = file
        self._origin = origin
        self._threads: dict[str, int] = {}
        self._begun: dict[str, str] = {}  # the names of the requests that have not ended
        self._separator = ""
        file.write('{"displayTimeUnit": "ns", "traceEvents": [\n')
        self._put({"ph": "M", "name": "process_name", "tid": 0, "args": {"name": "pyvmm"}})

    def write(self, events: Sequence[Event]) -> None:
        """See Sink."""
        for event in events:
            self._write(event)
        self._file.flush()

    def close(self) -> None:
        """See Sink."""
        self._file.write("\n]}\n")
        self._file.close()

    def _write(self, event: Event) -> None:
        common = {
            "name": event.point,
            "cat": event.point,
            "ts": (event.time - self._origin) / MICROSECOND,
            "tid": self._thread(event.source),
            "args": event.fields,
        }
        if event.step:
            self._write_step(event, common)
        elif event.point in ACCESSES:
            self._put(common | {"ph": "X", "dur": event.duration / MICROSECOND})
        else:
            self._put(common | {"ph": "i", "s": "p" if event.source == "machine" else "t"})

    def _write_step(self, event: Event, common: dict[str, Any]) -> None:
        """The two events of a request must have the same name; an end alone is left out."""
        identity = f"{event.source}.{name_of(event.what)}"
        if event.step == BEGIN:
            kind = event.fields.get("kind", event.point)
            self._begun[identity] = kind
            self._put(common | {"ph": "b", "id": identity, "name": kind})
        elif event.step == END and identity in self._begun:
            kind = self._begun.pop(identity)
            self._put(common | {"ph": "e", "id": identity, "name": kind})

    def _thread(self, source: str) -> int:
        if source not in self._threads:
            number = len(self._threads) + 1
            self._threads[source] = number
            self._put({"ph": "M", "name": "thread_name", "tid": number, "args": {"name": source}})
        return self._threads[source]

    def _put(self, event: dict[str, Any]) -> None:
        self._file.write(self._separator + json.dumps({"ts": 0, "pid": os.getpid()} | event))
        self._separator = ",\n"


class Tail:
    """The last KEPT events, for who asks later."""

    def __init__(self, origin: int) -> None:
        """See Text."""
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._origin = origin

    def write(self, events: Sequence[Event]) -> None:
        """See Sink."""
        self._events.extend(events)

    def close(self) -> None:
        """See Sink."""

    def last(self, count: int) -> list[str]:
        """The lines of the last `count`."""
        events = list(self._events)
        return [event.text(self._origin) for event in events[max(len(events) - count, 0) :]]


def open_sink(path: str, format: str, origin: int) -> Sink:
    """A sink that writes a new file; standard error if `path` is empty. Raises HostError."""
    if format not in FORMATS:
        raise UsageError(f"A trace's format must be {' or '.join(FORMATS)}, not {format!r}")
    # On a terminal of ours, a new line is no more than that (backends/terminal.py).
    newline = "\r\n" if not path and os.isatty(2) else None
    descriptor = create(path) if path else os.dup(2)
    file = os.fdopen(descriptor, "w", encoding="utf-8", newline=newline)
    return Json(file, origin) if format == "json" else Text(file, origin)


def create(path: str) -> int:
    """A descriptor of a new file, or of a pipe that somebody reads. Raises HostError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}") from error
    os.set_blocking(descriptor, True)
    return descriptor


def format_of(path: str) -> str:
    """The format that a file's name stands for."""
    return "json" if path.endswith(".json") else "text"
