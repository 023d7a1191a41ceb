"""The first serial port, shared: whoever attaches sees and types beside what it is connected to."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

from pyvmm.backends.chardev import Stream, ready
from pyvmm.devices.serial import Serial
from pyvmm.errors import UsageError
from pyvmm.loop import Loop

KEPT = 1 << 20  # bytes of output that one who reads slowly may be behind
CONSOLES_MAX = 16
LAST_SECONDS = 0.5  # that all consoles have in the end to take the last output
ANOTHER_TYPES = b"[Another console types here; this one only shows]\r\n"


class SharedLine:
    """Stands between a serial port and its back end, for both as the other; see CharBackend."""

    def __init__(self, port: Serial, loop: Loop) -> None:
        """Take the place of the port's back end. Any thread."""
        self._port = port
        self._loop = loop
        self._consoles: list[Attached] = []
        with port.lock:
            self._first = port.replace_backend(self)

    def add(self, client: socket.socket, greeting: bytes, last_output: Callable[[], bytes]) -> None:
        """Give the client `greeting`, `last_output()` and all that follows; the socket is ours now.

        What the first one types goes to the guest. Any thread, one at a time. Raises UsageError if
        there are CONSOLES_MAX consoles.
        """
        if len(self._consoles) == CONSOLES_MAX:
            raise UsageError(f"There must be at most {CONSOLES_MAX} consoles on a port")
        writes = self.typist is None
        client.setblocking(False)
        console = Attached(self._loop, client.detach(), self._remove, writes=writes)
        console.attach(self._port)
        with self._port.lock:  # no byte twice, and none lost between
            console.transmit(greeting + (b"" if writes else ANOTHER_TYPES) + last_output())
            self._consoles = [*self._consoles, console]

    @property
    def typist(self) -> Attached | None:
        """The console whose input the guest gets. Any thread."""
        return next((console for console in self._consoles if console.writes), None)

    def _remove(self, console: Attached) -> None:
        with self._port.lock:
            self._consoles = [one for one in self._consoles if one is not console]

    def close(self) -> None:
        """Let all consoles go, once they have the last output. When the guest has ended."""
        deadline = time.monotonic() + LAST_SECONDS
        for console in self._consoles:
            console.finish(deadline)

    # ---- what the port calls, with its lock held ----

    def attach(self, port: Serial) -> None:
        """Nothing: the port is known."""

    def transmit(self, data: bytes) -> None:
        """Show it to all."""
        self._first.transmit(data)
        for console in self._consoles:
            console.transmit(data)

    @property
    def unsent(self) -> int:
        """What waits at the port's own back end: consoles do not stall the guest."""
        return self._first.unsent

    def resume(self) -> None:
        """Whoever has input offers it again."""
        self._first.resume()
        for console in self._consoles:
            console.resume()


class Attached(Stream):
    """A console that has attached: its input is the port's if it `writes`."""

    where = "a console"

    def __init__(
        self, loop: Loop, fd: int, gone: Callable[[Attached], object], *, writes: bool
    ) -> None:
        super().__init__(loop, fd, fd, owned=(fd,), keep=KEPT)
        self._gone = gone
        self.writes = writes

    def received(self, data: bytes) -> bytes:
        """See Stream."""
        return data if self.writes else b""

    def broken(self, error: OSError) -> None:
        """It reads no more; what it has typed is still for the guest, until `hung_up`."""
        self._sink = None

    def finish(self, deadline: float) -> None:
        """Let it go once it has all output, or it is `deadline`. When the guest has ended."""
        with self._lock:
            while (
                self._output
                and self._sink is not None
                and (left := deadline - time.monotonic()) > 0
            ):
                if ready(self._sink, select.POLLOUT, round(left * 1000)):
                    self._flush()
            self._sink = None
        self.close()

    def hung_up(self) -> None:
        """It has gone, and the guest has all that it typed."""
        self._gone(self)
        with self._lock:
            self._sink = None
        self.close()
