"""Frames on a Unix socket, each after its length, as QEMU's `-netdev stream` has them.

passt(1) speaks this, and so do two guests of pyvmm with one another. A peer that does not read
stalls the guest's sending; one that goes away takes the link down until there is another.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence

from pyvmm.backends import frame_spec as spec
from pyvmm.backends.sockets import listen, stop_listening
from pyvmm.errors import HostError
from pyvmm.log import Log
from pyvmm.loop import READ, WRITE, Loop, Timer
from pyvmm.typed import TypeAlias

log = Log(__name__)

Frame: TypeAlias = Sequence[bytes | bytearray | memoryview]
LENGTH = struct.Struct(">I")  # bytes of the frame that follows: QEMU's net/stream.c
BUFFER_SIZE = 4 * (LENGTH.size + spec.FRAME_MAX)  # bytes of input


class Stream:
    """A pyvmm.virtio.net.Link. Its methods are called on the device's worker's thread."""

    offloads = 0
    mtu = spec.MTU_MAX

    def __init__(self, path: str, *, server: bool = False, reconnect: float = 0) -> None:
        """Listen at `path`, or connect to it: again after `reconnect` seconds, if not 0.

        Raises HostError.
        """
        self._path = path
        self._reconnect = reconnect
        self._peer: socket.socket | None = None
        self._listener = listen(path) if server else None
        self._inode = os.stat(path).st_ino if server else 0
        self._loop: Loop | None = None
        self._timer: Timer | None = None
        self._input = memoryview(bytearray(BUFFER_SIZE))
        self._forget()
        if not server:
            try:
                self._peer = _connect(path)
            except OSError as error:
                reason = f"A peer must listen at {path}: {error.strerror or error}"
                if not reconnect:
                    raise HostError(reason) from error
                log.warning("%s; trying again every %g s", reason, reconnect)

    def _forget(self) -> None:
        self._start = self._end = 0  # of what was received and not taken
        self._refused = False  # the guest has no room for it
        self._output = b""  # the rest of a frame that is partly sent
        self._full = False  # there was no room for more

    @property
    def up(self) -> bool:
        """See Link."""
        return self._peer is not None

    def open(
        self, loop: Loop, receive: Callable[[Frame], bool], changed: Callable[[], object]
    ) -> None:
        """See Link."""
        self._loop, self._receive, self._changed = loop, receive, changed
        if self._peer is None:
            self._seek()
        else:
            self._watch()

    def close(self) -> None:
        """See Link."""
        self._hang_up()
        if self._timer is not None:
            self._timer.cancel()
        if self._listener is not None:
            if self._loop is not None:
                self._loop.unwatch(self._listener.fileno())
            stop_listening(self._listener, self._path, self._inode)
            self._listener = None

    # ---- the peer ----

    def _seek(self) -> None:
        """Look for a peer, if there may be another."""
        assert self._loop is not None
        if self._listener is not None:
            self._loop.watch(self._listener.fileno(), self._accept)
        elif self._reconnect:
            self._timer = self._loop.call_at(self._loop.now() + self._reconnect, self._try)

    def _accept(self) -> None:
        assert self._listener is not None
        assert self._loop is not None
        try:
            peer, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        peer.setblocking(False)
        self._loop.unwatch(self._listener.fileno())  # a second one waits
        self._begin(peer)

    def _try(self) -> None:
        try:
            self._begin(_connect(self._path))
        except OSError:
            self._seek()

    def _begin(self, peer: socket.socket) -> None:
        self._peer = peer
        log.info("%s: connected", self._path)
        self._watch()
        self._changed()

    def _hang_up(self) -> None:
        if self._peer is not None:
            if self._loop is not None:
                self._loop.unwatch(self._peer.fileno())
            self._peer.close()
            self._peer = None
        self._forget()

    def _lost(self, why: str) -> None:
        log.warning("%s: the peer %s", self._path, why)
        self._hang_up()
        self._changed()
        self._seek()

    def _watch(self) -> None:
        assert self._loop is not None
        if self._peer is None:
            return
        events = (0 if self._refused else READ) | (WRITE if self._full else 0)
        if events:
            self._loop.watch(self._peer.fileno(), self._ready, events)
        else:  # a watch for nothing would still tell again and again that the peer has gone
            self._loop.unwatch(self._peer.fileno())

    def _ready(self) -> None:
        """The peer has sent something, takes more, or has gone."""
        if self._full:
            self._flush()
        if self._peer is not None and not self._refused:
            self._read()

    # ---- to the peer ----

    def set_offloads(self, offloads: int) -> None:
        """See Link."""

    def send(self, frame: Frame) -> None:
        """See Link."""
        if self._peer is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        if self._full:
            raise BlockingIOError
        length = sum(map(len, frame[1:]))
        try:
            sent = self._peer.sendmsg([LENGTH.pack(length), *frame[1:]])
        except BlockingIOError:
            self._full = True
            self._watch()
            raise
        if sent < LENGTH.size + length:
            self._output = b"".join([LENGTH.pack(length), *frame[1:]])[sent:]
            self._full = True
            self._watch()

    def _flush(self) -> None:
        """Send the rest, and let the guest send more."""
        assert self._peer is not None
        try:
            if self._output:
                self._output = self._output[self._peer.send(self._output) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(f"has gone: {error.strerror}")
            return
        if not self._output:
            self._full = False
            self._watch()
            self._changed()

    # ---- from the peer ----

    def _read(self) -> None:
        assert self._peer is not None
        try:
            count = self._peer.recv_into(self._input[self._end :])
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(f"has gone: {error.strerror}")
            return
        if not count:
            self._lost("has hung up")
            return
        self._end += count
        self._deliver()

    def _deliver(self) -> None:
        """Give the guest every frame that is there whole; keep the rest at the buffer's start."""
        while self._end - self._start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._input, self._start)
            first = self._start + LENGTH.size
            if length > spec.FRAME_MAX:
                self._lost(f"sends a frame of {length} bytes, more than {spec.FRAME_MAX}")
                return
            if first + length > self._end:
                break
            # What is shorter than a header is nothing for a guest.
            frame = self._input[first : first + length]
            if length >= spec.ETHERNET_SIZE and not self._receive((spec.WHOLE, frame)):
                self._refused = True
                self._watch()
                return
            self._start = first + length
        rest = self._input[self._start : self._end]
        self._input[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def wake(self) -> None:
        """See Link."""
        if self._refused:
            self._refused = False
            self._deliver()
            self._watch()


def _connect(path: str) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        peer.connect(path)
    except OSError:
        peer.close()
        raise
    return peer
