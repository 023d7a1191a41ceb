"""A client's bytes as JSON values, whatever it sends, in bounded memory and time.

A value may span lines, and several may stand on one. After what is no JSON, what follows on the
same line is skipped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from pyvmm.layout import MIB
from pyvmm.qmp.errors import QmpError

VALUE_MAX = MIB  # bytes of one value; QEMU takes 64 MiB
DEPTH_MAX = 128  # of nesting; QEMU takes 1024, which is more than Python's own parser does

_BEGIN = re.compile(rb"[^ \t\r\n]")
_STRUCTURE = re.compile(rb'[][{}"\n]')
_IN_STRING = re.compile(rb'["\\\n]')


class Stream:
    """Takes bytes as they come. One thread at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipping = False  # up to the next newline
        self._restart()

    def _restart(self) -> None:
        """Forget how far the value at the buffer's beginning was looked at."""
        self._at = 0
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> Iterator[Any]:
        """Every value that `data` completes, or a QmpError in place of what is none."""
        self._buffer += data
        while (end := self._find_end()) is not None:
            text, depth = bytes(self._buffer[:end]), self._depth
            del self._buffer[:end]
            self._restart()
            try:
                if depth > DEPTH_MAX:
                    raise QmpError(f"A JSON value must be nested at most {DEPTH_MAX} deep")
                yield _parse(text)
            except QmpError as error:
                self._skipping = not text.endswith(b"\n")
                yield error
        if len(self._buffer) > VALUE_MAX:
            self._buffer.clear()
            self._restart()
            self._skipping = True
            yield QmpError(f"A JSON value must have at most {VALUE_MAX} bytes")

    def _find_end(self) -> int | None:
        """Where the first value of the buffer ends, or what cannot become one."""
        if not self._begin():
            return None
        if self._depth == 0 and self._buffer[0] not in b"{[":
            newline = self._buffer.find(b"\n", self._at)
            self._at = len(self._buffer)
            return None if newline < 0 else newline + 1
        while self._depth <= DEPTH_MAX:
            pattern = _IN_STRING if self._in_string else _STRUCTURE
            match = pattern.search(self._buffer, self._at)
            if match is None:
                self._at = max(self._at, len(self._buffer))
                return None
            self._at = match.end()
            if self._ends(match[0]):
                return self._at
        return self._at

    def _begin(self) -> bool:
        """Have a value begin the buffer; whether there is one."""
        if self._at:
            return True
        if self._skipping:
            newline = self._buffer.find(b"\n")
            if newline < 0:
                self._buffer.clear()
                return False
            del self._buffer[:newline]
            self._skipping = False
        begin = _BEGIN.search(self._buffer)
        del self._buffer[: begin.start() if begin else len(self._buffer)]
        return begin is not None

    def _ends(self, mark: bytes) -> bool:
        """Take note of `mark`, which stands before `_at`; whether it ends the value."""
        match mark:
            case b"\\":
                self._at += 1  # past what is escaped, which may be still to come
            case b'"':
                self._in_string = not self._in_string
            case b"{" | b"[":
                self._depth += 1
            case b"}" | b"]":
                self._depth -= 1
                return self._depth == 0
            case b"\n":
                return self._in_string  # no string has one: it was never closed
        return False


def _parse(text: bytes) -> Any:
    """Raises QmpError."""
    try:
        return json.loads(
            text.decode("utf-8"),
            parse_float=_number,
            parse_constant=_refuse,
            object_pairs_hook=_object,
        )
    except ValueError as error:  # of which kind is all that json raises
        raise QmpError(f"JSON parse error: {error}") from None


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("An object has two members of one name")
    return members
