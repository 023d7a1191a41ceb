"""Recording what passes a network device, in the format of libpcap.

The format is of the Internet-Draft draft-ietf-opsawg-pcap, §4 and §5: a header, then for each frame
its time, its lengths and its bytes. Numbers are in the host's byte order.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from pyvmm.errors import HostError
from pyvmm.log import Log
from pyvmm.loop import Loop
from pyvmm.typed import Protocol, TypeAlias

log = Log(__name__)

# §4: magic number, version 2.4, two reserved, the most bytes of a frame, link type.
FILE_HEADER = struct.Struct("=IHHIIII")
MAGIC_NANOSECONDS = 0xA1B23C4D
VERSION = 2, 4
FRAME_MAX = 1 << 18  # what readers take; a frame that is to be cut up may have more than 65535
LINKTYPE_ETHERNET = 1
RECORD = struct.Struct("=IIII")  # §5: seconds, nanoseconds, bytes that follow, bytes of the frame
NANOSECONDS = 10**9

Frame: TypeAlias = Sequence[bytes | bytearray | memoryview]


class Link(Protocol):
    """A pyvmm.virtio.net.Link, as it is wrapped here."""

    offloads: int
    mtu: int

    @property
    def up(self) -> bool:
        """See there."""

    def open(
        self, loop: Loop, receive: Callable[[Frame], bool], changed: Callable[[], object]
    ) -> None:
        """See there."""

    def set_offloads(self, offloads: int) -> None:
        """See there."""

    def send(self, frame: Sequence[memoryview]) -> None:
        """See there."""

    def wake(self) -> None:
        """See there."""

    def close(self) -> None:
        """See there."""


class Recorder:
    """A Link that records what passes another one, which it owns.

    A frame that is recorded at all is recorded whole: when the host has no more room for one, the
    file ends before it.
    """

    def __init__(self, link: Link, path: str) -> None:
        """Begin the file, in place of what was in it, readable by its owner only.

        Raises HostError; `link` stays the caller's then.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        head = FILE_HEADER.pack(MAGIC_NANOSECONDS, *VERSION, 0, 0, FRAME_MAX, LINKTYPE_ETHERNET)
        try:
            self._fd = os.open(path, flags, 0o600)
            os.write(self._fd, head)
        except OSError as error:
            raise HostError(f"{path} cannot be written: {error.strerror}") from error
        self._end = len(head)
        self._path = path
        self._link = link
        self._recording = True
        self.offloads, self.mtu = link.offloads, link.mtu

    @property
    def up(self) -> bool:
        """See Link."""
        return self._link.up

    def open(
        self, loop: Loop, receive: Callable[[Frame], bool], changed: Callable[[], object]
    ) -> None:
        """See Link."""

        def record_and_receive(frame: Frame) -> bool:
            taken = receive(frame)
            if taken:
                self._record(frame)
            return taken

        self._link.open(loop, record_and_receive, changed)

    def set_offloads(self, offloads: int) -> None:
        """See Link."""
        self._link.set_offloads(offloads)

    def send(self, frame: Sequence[memoryview]) -> None:
        """See Link."""
        self._link.send(frame)
        self._record(frame)

    def wake(self) -> None:
        """See Link."""
        self._link.wake()

    def close(self) -> None:
        """See Link."""
        self._link.close()
        self._recording = False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _record(self, frame: Frame) -> None:
        if not self._recording:
            return
        length = sum(map(len, frame[1:]))
        head = RECORD.pack(*divmod(time.time_ns(), NANOSECONDS), length, length)
        try:
            written = os.writev(self._fd, [head, *frame[1:]])
        except OSError:
            written = 0
        if written == len(head) + length:
            self._end += written
            return
        self._recording = False
        with suppress(OSError):  # a pipe cannot be cut
            os.truncate(self._fd, self._end)
        log.warning("%s is not written any more: the host has no room for it", self._path)
