"""Looking at the guest's memory and changing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from pyvmm.errors import MemoryAccessError, UnmappedError, UsageError
from pyvmm.inspection import dump
from pyvmm.inspection.disassembly import INSTRUCTION_MAX, Instruction, disassemble
from pyvmm.inspection.dump import Format
from pyvmm.inspection.expressions import MASK
from pyvmm.inspection.names import function_at, short_name
from pyvmm.inspection.symbols import Symbols
from pyvmm.inspection.views import registers_of, virtual_memory
from pyvmm.layout import MIB, PAGE
from pyvmm.memory import GuestMemory
from pyvmm.monitor.command import command
from pyvmm.monitor.memory_kinds import (
    Address,
    Byte,
    DumpFormat,
    OptionalAddress,
    PhysicalAddress,
    Search,
    What,
)
from pyvmm.monitor.result import Cell, Fields, Hex, Result, Sections, Table
from pyvmm.monitor.session import Session
from pyvmm.monitor.units import size_text
from pyvmm.printable import printable

STRING_MAX = 1024  # bytes of a string that is shown
FOUND_MAX = 100
CONTEXT = 16  # bytes shown of what is found
BEFORE, AFTER = 8, 16  # instructions that `disassemble` shows
FUNCTION_MAX = 64 << 10  # bytes of a function that are read to find where instructions begin

DEFAULT = Format()

Read = Callable[[int, int], bytes]


class Dump(Result):
    """Lines of memory: each an address with its name, the text of what is there, and its value."""

    lines: Sequence[tuple[int, str | None, str, Any]]
    problem: str = ""  # why there are no more
    mark: int | None = None  # the address of the line that an arrow marks

    @property
    def data(self) -> dict[str, Any]:
        """See Result."""
        rows = [{"address": a, "name": n, "value": v} for a, n, _, v in self.lines]
        return {"lines": rows, "problem": self.problem or None}

    def __str__(self) -> str:
        lines = [
            f"{self._arrow(address)}{address:016x}{f' <{name}>' if name else ''}: {text}"
            for address, name, text, _ in self.lines
        ]
        return "\n".join(lines + [self.problem] * bool(self.problem))

    def _arrow(self, address: int) -> str:
        if self.mark is None:
            return ""
        return "=> " if address == self.mark else "   "


@command("x", examples=["x/4xg $rsp", "x/10i $pc", "x/s linux_banner", "x/32c $rdi"])
def x(session: Session, format: DumpFormat = DEFAULT, *, address: Address) -> Result:
    """Show memory at a virtual address.

    The format is a count, a letter and a size, as QEMU and gdb have them: x hexadecimal, d signed
    decimal, u decimal, o octal, c characters, i instructions, s strings; b bytes, h 2, w 4, g 8
    of them. Page tables are those of the chosen vCPU (`cpu`).
    """
    machine = session.machine
    with machine.paused():
        return _dump(session, virtual_memory(machine, session.cpu).read, format, address)


@command("xp", examples=["xp/16xb 0x7c00", "xp/4i 0x100000"])
def xp(session: Session, format: DumpFormat = DEFAULT, *, address: PhysicalAddress) -> Result:
    """Show memory at a guest-physical address; the format is that of `x`."""
    return _dump(session, session.machine.memory.read, format, address)


@command("disassemble", examples=["disassemble", "disassemble do_idle"])
def disassemble_(session: Session, address: OptionalAddress = None) -> Result:
    """Show the instructions around an address, or around the next one of the vCPU.

    Where the address has a symbol, those before it are shown too, and => marks it.
    """
    machine, symbols = session.machine, session.symbols
    with machine.paused():
        registers = registers_of(machine, session.cpu)
        memory = virtual_memory(machine, session.cpu)
        at = registers.linear_pc if address is None else address
        start, size = function_at(symbols, at) or (at, 0)
        if at - start > FUNCTION_MAX:
            start, size = at, 0
        length = at - start + AFTER * INSTRUCTION_MAX
        code, problem = _take(memory.read, start, min(length, size) if size else length)
        bits = registers.code_bits
    lines = [
        (one.address, short_name(symbols, one.address), one.text, one.text)
        for one in _instructions(session, symbols, code, start, bits)
    ]
    first = next((n for n, line in enumerate(lines) if line[0] >= at), 0)
    return Dump(lines[max(0, first - BEFORE) : first + AFTER], problem, at)


@command("find", examples=['find "Linux version"', "find 7f454c46", "find 0f??05 0x100000 0x1000"])
def find(session: Session, what: What) -> Result:
    """Look for bytes or a text in guest-physical memory.

    Bytes are in hexadecimal, where ?? stands for any. A range is an address and a length, without
    it all memory that the guest has used is searched. At most 100 places are shown.
    """
    memory = session.machine.memory
    found = list(islice(_find(session, memory, what), FOUND_MAX + 1))
    rows = [(Hex(at), *_context(memory, at)) for at in found[:FOUND_MAX]]
    table = Table(("address", "bytes", "text"), rows)
    if len(found) <= FOUND_MAX:
        return table
    return Sections({f"The first {FOUND_MAX} places": table})


@command("write", examples=["write $rsp 0x90 0x90"])
def write(session: Session, address: Address, *data: Byte) -> None:
    """Write bytes to memory at a virtual address, all or none.

    The guest stands still meanwhile. Its page tables say where, but not whether it may be written.
    """
    machine = session.machine
    with machine.paused():
        virtual_memory(machine, session.cpu).write(address, _some(data))


@command("writep", examples=["writep 0xb8000 0x41 0x07"])
def writep(session: Session, address: PhysicalAddress, *data: Byte) -> None:
    """Write bytes to memory at a guest-physical address, all or none."""
    machine = session.machine
    with machine.paused():
        machine.memory.write(address, _some(data))


@command("translate", examples=["translate $rip"])
def translate(session: Session, address: Address) -> Result:
    """Show where a virtual address is in guest-physical memory."""
    machine = session.machine
    with machine.paused():
        walk = virtual_memory(machine, session.cpu).walk(address)
    if walk.physical is None:
        raise UnmappedError(address, walk.problem)
    fields: dict[str, Cell] = {"virtual": Hex(address), "physical": Hex(walk.physical)}
    if walk.page_size:
        fields |= {"page size": size_text(walk.page_size), "flags": " ".join(walk.steps[-1].flags)}
    return Fields(fields)


@command("info page tables", examples=["info page tables $rip"])
def info_page_tables(session: Session, address: Address) -> Result:
    """Show each entry that translates a virtual address, and why it is not mapped if so."""
    machine = session.machine
    with machine.paused():
        memory = virtual_memory(machine, session.cpu)
        walk = memory.walk(address)
    rows = [(s.level, Hex(s.address), Hex(s.entry), " ".join(s.flags)) for s in walk.steps]
    end: dict[str, Cell] = {"problem": walk.problem}
    if walk.physical is not None:
        end = {"physical": Hex(walk.physical)}
        if walk.page_size:
            end["page size"] = size_text(walk.page_size)
    return Sections(
        {
            f"{address:#x}, {memory.mode.name}": Table(("level", "at", "entry", "flags"), rows),
            "Result": Fields(end),
        }
    )


# ---- x and xp ----


def _dump(session: Session, read: Read, format: Format, address: int) -> Dump:
    match format.letter:
        case "i":
            lines, problem = _dump_instructions(session, read, format, address)
        case "s":
            lines, problem = _dump_strings(session, read, format, address)
        case _:
            lines, problem = _dump_items(session, read, format, address)
    return Dump(lines, problem)


def _dump_items(session: Session, read: Read, format: Format, address: int) -> Any:
    data, problem = _take(read, address, format.count * format.size)
    items = dump.values(data, format)
    lines, at = [], 0
    for texts in dump.lines_of(items, format):
        values = items[at : at + len(texts)]
        lines.append((address + at * format.size & MASK, None, " ".join(texts), values))
        at += len(texts)
    return lines, problem


def _dump_instructions(session: Session, read: Read, format: Format, address: int) -> Any:
    machine, symbols = session.machine, session.symbols
    with machine.paused():
        bits = registers_of(machine, session.cpu).code_bits
    code, problem = _take(read, address, format.count * INSTRUCTION_MAX)
    lines = [
        (one.address, short_name(symbols, one.address), one.text, one.text)
        for one in islice(_instructions(session, symbols, code, address, bits), format.count)
    ]
    return lines, problem if len(lines) < format.count else ""


def _dump_strings(session: Session, read: Read, format: Format, address: int) -> Any:
    lines: list[Any] = []
    for _ in range(format.count):
        session.check()
        try:
            data, _ = _take(read, address, STRING_MAX)
        except (MemoryAccessError, UnmappedError) as error:
            if not lines:
                raise
            return lines, str(error)
        text, ended, _ = data.partition(b"\0")
        value = text.decode("utf-8", "backslashreplace")
        lines.append((address, None, f'"{printable(value)}"', value))
        address = address + len(text) + len(ended) & MASK
    return lines, ""


def _instructions(
    session: Session, symbols: Symbols, code: bytes, address: int, bits: int
) -> Iterator[Instruction]:
    for one in disassemble(code, address, bits, lambda at: short_name(symbols, at)):
        session.check()
        yield one


def _take(read: Read, address: int, length: int) -> tuple[bytes, str]:
    """What can be read of `length` bytes from an address on, and why no more.

    Raises MemoryAccessError or UnmappedError if there is nothing.
    """
    data = bytearray()
    while len(data) < length:
        at = address + len(data) & MASK
        try:
            data += read(at, min(length - len(data), PAGE - at % PAGE))
        except (MemoryAccessError, UnmappedError) as error:
            if not data:
                raise
            return bytes(data), str(error)
    return bytes(data), ""


# ---- the others ----


def _find(session: Session, memory: GuestMemory, what: Search) -> Iterator[int]:
    low, length = what.place or (0, 1 << 64)
    for start, size in memory.touched():
        end = min(start + size, low + length)
        for at in range(max(start, low), end, MIB):
            session.check()
            # No match is in two pieces, nor missed between them.
            chunk = memory.read(at, min(MIB + what.length - 1, end - at))
            yield from (at + match.start() for match in what.pattern.finditer(chunk))


def _context(memory: GuestMemory, at: int) -> tuple[str, str]:
    data, _ = _take(memory.read, at, CONTEXT)
    text = "".join(chr(byte) if 32 <= byte <= 126 else "." for byte in data)
    return data.hex(" "), text


def _some(data: Sequence[int]) -> bytes:
    if not data:
        raise UsageError("There must be bytes to write")
    return bytes(data)
