"""Instructions as text, by capstone, which is an optional dependency."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pyvmm.errors import HostError
from pyvmm.typed import Any
from pyvmm.value import Value

INSTRUCTION_MAX = 15  # bytes, SDM 2A §2.3.11
CHUNK = 256  # bytes given to the decoder at once: it stops at each that begins no instruction
ALONE = re.compile(r"0x[0-9a-f]+")  # what a direct branch has for an operand
RIP_RELATIVE = re.compile(r"\[rip(?: ([+-]) (0x[0-9a-f]+|\d+))?\]")
BRANCHES = ("j", "call", "loop")

Namer = Callable[[int], str | None]


class Instruction(Value):
    """One instruction: the address of its bytes, and its text, with the name of what it refers to.

    A byte that begins none is one by itself, `.byte`.
    """

    address: int
    data: bytes
    text: str


def disassemble(code: bytes, address: int, bits: int, namer: Namer) -> Iterator[Instruction]:
    """The instructions of `code`, which is at `address`, for a code segment of 16, 32 or 64 bits.

    One that the end cuts off becomes bytes. Raises HostError where capstone is missing.
    """
    decoder, at = _decoder(bits), 0
    while at < len(code):
        begun = at
        for start, size, name, operands in decoder.disasm_lite(code[at : at + CHUNK], address + at):
            data = code[at : at + size]
            yield Instruction(start, data, _text(start + size, name, operands, namer))
            at += size
        if at == begun:
            yield Instruction(address + at, code[at : at + 1], f".byte {code[at]:#04x}")
            at += 1


def _decoder(bits: int) -> Any:
    try:
        from capstone import CS_ARCH_X86, CS_MODE_16, CS_MODE_32, CS_MODE_64, Cs
    except ImportError:
        raise HostError(
            "For instructions capstone must be installed: pip install 'pyvmm[disassembly]'"
        ) from None
    return Cs(CS_ARCH_X86, {16: CS_MODE_16, 32: CS_MODE_32, 64: CS_MODE_64}[bits])


def _text(after: int, name: str, operands: str, namer: Namer) -> str:
    """The text, and behind it what a branch or a RIP-relative operand refers to."""
    text = f"{name} {operands}".rstrip()
    if name.startswith(BRANCHES) and ALONE.fullmatch(operands):
        target = namer(int(operands, 16))
        return f"{text} <{target}>" if target else text
    if relative := RIP_RELATIVE.search(operands):
        sign, distance = relative.groups()
        offset = int(distance or "0", 0)
        address = after + (-offset if sign == "-" else offset) & (1 << 64) - 1
        target = namer(address)
        return f"{text}  # {address:#x}" + (f" <{target}>" if target else "")
    return text
