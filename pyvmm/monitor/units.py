"""Numbers as people read them."""

from __future__ import annotations

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size_text(size: int) -> str:
    """A number of bytes with a unit, as `512 MiB`; at most three digits after the point."""
    unit = max(size.bit_length() - 1, 0) // 10
    return f"{round(size / (1 << 10 * unit), 3):g} {UNITS[unit]}"
