"""The ports with which a guest ends the machine and tells a status.

DebugExit is QEMU's isa-debug-exit (hw/misc), of which every status is odd. ExitStatus, pyvmm's own,
can tell each one. Neither has registers: any write is the end, and reads give zero.
"""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.bus import Device

PORTS = 4
STATUS_MASK = 0xFF  # all that a process can tell its parent, wait(2)


class DebugExit(Device):
    """Claim PORTS ports, four wide.

    `ended` is called with the exit status (1 to 255, odd), the lock held, on a vCPU's thread.
    """

    def __init__(self, name: str, ended: Callable[[int], object]) -> None:
        super().__init__(name)
        self._ended = ended

    def read(self, offset: int, size: int) -> int:
        """There is nothing to read."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """End with status (value << 1) | 1."""
        self._ended((value << 1 | 1) & STATUS_MASK)


class ExitStatus(Device):
    """Claim one port. `ended` is called with the byte written, as DebugExit's is."""

    def __init__(self, name: str, ended: Callable[[int], object]) -> None:
        super().__init__(name)
        self._ended = ended

    def read(self, offset: int, size: int) -> int:
        """There is nothing to read."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """End with the status `value`."""
        self._ended(value)
