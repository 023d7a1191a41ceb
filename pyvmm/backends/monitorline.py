"""The socket between a terminal and the monitor that it shows."""

from __future__ import annotations

import os
import select
from contextlib import suppress

from pyvmm.backends.chardev import LAST_WAIT, Stream, ready
from pyvmm.loop import Loop
from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from pyvmm.backends.terminal import Stdio

TYPED_MAX = 64 << 10  # bytes kept that nobody takes; more stay where they come from


class MonitorLine(Stream):
    """Our end of the socket to the monitor that a Stdio shows."""

    def __init__(self, loop: Loop, peer: socket.socket, stdio: Stdio) -> None:
        peer.setblocking(False)
        super().__init__(loop, peer.fileno(), peer.fileno())
        self._peer = peer
        self._stdio = stdio
        self._last = False
        self.attach(_Shown(stdio))

    def end_input(self) -> None:
        """There is no more input; what waits is still sent."""
        with self._lock:
            self._last = True
            self._flush()
            self._shut()

    def last(self) -> bytes:
        """What it still says, waited for; nothing at its end."""
        data = bytes(self._input)
        self._input.clear()
        if data or self._source is None or not ready(self._source, select.POLLIN, LAST_WAIT):
            return data
        with suppress(OSError):
            data = os.read(self._source, TYPED_MAX)
        return data

    def broken(self, error: OSError) -> None:
        """It reads no more; `hung_up` follows."""
        self._sink = None

    def hung_up(self) -> None:
        """See Stream."""
        super().hung_up()
        self._stdio.left()

    def close(self) -> None:
        """See Chardev."""
        with self._lock:
            self._source = self._sink = None
            self._watch()
        self._peer.close()

    def _flush(self) -> None:
        super()._flush()
        self._shut()

    def _shut(self) -> None:
        import socket

        if self._last and not self._output and self._sink is not None:
            self._sink = None
            with suppress(OSError):
                self._peer.shutdown(socket.SHUT_WR)


class _Shown:
    """A Stdio as the port of its MonitorLine."""

    def __init__(self, stdio: Stdio) -> None:
        self._stdio = stdio

    def receive(self, data: bytes) -> int:
        """See Port."""
        return self._stdio.show(data)

    def drained(self) -> None:
        """See Port: more may be typed."""
        self._stdio.resume()

    def ended(self) -> None:
        """See Port: `left` says it."""

    def resized(self) -> None:
        """See Port."""


class Unconnected:
    """The port of a line that the monitor has for itself; no guest takes what comes."""

    def receive(self, data: bytes) -> int:
        """See Port."""
        return len(data)

    def drained(self) -> None:
        """See Port."""

    def ended(self) -> None:
        """See Port."""

    def resized(self) -> None:
        """See Port."""
