"""Where boot structures of variable size and the command line go."""

from __future__ import annotations

import os

from pyvmm import layout
from pyvmm.errors import UsageError
from pyvmm.memory import GuestMemory


class Arena:
    """A range of guest memory, given out from its start on."""

    def __init__(self, memory: GuestMemory, start: int, end: int) -> None:
        self._memory = memory
        self._next = start
        self._end = end

    def add(self, data: bytes, align: int = 8) -> int:
        """Copy `data` to the next multiple of `align` and give its address."""
        address = -(-self._next // align) * align
        if address + len(data) > self._end:
            raise UsageError("The kernel's command line and modules take too much room")
        self._memory.write(address, data)
        self._next = address + len(data)
        return address


def structures(memory: GuestMemory) -> Arena:
    """The arena for PVH's and Multiboot's tables."""
    return Arena(memory, layout.START_INFO, layout.PAGE_TABLES)


def strings(memory: GuestMemory) -> Arena:
    """The arena for the command line and other strings."""
    return Arena(memory, layout.CMDLINE, layout.CMDLINE + layout.CMDLINE_MAX)


def c_string(text: str, what: str, maximum: int = layout.CMDLINE_MAX - 1) -> bytes:
    """`text` with a final zero; UsageError, naming `what`, over `maximum` bytes without it."""
    data = os.fsencode(text)
    if b"\0" in data:
        raise UsageError(f"{what} must not contain a NUL character")
    if len(data) > maximum:
        raise UsageError(f"{what} must be at most {maximum} bytes long, not {len(data)}")
    return data + b"\0"
