"""A machine's tracer: it collects events on a thread of its own and hands them to sinks.

Who passes a trace point never waits: C puts records into rings, Python into a bounded queue, and
what finds no room is counted. While nobody traces there is no thread, and no part of the machine
knows of the tracer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pyvmm import events
from pyvmm.log import Log
from pyvmm.loop import start_thread
from pyvmm.native import ffi, lib
from pyvmm.tracing.event import BEGIN, END, Event, decode
from pyvmm.tracing.points import C_POINTS, EVENTS, LOST, POINTS, Selection
from pyvmm.tracing.sinks import Sink
from pyvmm.tracing.switches import Switches

if TYPE_CHECKING:
    from pyvmm.machine import Machine
    from pyvmm.metrics.counters import Counters
    from pyvmm.tracing.rates import Rates
    from pyvmm.tracing.recording import Recording

log = Log(__name__)

WAITING_MAX = 65536  # events of Python's that wait for the thread
PERIOD = (
    0.01  # seconds between two looks: a ring has room for what half a million exits a second leave
)
MACHINE, LINES = "machine", "irq"  # sources that are no device
EXITS = sum(1 << number for number, name in enumerate(C_POINTS) if name.startswith("exit."))


class Ring:
    """A struct pv_tracer, and who fills it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.queues: Sequence[int] = ()
        self.native = ffi.new("struct pv_tracer *")
        self._lost = 0

    def take(self, out: Any) -> bytes:
        """The records that are there; `out` is a struct pv_record[PV_RECORDS] for the way."""
        count = lib.pv_trace_take(self.native, out)
        return bytes(ffi.buffer(out, count * ffi.sizeof("struct pv_record")))

    def lost(self) -> int:
        """How many records found no room since the last call."""
        before, self._lost = self._lost, self.native.lost
        return self._lost - before


class Output:
    """A sink, and what it is to get."""

    def __init__(self, selection: Selection, sink: Sink) -> None:
        self.selection = selection
        self.sink = sink

    def write(self, events: Sequence[Event]) -> None:
        """Hand it those of `events` that it is to get. Raises OSError."""
        wants = self.selection.wants
        wanted = [one for one in events if one.point == LOST or wants(one.point, one.source)]
        if wanted:
            self.sink.write(wanted)


class Tracer:
    """See pyvmm/hooks.py for what devices call; the rest may be called on any thread but theirs."""

    def __init__(self, machine: Machine) -> None:
        """For an open machine, until `close`."""
        self.origin = time.monotonic_ns()
        self.switches = Switches(self)
        self._machine = machine
        self._board = machine.board
        self._drain_lock = threading.RLock()  # of the sinks; may be taken before the next one
        self._lock = threading.RLock()  # of what is wanted, and of the rings; not held for I/O
        self._outputs: tuple[Output, ...] = ()
        self._recording: Recording | None = None
        self._rings: dict[tuple[str, int], Ring] = {}
        self._wanted: dict[tuple[str, str], bool] = {}
        self._waiting: deque[Event] = deque()
        self._lost = 0
        self._early: list[Event] = []  # that ended after the last look at the rings began
        self._records = ffi.new("struct pv_record[]", lib.PV_RECORDS)
        self._thread: threading.Thread | None = None
        self._ending: threading.Thread | None = None  # the last one that was told to end
        self._idle = threading.Event()  # that is how it is told
        self._unlisten: Callable[[], None] | None = None
        self._counters: Counters | None = None

    def close(self) -> None:
        """Tell all sinks what there is, close them, and stop tracing."""
        for output in self._outputs:
            self.remove(output)
        self.record(None)
        if self._ending is not None:
            self._ending.join()
        if self._counters is not None:
            self._counters.close()

    def rates(self) -> Rates:
        """What happens in a second from now on. Not on a vCPU's or the loop's thread."""
        from pyvmm.metrics.counters import Counters
        from pyvmm.tracing.rates import Rates

        if self._counters is None:
            self._counters = Counters(self._machine)
        return Rates(self._counters.read)

    # ---- who gets what ----

    def add(self, selection: Selection, sink: Sink) -> Output:
        """Hand what `selection` wants to `sink`, until it is removed."""
        output = Output(selection, sink)
        with self._lock:
            self._outputs += (output,)
        self.update()
        return output

    def remove(self, output: Output) -> None:
        """Stop that, and close the sink."""
        self.flush()
        with self._drain_lock:
            self._drop(output)

    def record(self, recording: Recording | None) -> Recording | None:
        """Have every exit put into a file; None stops it. The recording before, closed."""
        self.flush()
        with self._drain_lock:
            before, self._recording = self._recording, recording
            if before is not None:
                before.close()
        self.update()
        return before

    def update(self) -> None:
        """Have the machine's parts tell what is wanted now; after a change of a selection."""
        with self._lock:
            self._wanted = {}
            for ring in self._rings.values():
                ring.native.points = self._points(ring.source)
            for vcpu in self._board.vcpus:
                source = f"vcpu{vcpu.index}"
                vcpu.trace(self.ring(source, ()) if self._points(source) else None)
            for name, device in self._board.virtio.items():
                device.trace(self if self._wants_any(name) else None)
            lines = self._wants("irq.line", LINES)
            self._board.vm.on_irq_line = self._tell_line if lines else None
            self._listen(self._wants_any(MACHINE))
            self._set_thread()

    def wants(self, point: str) -> bool:
        """Whether somebody wants events at `point`, of at least one source."""
        return any(output.selection.wants_anywhere(point) for output in self._outputs)

    def _wants(self, point: str, source: str) -> bool:
        known = self._wanted  # another thread may change what is wanted now, and then this too
        key = point, source
        if key not in known:
            known[key] = any(o.selection.wants(point, source) for o in self._outputs)
        return known[key]

    def _wants_any(self, source: str) -> bool:
        return any(self._wants(point, source) for point in POINTS)

    def _points(self, source: str) -> int:
        """Of struct pv_tracer: what C is to tell of `source`."""
        wanted = sum(
            1 << number for number, name in enumerate(C_POINTS) if self._wants(name, source)
        )
        return wanted | (EXITS if self._recording is not None else 0)

    # ---- what happens; see pyvmm/hooks.py ----

    def instant(self, point: str, source: str, **fields: Any) -> None:
        """See hooks.Tracer."""
        self._take(Event(time.monotonic_ns(), point, source, fields))

    def begin(self, point: str, source: str, what: object, **fields: Any) -> None:
        """See hooks.Tracer."""
        self._take(Event(time.monotonic_ns(), point, source, fields, step=BEGIN, what=what))

    def end(self, point: str, source: str, what: object, **fields: Any) -> None:
        """See hooks.Tracer."""
        self._take(Event(time.monotonic_ns(), point, source, fields, step=END, what=what))

    def ring(self, source: str, queues: Sequence[int], thread: int = 0) -> Any:
        """See hooks.Tracer."""
        with self._lock:
            ring = self._rings.get((source, thread))
            if ring is None:
                ring = self._rings[source, thread] = Ring(source)
            ring.queues = queues
            ring.native.points = self._points(source)
            return ring.native

    def _take(self, event: Event) -> None:
        if not self._wants(event.point, event.source):
            return
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append(event)
        else:
            self._lost += 1

    def _tell_line(self, gsi: int, level: bool) -> None:
        self.instant("irq.line", LINES, gsi=gsi, level=int(level))

    def _listen(self, wanted: bool) -> None:
        if wanted and self._unlisten is None:
            self._unlisten = self._machine.listen(self._tell)
        elif not wanted and self._unlisten is not None:
            self._unlisten()
            self._unlisten = None

    def _tell(self, event: events.Event) -> None:
        fields = {
            name: value if isinstance(value, int | str) else repr(value)
            for name, value in event.asdict().items()
        }
        self.instant(EVENTS[type(event)], MACHINE, **fields)

    # ---- the thread ----

    def _set_thread(self) -> None:
        """Have it run if somebody traces."""
        wanted = self._recording is not None or any(map(self.wants, POINTS))
        if wanted and self._thread is None:
            self._idle = threading.Event()
            self._thread = start_thread("trace", self._run, self._idle)
        elif not wanted and self._thread is not None:
            self._idle.set()
            self._ending, self._thread = self._thread, None

    def _run(self, idle: threading.Event) -> None:
        while not idle.wait(PERIOD):
            self._drain(final=False)
        self._drain(final=True)

    def flush(self) -> None:
        """Hand all that has happened to the sinks."""
        self._drain(final=True)

    def _drain(self, *, final: bool) -> None:
        with self._drain_lock:
            now = time.monotonic_ns()
            found = sorted(self._early + self._collect(now), key=_ended)
            count = len(found) if final else sum(_ended(event) <= now for event in found)
            self._early = found[count:]
            for output in self._outputs:
                try:
                    output.write(found[:count])
                except OSError as error:
                    log.warning("A trace cannot be written: %s", error.strerror or error)
                    self._drop(output)

    def _drop(self, output: Output) -> None:
        """With the sinks' lock held."""
        with self._lock:
            if output not in self._outputs:
                return
            self._outputs = tuple(one for one in self._outputs if one is not output)
        self.update()
        try:
            output.sink.close()
        except OSError as error:
            log.warning("A trace is not complete: %s", error.strerror or error)

    def _collect(self, now: int) -> list[Event]:
        """What is in the rings and the queue, and what they had no room for."""
        found: list[Event] = []
        for ring in tuple(self._rings.values()):
            records, lost = ring.take(self._records), ring.lost()
            if self._recording is not None and ring.source.startswith("vcpu"):
                self._recording.write(records, lost)
            if self._outputs:
                found += decode(records, ring.source, ring.queues)
            if lost:
                found.append(Event(now, LOST, ring.source, {"count": lost}))
        found += [self._waiting.popleft() for _ in range(len(self._waiting))]
        lost, self._lost = self._lost, 0
        if lost:
            found.append(Event(now, LOST, MACHINE, {"count": lost}))
        return found


def _ended(event: Event) -> int:
    return event.time + event.duration
