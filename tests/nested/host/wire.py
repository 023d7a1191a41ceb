"""What the rig and the agent in the nested host say to each other: frames over a byte stream.

A frame is its kind, the number of the process it is about (the rig chooses it), and a payload:

    rig → agent   START   JSON {argv, cwd, env, tty: [rows, columns] or null}
                  INPUT   bytes for standard input; none closes it
                  SIGNAL  JSON signal number, for the whole process group
    agent → rig   READY   the agent has started; process 0
                  OUTPUT  bytes of standard output and standard error
                  EXIT    JSON exit status (negative: the signal that ended it); the last frame
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

HEADER = struct.Struct("<BII")  # kind, process, payload's length
PORT = "pyvmm.agent"  # the virtio-serial port's name


class Kind(IntEnum):
    START, INPUT, SIGNAL, READY, OUTPUT, EXIT = range(6)


def pack(kind: Kind, process: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return HEADER.pack(kind, process, len(payload)) + payload


class Frames:
    """Cuts a stream, however its pieces arrive, into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, int, bytes]]:
        """Take the next piece and give the frames that are complete."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            kind, process, length = HEADER.unpack_from(self._buffer)
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield Kind(kind), process, payload
