"""What gives the guest's addresses names."""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING

from pyvmm.errors import UsageError
from pyvmm.inspection import symbols as tables
from pyvmm.inspection.kernel import KERNEL_MAP
from pyvmm.inspection.symbols import Symbols

if TYPE_CHECKING:
    from pyvmm.machine import Machine

NONE = Symbols((), str)
_PLACE = re.compile(r".*\+0x([0-9a-f]+)/0x([0-9a-f]+)")


def symbols_of(machine: Machine) -> Symbols:
    """The symbols of the guest's kernel, else of the image that was booted; there may be none.

    Ask once a command: a guest that shows no kernel is searched for one each time. Not on a vCPU's
    thread.
    """
    try:
        return machine.guest.symbols
    except UsageError:
        boot = machine.config.boot
        return _of_image(os.fspath(boot.kernel)) if boot else NONE


@functools.lru_cache(maxsize=4)
def _of_image(path: str) -> Symbols:
    """An image's symbols, where they are before a kernel maps itself: at physical addresses."""
    found = tables.symbols_of(path) or NONE
    low = next((address for address, _, _ in found.items()), 0) < KERNEL_MAP
    return found if low else found.moved(-KERNEL_MAP)


def short_name(symbols: Symbols, address: int) -> str | None:
    """`name+0x12`, or `name` at its beginning; None outside all symbols."""
    found = symbols.lookup(address)
    return found and found.partition("/")[0].removesuffix("+0x0")


def function_at(symbols: Symbols, address: int) -> tuple[int, int] | None:
    """Where the symbol around an address begins and how many bytes it has."""
    match = _PLACE.fullmatch(symbols.lookup(address) or "")
    return (address - int(match[1], 16), int(match[2], 16)) if match else None
