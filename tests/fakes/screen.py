"""A terminal without a window: the screen that bytes make."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pyte

PATIENCE = 30.0  # seconds until a test that waits is called stuck
ROWS, COLUMNS = 16, 80


class Screen:
    """The user's end of a socket that carries a terminal's bytes."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.bytes = b""
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        """The screen's lines, without empty ones at its end."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip("\n").split("\n")

    def type(self, text: str) -> None:
        self.line.sendall(text.encode())

    def until(self, condition: Callable[[list[str]], object]) -> list[str]:
        """Read until the screen's lines are as wanted."""
        deadline = time.monotonic() + PATIENCE
        while not condition(self.lines):
            self.line.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self.line.recv(65536)
            except TimeoutError:
                data = b""
            assert data, "the screen never was as wanted:\n" + "\n".join(self.lines)
            self.bytes += data
            self._stream.feed(data)
        return self.lines

    def until_shown(self, text: str) -> list[str]:
        return self.until(lambda lines: any(text in line for line in lines))

    def until_line(self, number: int, text: str) -> list[str]:
        """Until a line (counted from the last, which is -1) is `text`."""
        return self.until(lambda lines: len(lines) >= -number and lines[number].rstrip() == text)

    def rest(self) -> list[str]:
        """The last screen."""
        self.line.settimeout(PATIENCE)
        while data := self.line.recv(65536):
            self.bytes += data
            self._stream.feed(data)
        return self.lines

    def cell(self, row: int, column: int) -> pyte.screens.Char:
        return self._screen.buffer[row][column]
