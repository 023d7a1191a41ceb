"""Memory as text, in the formats of QEMU's commands x and xp (its monitor's manual, "x/fmt")."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pyvmm.errors import UsageError
from pyvmm.value import Value

COUNT_MAX = 1 << 16  # of one dump: what nobody reads
_FORMAT = re.compile(r"/(\d*)([a-z]*)")
LETTERS = {
    "x": "hexadecimal",
    "d": "signed decimal",
    "u": "decimal",
    "o": "octal",
    "c": "characters",
    "i": "instructions",
    "s": "strings",
}
SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
LINE, LINE_OF_BYTES = 16, 8  # bytes of a line
_ESCAPES = {0: "\\0", 7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 13: "\\r", 39: "\\'", 92: "\\\\"}


class Format(Value):
    """`/4xw`: how many items, how they are written (of LETTERS), and the bytes of each."""

    count: int = 1
    letter: str = "x"
    size: int = 4


def parse_format(text: str) -> Format:
    """Read `/`, a count, a letter of LETTERS and one of SIZES, each of which may be missing.

    Raises UsageError.
    """
    match = _FORMAT.fullmatch(text)
    wrong = UsageError(
        f"A format must be /, a count, one of {' '.join(LETTERS)} and one of {' '.join(SIZES)}, "
        f"as /8xg, not {text!r}"
    )
    if match is None:
        raise wrong
    count, letters = match.groups()
    if len(count) > len(str(COUNT_MAX)) or not 1 <= int(count or 1) <= COUNT_MAX:
        raise UsageError(f"The count of a format must be 1 to {COUNT_MAX}, not {count}")
    chosen = {letter for letter in letters if letter in LETTERS}
    sizes = {letter for letter in letters if letter in SIZES}
    if len(letters) != len(chosen) + len(sizes) or len(chosen) > 1 or len(sizes) > 1:
        raise wrong
    letter = chosen.pop() if chosen else "x"
    size = SIZES[sizes.pop()] if sizes else 4
    return Format(int(count or 1), letter, 1 if letter in "cs" else size)


def values(data: bytes, format: Format) -> list[int]:
    """The items of `data`, little-endian; a part of one at the end is left out."""
    whole = len(data) - len(data) % format.size
    return [
        int.from_bytes(data[at : at + format.size], "little", signed=format.letter == "d")
        for at in range(0, whole, format.size)
    ]


def item_text(value: int, format: Format) -> str:
    """One item, as wide as the widest of its size."""
    bits = 8 * format.size
    match format.letter:
        case "x":
            return f"{value:#0{bits // 4 + 2}x}"
        case "o":
            return f"{f'0{value:o}' if value else '0':>{-(-bits // 3)}}"
        case "c":
            return character(value)
        case _:  # enough digits for the bits, and a sign
            return f"{value:{-(-bits * 10 // 33)}d}"


def character(value: int) -> str:
    """A byte as C writes it, in quotes."""
    if value in _ESCAPES:
        return f"'{_ESCAPES[value]}'"
    return f"'{chr(value)}'" if 32 <= value <= 126 else f"'\\x{value:02x}'"


def lines_of(items: Sequence[int], format: Format) -> list[list[str]]:
    """The items' texts, as many in a line as fit its bytes."""
    line = LINE_OF_BYTES if format.size == 1 else LINE
    step = line // format.size
    texts = [item_text(item, format) for item in items]
    return [texts[at : at + step] for at in range(0, len(texts), step)]
