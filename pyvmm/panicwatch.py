"""Notice a Linux kernel's panic on its serial console."""

from __future__ import annotations

BEGIN = b"Kernel panic - not syncing"  # Linux, kernel/panic.c
END = b"---[ end Kernel panic"  # and the rest of that line
TAIL = max(len(BEGIN), len(END)) - 1  # what may be the start of a marker that is cut in two
MESSAGE_MAX = 256


class PanicWatch:
    """Fed with a serial port's output, chunk by chunk, by one thread at a time."""

    def __init__(self) -> None:
        self._tail = b""
        self._said = b""
        self._last_line = False  # END has been seen
        self._ended = False

    def feed(self, chunk: bytes) -> bool:
        """Look at the next bytes of output; True once the kernel has said all of its panic."""
        seen = self._tail + chunk
        self._tail = seen[-TAIL:]
        if self._said:
            self._said = (self._said + chunk)[:MESSAGE_MAX]
        elif (begin := seen.find(BEGIN)) >= 0:
            self._said = seen[begin : begin + MESSAGE_MAX]
        if self._last_line:
            self._ended = self._ended or b"\n" in chunk
        elif self._said and (end := seen.find(END)) >= 0:
            self._last_line = True
            self._ended = b"\n" in seen[end:]
        return self._ended

    @property
    def message(self) -> str:
        """The line that announced the panic, from "Kernel panic" on; empty if there was none."""
        if not self._said:
            return ""
        from pyvmm.printable import printable

        return printable(self._said.splitlines()[0])
