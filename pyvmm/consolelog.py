"""What the guest said last on its serial ports, and whether that was a kernel's panic."""

from __future__ import annotations

from pyvmm.panicwatch import PanicWatch

KEPT = 64 << 10  # bytes for a report


class ConsoleLog:
    """The last output of all serial ports together."""

    def __init__(self, ports: int) -> None:
        self._panics = [PanicWatch() for _ in range(ports)]
        self._text = bytearray()
        self._texts = [bytearray() for _ in range(ports)]  # of each

    def add(self, port: int, data: bytes) -> bool:
        """Note what serial port number `port` sends; True once that was all of a panic.

        On one thread at a time for each port.
        """
        for text in (self._text, self._texts[port]):
            text += data
            if len(text) > 2 * KEPT:
                del text[:-KEPT]
        return self._panics[port].feed(data)

    @property
    def text(self) -> bytes:
        """The last output, between KEPT and twice as many bytes once there was so much."""
        return bytes(self._text)

    def of_port(self, port: int) -> bytes:
        """The same of one serial port alone."""
        return bytes(self._texts[port])

    @property
    def panic(self) -> str:
        """The line that announced the first panic seen; empty if there was none."""
        return next((watch.message for watch in self._panics if watch.message), "")
