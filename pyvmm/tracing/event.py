"""What passes a trace point, also as the C code notes it (csrc/trace.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from pyvmm.kvm.vcpu import EXIT_KINDS
from pyvmm.native import lib
from pyvmm.tracing.points import C_POINTS
from pyvmm.virtio import blk_spec

# struct pv_record: time, duration, words[3], size, number, point, what.
RECORD = struct.Struct("<QQQQQIHBB")
INSTANT, BEGIN, END = "", "begin", "end"
HEXADECIMAL = {"port", "address", "value", "rip"}  # fields that people read so
MICROSECOND = 1000  # nanoseconds
SECOND = 1_000_000_000


class Event:
    """One event. `what` names, for this source, a thing that begins and ends; times are in ns."""

    __slots__ = ("duration", "fields", "point", "source", "step", "time", "what")

    def __init__(
        self,
        time: int,
        point: str,
        source: str,
        fields: dict[str, Any],
        *,
        step: str = INSTANT,
        what: object = None,
        duration: int = 0,
    ) -> None:
        """`time` is CLOCK_MONOTONIC's."""
        self.time = time
        self.point = point
        self.source = source
        self.fields = fields
        self.step = step
        self.what = what
        self.duration = duration

    def text(self, origin: int) -> str:
        """A line for a person, its time in seconds since `origin`."""
        fields = " ".join(
            f"{name}={value:#x}" if name in HEXADECIMAL else f"{name}={value}"
            for name, value in self.fields.items()
        )
        step = f"{self.step} {name_of(self.what)} " if self.step else ""
        took = f" took={self.duration / MICROSECOND:.1f}us" if self.duration else ""
        seconds = (self.time - origin) / SECOND
        return f"{seconds:12.6f} {self.source:8} {self.point:16} {step}{fields}{took}".rstrip()


def name_of(what: object) -> str:
    """What names a thing in its events: (0, 12) is 0.12."""
    return ".".join(map(str, what)) if isinstance(what, tuple) else str(what)


def decode(records: bytes, source: str, queues: Sequence[int] = ()) -> Iterator[Event]:
    """The events of a thread's struct pv_records; see hooks.Tracer.ring for `queues`."""
    for time, duration, a, b, c, size, number, point, what in RECORD.iter_unpack(records):
        name = C_POINTS[point]
        if point <= lib.PV_POINT_EXIT_OTHER:
            yield Event(time, name, source, _exit(what, a, b, c, size), duration=duration)
        elif point == lib.PV_POINT_REQUEST_BLOCK:
            yield _block_request(time, source, (queues[number], c), a, b, size, what)
        elif point == lib.PV_POINT_REQUEST_NET:
            index = queues[number]
            yield Event(time, name, source, {"queue": index, "bytes": size})
        else:
            yield Event(time, name, source, {"queue": queues[number]})


def _exit(kind: int, address: int, value: int, rip: int, size: int) -> dict[str, Any]:
    space, _, access = EXIT_KINDS[kind].partition("_")
    if access not in ("read", "write"):
        return {"kind": EXIT_KINDS[kind], "rip": rip}
    where = "port" if space == "pio" else "address"
    return {"access": access, where: address, "size": size, "value": value, "rip": rip}


def _block_request(
    time: int, source: str, what: tuple[int, int], offset: int, kind: int, size: int, step: int
) -> Event:
    if step == lib.PV_STEP_BEGIN:
        fields = {
            "kind": blk_spec.NAMES.get(kind, "unknown"),
            "offset": offset,
            "bytes": size,
        }
        return Event(time, "request.block", source, fields, step=BEGIN, what=what)
    status = "handed over" if step == lib.PV_STEP_HANDED else blk_spec.STATUSES[blk_spec.S_OK]
    return Event(time, "request.block", source, {"status": status}, step=END, what=what)
