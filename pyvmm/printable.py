"""Make what a guest wrote safe to show on a terminal."""

from __future__ import annotations

import re

# A control sequence as ECMA-48 §5.4 defines it: colours, cursor movements.
_CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def printable(text: str | bytes) -> str:
    """One line without control sequences, and with U+FFFD for all that cannot be printed."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if text.isprintable():
        return text
    text = _CONTROL_SEQUENCE.sub("", text).expandtabs()
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def printable_lines(text: str | bytes) -> list[str]:
    """The lines of `text`, each printable; empty ones are left out."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    lines = (printable(line) for line in re.split(r"[\r\n]+", text))
    return [line for line in lines if line.strip()]
