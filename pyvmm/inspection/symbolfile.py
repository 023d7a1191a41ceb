"""Symbols as files for other programs: an ELF file that gdb reads, or the text of a System.map."""

from __future__ import annotations

import os
import struct
from itertools import groupby

from pyvmm.inspection.coredump_spec import EM_X86_64, EV_CURRENT, HEADER, IDENT
from pyvmm.inspection.newfile import new_file, write_at
from pyvmm.inspection.symbols import CODE, SHN_ABS, SYMBOL64, Symbols
from pyvmm.layout import PAGE

# System V gABI 4.1 chapter 4.
ET_EXEC = 2
SECTION = struct.Struct("<IIQQQQIIQQ")  # name type flags addr offset size link info align entsize
SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS = 2, 3, 8
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
STT_OBJECT, STT_FUNC = 1, 2
STB_GLOBAL_SHIFT = 4
SECTIONS_MAX = 0xFF00  # SHN_LORESERVE
NAMES = b"\0.text\0.data\0.symtab\0.strtab\0.shstrtab\0"


def export(symbols: Symbols, path: str) -> None:
    """Write them at run-time addresses: as text if the name is a System.map's or ends in .map.

    Raises what new_file raises. Any thread.
    """
    name = os.path.basename(path)
    text = name.startswith("System.map") or name.endswith(".map")
    with new_file(path) as fd:
        write_at(fd, map_text(symbols) if text else elf_file(symbols), 0)


def map_text(symbols: Symbols) -> bytes:
    """Lines of address, kind and name, ascending, as nm(1) has them."""
    lines = (f"{at:016x} {kind} {name}\n" for at, kind, name in sorted(symbols.items()))
    return "".join(lines).encode("ascii", "replace")


def elf_file(symbols: Symbols) -> bytes:
    """An ELF file without code: sections that tell code from data, and the table of symbols."""
    items = list(symbols.items())
    placed = [item for item in items if item[1] != "A"]
    runs = [list(run) for _, run in groupby(placed, key=lambda item: item[1] in CODE)]
    runs = runs[:SECTIONS_MAX]
    strings, table = bytearray(1), bytearray(SYMBOL64.size)

    def add(name: str, kind: int, section: int, address: int, size: int) -> None:
        info = 1 << STB_GLOBAL_SHIFT | kind
        table.extend(SYMBOL64.pack(len(strings), info, 0, section, address, size))
        strings.extend(name.encode("ascii", "replace") + b"\0")

    starts = [run[0][0] for run in runs] + [placed[-1][0] + PAGE if placed else 0]
    sections = [SECTION.pack(*[0] * 10)]
    for number, run in enumerate(runs):
        code = run[0][1] in CODE
        ends = [address for address, _, _ in run[1:]] + [starts[number + 1]]
        for (address, _, name), end in zip(run, ends, strict=True):
            kind = STT_FUNC if code else STT_OBJECT
            add(name, kind, number + 1, address, end - address)
        sections.append(
            SECTION.pack(
                NAMES.index(b".text" if code else b".data"),
                SHT_NOBITS,
                SHF_ALLOC | (SHF_EXECINSTR if code else SHF_WRITE),
                starts[number],
                HEADER.size,
                starts[number + 1] - starts[number],
                *(0, 0, 1, 0),
            )
        )
    for address, kind_letter, name in items:
        if kind_letter == "A":
            add(name, STT_OBJECT, SHN_ABS, address, 0)
    count = len(sections)
    at = HEADER.size
    for called, kind, data, link, first, size in (
        (b".symtab", SHT_SYMTAB, table, count + 1, 1, SYMBOL64.size),
        (b".strtab", SHT_STRTAB, strings, 0, 0, 0),
        (b".shstrtab", SHT_STRTAB, NAMES, 0, 0, 0),
    ):
        sections.append(
            SECTION.pack(NAMES.index(called), kind, 0, 0, at, len(data), link, first, 8, size)
        )
        at += len(data)
    header = HEADER.pack(
        *(IDENT, ET_EXEC, EM_X86_64, EV_CURRENT, 0, 0, at, 0, HEADER.size, 0, 0),
        *(SECTION.size, len(sections), len(sections) - 1),
    )
    return b"".join([header, table, strings, NAMES, *sections])
