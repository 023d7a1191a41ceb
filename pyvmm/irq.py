"""Interrupt lines as a device sees them: one method."""

from __future__ import annotations

from typing import Protocol


class IrqLine(Protocol):
    """A wire to an interrupt controller. Any thread may call it."""

    def set(self, level: bool) -> None:
        """Drive the wire high or low; driving it to the level that it has changes nothing."""
