"""Tracing, recording, and what happens in a second."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated

from pyvmm.errors import UsageError
from pyvmm.monitor.command import command
from pyvmm.monitor.kinds import Choice, Number, Path, Word
from pyvmm.monitor.result import Live, Result, Table, Text
from pyvmm.monitor.session import Session
from pyvmm.tracing.points import POINTS, parse_rule
from pyvmm.tracing.recording import Recording
from pyvmm.tracing.sinks import FORMATS, format_of

SHOWN = 20  # events
FIRST_SECONDS = 0.3  # what `top` measures at least
CHECK_SECONDS = 0.05  # between two looks whether the user has had enough


class Pattern(Word):
    """Trace points, by a pattern of their names, and after an @ one of devices."""

    metavar = "PATTERN[@DEVICE]"

    def parse(self, session: Session, text: str) -> object:
        """See Kind."""
        parse_rule(text)
        return text

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        point, at, source = text.partition("@")
        if at:
            board = session.machine.board
            sources = [*(f"vcpu{vcpu.index}" for vcpu in board.vcpus), *board.virtio]
            return [f"{point}@{name}" for name in sources if name.startswith(source)]
        groups = sorted({f"{name.partition('.')[0]}.*" for name in POINTS})
        return [name for name in (*groups, *POINTS) if name.startswith(text)]


@command("trace")
def trace(session: Session) -> Result:
    """Show the trace points, and which are on."""
    wants = session.machine.tracer.wants
    return Table(("point", "on", "what"), [(name, wants(name), POINTS[name]) for name in POINTS])


@command("trace on", examples=["trace on exit.*", "trace on request.*@vda queue.*@vda"])
def trace_on(session: Session, *patterns: Annotated[str, Pattern()]) -> None:
    """Switch trace points on, of all devices and vCPUs or of one.

    `trace last` shows what they tell, and `trace to` puts it into a file.
    """
    if not patterns:
        raise UsageError("A pattern of trace points must be given, as exit.*")
    session.machine.tracer.switches.set(patterns, True)


@command("trace off", examples=["trace off exit.mmio", "trace off"])
def trace_off(session: Session, *patterns: Annotated[str, Pattern()]) -> None:
    """Switch trace points off; without a pattern, all, and end the file of `trace to`.

    What `pyvmm run --trace` asked for stays on.
    """
    switches = session.machine.tracer.switches
    if patterns:
        switches.set(patterns, False)
    else:
        switches.clear()


@command("trace to", examples=["trace to exits.txt", "trace to exits.json"])
def trace_to(session: Session, file: Path, format: Annotated[str, Choice(FORMATS)] = "") -> None:
    """Put what is on into a new file, until `trace off`.

    Text has a line for each event. With the format json, which a name that ends so stands for, it
    is one that https://ui.perfetto.dev and chrome://tracing show.
    """
    session.machine.tracer.switches.write_to(file, format or format_of(file))


@command("trace last", examples=["trace last 100", "watch trace last"])
def trace_last(session: Session, count: Annotated[int, Number()] = SHOWN) -> Result:
    """Show the last events that are on, 20 unless told."""
    return Text("\n".join(session.machine.tracer.switches.last(count)))


@command("record", examples=["record exits.bin", "record stop"])
def record(session: Session, file: Path) -> None:
    """Record every exit of every vCPU to a file, until `record stop`.

    `pyvmm trace FILE` prints it; docs/tracing.md has its format.
    """
    session.machine.tracer.record(Recording(file))


@command("record stop")
def record_stop(session: Session) -> Result:
    """End the recording."""
    recording = session.machine.tracer.record(None)
    if recording is None:
        raise UsageError("Nothing is being recorded; `record FILE` begins")
    lost = f", {recording.lost} were lost" if recording.lost else ""
    return Text(f"{recording.count} exits are in {recording.path}{lost}")


@command("top", examples=["top", "top 5"])
def top(session: Session, seconds: Annotated[int, Number("SECONDS")] = 1) -> Result:
    """Show what happens in a second, live: exits, interrupts, requests and frames.

    KVM counts all exits of a vCPU and the interrupts that it gets (since Linux 5.14); pyvmm counts
    the exits that KVM leaves to it, and those that Python answers. Interrupts of a device are those
    that it has signalled. What a kernel thread or another process serves (vhost) is not counted.
    """
    if seconds < 1:
        raise UsageError(f"SECONDS must be at least 1, not {seconds}")
    rates = session.machine.tracer.rates()

    def make() -> Result:
        while time.monotonic() < rates.since + FIRST_SECONDS:  # too soon to tell
            session.check()
            time.sleep(CHECK_SECONDS)
        return rates.tables()

    return Live(seconds, make)
