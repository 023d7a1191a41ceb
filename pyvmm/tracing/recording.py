"""Every exit of a machine in a file, and how that is read again.

The file is a header of 16 bytes, MAGIC and the size of a record, then records as C makes them:
struct pv_record of csrc/trace.h, 48 bytes, little-endian, in the order of each vCPU's exits.
docs/tracing.md has the fields.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator

from pyvmm.errors import HostError, UsageError
from pyvmm.log import Log
from pyvmm.native import lib
from pyvmm.tracing.event import RECORD, Event, decode
from pyvmm.tracing.points import LOST
from pyvmm.tracing.sinks import create

log = Log(__name__)

HEADER = struct.Struct("<12sI")
MAGIC = b"pyvmm exits1"
LOST_POINT = 0xFF  # a record that stands for records that are not there: words[1] is how many
CHUNK = 4096  # records read at once


class Recording:
    """A file that is being written. One thread at a time."""

    def __init__(self, path: str) -> None:
        """Begin a new file. Raises HostError."""
        self.path = path
        self.count = self.lost = 0
        self._file = os.fdopen(create(path), "wb")
        self._file.write(HEADER.pack(MAGIC, RECORD.size))

    def write(self, records: bytes, lost: int) -> None:
        """Add a vCPU's records, after which it lost some. What cannot be written is lost too."""
        count = len(records) // RECORD.size
        if lost:
            records += RECORD.pack(time.monotonic_ns(), 0, 0, lost, 0, 0, 0, LOST_POINT, 0)
        try:
            self._file.write(records)
        except OSError as error:
            if not self.lost:
                log.warning("%s: %s", self.path, error.strerror)
            count, lost = 0, count + lost
        self.count += count
        self.lost += lost

    def close(self) -> None:
        """End the file."""
        try:
            self._file.close()
        except OSError as error:
            log.warning("%s: %s", self.path, error.strerror)


def read(path: str) -> Iterator[Event]:
    """The exits in a file; what is cut short at its end is left out.

    Raises HostError for a file that cannot be read, UsageError for one of another kind.
    """
    try:
        with open(path, "rb") as file:
            if file.read(HEADER.size) != HEADER.pack(MAGIC, RECORD.size):
                raise UsageError(f"{path} must be a file that `record` has made")
            while data := file.read(CHUNK * RECORD.size):
                for at in range(0, len(data) - RECORD.size + 1, RECORD.size):
                    yield _event(data[at : at + RECORD.size], path)
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}") from error


def _event(record: bytes, path: str) -> Event:
    """Raises UsageError for what no vCPU has made."""
    when, _, _, count, _, _, number, point, kind = RECORD.unpack(record)
    if point == LOST_POINT:
        return Event(when, LOST, "vcpus", {"count": count})
    if point > lib.PV_POINT_EXIT_OTHER or kind >= lib.PV_EXIT_KINDS:
        raise UsageError(f"{path} is damaged: no exit is of kind {point}.{kind}")
    return next(decode(record, f"vcpu{number}"))


def lines(path: str) -> Iterator[str]:
    """The same for a person, with the times since the first. Raises what `read` does."""
    origin = None
    for event in read(path):
        origin = event.time if origin is None else origin
        yield event.text(origin)
