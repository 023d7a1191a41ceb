"""Fields of packets: numbers and bytes in hexadecimal."""

from __future__ import annotations

import re

# Error codes are errno's; to gdb they mean nothing.
NO_THREAD, FAILED, NO_MEMORY, MALFORMED = b"E03", b"E05", b"E14", b"E22"

_HEX = re.compile(r"[0-9a-fA-F]{1,16}")


class Refusal(Exception):
    """A packet that is answered with an error."""

    def __init__(self, code: bytes = MALFORMED) -> None:
        self.code = code


def number(text: str) -> int:
    """An unsigned hexadecimal number of up to 64 bits."""
    if not _HEX.fullmatch(text):
        raise Refusal
    return int(text, 16)


def pair(text: str) -> tuple[int, int]:
    """Two of them, with a comma between."""
    first, _, second = text.partition(",")
    return number(first), number(second)


def data_of(digits: str, length: int | None = None) -> bytes:
    """The bytes of hexadecimal digits; `length` says how many there must be."""
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        raise Refusal from None
    if length not in (None, len(data)) or 2 * len(data) != len(digits):
        raise Refusal
    return data


def digits_of(value: bytes | None, bits: int) -> bytes:
    """As gdb reads a register: `x` where it has none."""
    return b"x" * (bits // 4) if value is None else value.hex().encode()
