"""An address as a person writes it: numbers, registers and symbols with +, - and parentheses.

    0xffffffff81000000    $rsp+8    linux_banner+0x10    -(16-$rax)

Values are 64 bits wide and wrap.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pyvmm.errors import UsageError

MASK = (1 << 64) - 1
DEPTH_MAX = 32  # of parentheses and signs, which are read by recursion
_TOKEN = re.compile(r"\s*(?:(?P<number>\d\w*)|(?P<name>\$?[A-Za-z_.][\w.$@]*)|(?P<sign>[-+()]))")


def evaluate(text: str, register: Callable[[str], int], symbol: Callable[[str], int]) -> int:
    """The value of `text`; `register` is given a name without its $, `symbol` a name.

    Raises UsageError for what is no expression, and what those two raise.
    """
    return _Reader(text, register, symbol).all()


class _Reader:
    def __init__(
        self, text: str, register: Callable[[str], int], symbol: Callable[[str], int]
    ) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._register = register
        self._symbol = symbol

    def all(self) -> int:
        value = self._sum()
        if self._text[self._at :].strip():
            raise self._wrong()
        return value & MASK

    def _wrong(self) -> UsageError:
        rest = self._text[self._at :].strip()
        if not rest:
            return UsageError(f"An address must not end so: {self._text!r}")
        return UsageError(
            f"An address must be numbers, $registers and symbols with + and -, not {rest!r}"
        )

    def _next(self, signs: str) -> str:
        """Take one of the signs if it comes next."""
        match = _TOKEN.match(self._text, self._at)
        sign = match["sign"] if match else None
        if match is None or sign is None or sign not in signs:
            return ""
        self._at = match.end()
        return sign

    def _sum(self) -> int:
        value = self._term()
        while sign := self._next("+-"):
            value += self._term() if sign == "+" else -self._term()
        return value

    def _term(self) -> int:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise UsageError(f"An address must have at most {DEPTH_MAX} signs and parentheses")
        try:
            if self._next("-"):
                return -self._term()
            if self._next("("):
                value = self._sum()
                if not self._next(")"):
                    raise self._wrong()
                return value
            return self._operand()
        finally:
            self._depth -= 1

    def _operand(self) -> int:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match["sign"]:
            raise self._wrong()
        name = match["name"]
        if name is None:
            try:
                value = int(match["number"], 0)
            except ValueError:
                raise self._wrong() from None
        elif name.startswith("$"):
            value = self._register(name[1:])
        else:
            value = self._symbol(name)
        self._at = match.end()
        return value
