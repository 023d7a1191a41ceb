"""What every register device has in common."""

from __future__ import annotations

import threading

from pyvmm.bus import Window


class Device:
    """A device with registers on a bus.

    `read`, `write` and `posted` are called with `lock` held, on any thread. A device that is
    called back otherwise (a timer, a back end) takes `lock` itself.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()
        self.window = Window()  # replaced by the one of the device's claim, if it uses it

    def reset(self) -> None:
        """Put every register to its power-on value; called while no vCPU runs."""

    def read(self, offset: int, size: int) -> int:
        """Answer a read of `size` bytes at register `offset`; all ones where nothing is."""
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of `size` bytes at register `offset`; ignored where nothing is."""

    def posted(self, offset: int, data: bytes) -> None:
        """Take one-byte writes of `offset` that the exit loop queued, oldest first."""
        for value in data:
            self.write(offset, 1, value)
