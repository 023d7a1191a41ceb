"""Two ports for messages of early code: POST codes (0x80) and the debug console (0xE9)."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.bus import Device
from pyvmm.devices import postcode_spec as spec

DATA = 0


class PostCode(Device):
    """`code` is the last byte written; any thread may look at it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reset()

    def reset(self) -> None:
        """Forget the last code."""
        self.code = 0
        self.window.post(DATA, True)

    def read(self, offset: int, size: int) -> int:
        """The last code."""
        return self.code

    def write(self, offset: int, size: int, value: int) -> None:
        """Show a code."""
        self.code = value


class DebugConsole(Device):
    """`output` is called with the bytes written, the lock held, on any thread."""

    def __init__(self, name: str, output: Callable[[bytes], object]) -> None:
        super().__init__(name)
        self._output = output
        self.reset()

    def reset(self) -> None:
        """There is no state."""
        self.window.post(DATA, True)
        self.window.publish(DATA, bytes((spec.DEBUGCON_PRESENT,)))

    def read(self, offset: int, size: int) -> int:
        """The value by which a guest knows that the console is there."""
        return spec.DEBUGCON_PRESENT

    def write(self, offset: int, size: int, value: int) -> None:
        """Take one byte."""
        self._output(bytes((value,)))

    def posted(self, offset: int, data: bytes) -> None:
        """Take bytes that the exit loop queued."""
        self._output(data)
