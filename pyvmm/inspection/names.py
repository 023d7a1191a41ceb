"""What gives the guest's addresses names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyvmm.machine import Machine

_PLACE = re.compile(r"(.*)\+0x([0-9a-f]+)/0x([0-9a-f]+)")


class Symbols(Protocol):
    """A machine's symbols. Any thread."""

    def lookup(self, address: int) -> str | None:
        """`name+0x12/0x40`: how far into the symbol, and its size; None outside all."""

    def address(self, name: str) -> int:
        """Where the symbol of that name is. Raises LookupError if there is none."""

    def names(self, prefix: str) -> Sequence[str]:
        """The names that begin so, sorted."""


class NoSymbols:
    """Where there are none."""

    def lookup(self, address: int) -> None:
        """See Symbols."""

    def address(self, name: str) -> int:
        """See Symbols."""
        raise LookupError(name)

    def names(self, prefix: str) -> Sequence[str]:
        """See Symbols."""
        return ()


def symbols_of(machine: Machine) -> Symbols:
    """The symbols of what runs in `machine`. Not on a vCPU's thread."""
    return NoSymbols()


def short_name(symbols: Symbols, address: int) -> str | None:
    """`name+0x12`, or `name` at its beginning."""
    found = symbols.lookup(address)
    return found and found.partition("/")[0].removesuffix("+0x0")


def function_at(symbols: Symbols, address: int) -> tuple[int, int] | None:
    """Where the symbol around an address begins and how many bytes it has."""
    match = _PLACE.fullmatch(symbols.lookup(address) or "")
    return (address - int(match[2], 16), int(match[3], 16)) if match else None
