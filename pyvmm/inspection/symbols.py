"""A table of symbols: what lies at an address of the guest, and where what has a name lies."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike, fspath
from typing import IO, Any

from pyvmm.errors import ImageError

CODE = frozenset("tTwW")  # the kinds of symbols, as nm(1) gives them, that are functions
END = "_end"  # where a kernel's image ends: a symbol that reaches nowhere

ELF_MAGIC = b"\x7fELF"
# System V gABI 4.1, "Symbol Table": the fields of an entry in 64-bit and in 32-bit files.
SYMBOL64, SYMBOL32 = struct.Struct("<IBBHQQ"), struct.Struct("<IIIBBH")
STT_SECTION, STT_FILE = 3, 4
SHN_ABS = 0xFFF1
BUILD_ID = ("GNU", "NT_GNU_BUILD_ID")  # how pyelftools calls that note

UPPER_HALF = 1 << 63  # where kernels are; what lies below in their tables is an offset or a number


class Symbols:
    """Symbols at ascending addresses. Any thread."""

    def __init__(
        self,
        addresses: Sequence[int],
        entry: Callable[[int], str],
        numbers: Mapping[str, int] | None = None,
        build_id: str = "",
    ) -> None:
        """`entry(i)` is the kind and the name of the i-th, empty where one only ends.

        `numbers` are symbols that are no addresses, as the offsets of per-CPU variables.
        """
        self._addresses = addresses
        self._entry = entry
        self._numbers = numbers or {}
        self.build_id = build_id

    def __len__(self) -> int:
        return len(self._addresses)

    def lookup(self, address: int, *, behind_call: bool = False) -> str | None:
        """`name+0x12/0x40`: how far into the symbol, and its size; None outside all symbols.

        A symbol reaches to the next one. `behind_call`: it is a return address, which may lie
        behind the end of the function that it belongs to.
        """
        at = self._at(address - behind_call)
        if at is None:
            return None
        start = self._addresses[at]
        end = self._addresses[bisect_right(self._addresses, start)]
        name = self._entry(at)[1:]
        return f"{name}+{address - start:#x}/{end - start:#x}" if name not in ("", END) else None

    def is_code(self, address: int) -> bool:
        """Whether a function lies there."""
        at = self._at(address)
        return at is not None and self._entry(at)[:1] in CODE

    def _at(self, address: int) -> int | None:
        """Which symbol reaches there: of several at one place the first, as the kernel does."""
        after = bisect_right(self._addresses, address)
        if not 0 < after < len(self._addresses):
            return None
        return bisect_left(self._addresses, self._addresses[after - 1])

    def address(self, name: str) -> int:
        """Where a symbol lies, or the number that it is. Raises LookupError if there is none."""
        try:
            return self._by_name[name]
        except KeyError:
            raise LookupError(f"There is no symbol {name}") from None

    def names(self, prefix: str) -> list[str]:
        """The names that begin so, sorted."""
        names = self._sorted_names
        return names[bisect_left(names, prefix) : bisect_left(names, prefix + "\U0010ffff")]

    def items(self) -> Iterator[tuple[int, str, str]]:
        """Address, kind and name of each; then of the numbers, whose kind is A."""
        for at, address in enumerate(self._addresses):
            entry = self._entry(at)
            if len(entry) > 1:
                yield address, entry[0], entry[1:]
        for name, number in self._numbers.items():
            yield number, "A", name

    def moved(self, offset: int) -> Symbols:
        """The same table of an image that the guest moved up by `offset` bytes."""
        addresses = [address + offset for address in self._addresses]
        return Symbols(addresses, self._entry, self._numbers, self.build_id)

    @cached_property
    def _by_name(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for address, _, name in self.items():
            found.setdefault(name, address)
        return found

    @cached_property
    def _sorted_names(self) -> list[str]:
        return sorted(self._by_name)


def table(
    symbols: Iterable[tuple[int, str]], numbers: Mapping[str, int], build_id: str = ""
) -> Symbols | None:
    """Symbols of (address, kind and name) pairs in any order; None if there are none."""
    ascending = sorted(symbols, key=lambda symbol: symbol[0])
    if not ascending:
        return None
    entries = [entry for _, entry in ascending]
    return Symbols([at for at, _ in ascending], entries.__getitem__, numbers, build_id)


def from_file(path: str | PathLike[str]) -> Symbols:
    """The symbols of an ELF file, a System.map or a copy of /proc/kallsyms.

    Raises ImageError if it cannot be read, is none of them, or has none.
    """
    path = fspath(path)
    try:
        with open(path, "rb") as file:
            elf = file.read(len(ELF_MAGIC)) == ELF_MAGIC
        found = from_elf(path) if elf else from_map(path)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    if found is None:
        raise ImageError(
            f"{path} must have symbols, as a vmlinux that is not stripped, a System.map, or a "
            "copy that root made of /proc/kallsyms"
        )
    return found


def from_map(path: str | PathLike[str]) -> Symbols | None:
    """The symbols of a text as nm(1) writes it: address, kind, name and perhaps a [module]."""
    symbols, numbers = [], {}
    with open(path, "rb") as file:
        for line in file:
            words = line.decode("ascii", "replace").split()
            try:
                address, kind, name = int(words[0], 16), words[1], words[2]
            except (ValueError, IndexError):
                return None
            if address >= UPPER_HALF:
                symbols.append((address, kind + name))
            else:
                numbers[name] = address
    return table(symbols, numbers)


def from_elf(image: str | PathLike[str] | bytes) -> Symbols | None:
    """The symbols in an ELF file or its bytes; None if it has none.

    Raises ImageError if it cannot be read or is no sound ELF file.
    """
    import io

    from elftools.common.exceptions import ELFError

    what = "The image" if isinstance(image, bytes) else str(image)
    try:
        with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as file:
            return _elf_symbols(file)
    except OSError as error:
        raise ImageError(f"{what} cannot be read: {error.strerror}") from error
    except (ELFError, ArithmeticError, LookupError, ValueError, TypeError, struct.error) as error:
        # pyelftools lets its own parsing errors out as any of these.
        raise ImageError(f"The symbols of {what} cannot be read: {error}") from error


def symbols_of(image: str | PathLike[str]) -> Symbols | None:
    """The symbols of an image file; None if it is no ELF file, damaged, or has none."""
    try:
        return from_elf(image)
    except ImageError:
        return None


def _elf_symbols(file: IO[bytes]) -> Symbols | None:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import NoteSection

    elf = ELFFile(file)
    sections = list(elf.iter_sections())
    kinds = {index: _kind(section) for index, section in enumerate(sections)}
    found: list[tuple[int, str]] = []
    numbers: dict[str, int] = {}
    for section in sections:
        if section["sh_type"] != "SHT_SYMTAB":
            continue
        strings = elf.get_section(section["sh_link"]).data()
        for name_at, value, info, index in _entries(section.data(), elf.elfclass):
            kind = kinds.get(index, "A" if index == SHN_ABS else "")
            name = strings[name_at : strings.index(b"\0", name_at)].decode("ascii", "replace")
            if not (kind and name) or info & 0xF in (STT_SECTION, STT_FILE):
                continue
            if kind == "A":
                numbers[name] = value
            else:
                found.append((value, kind + name))
    used = {value for value, _ in found}
    for index, kind in kinds.items():
        end = sections[index]["sh_addr"] + sections[index]["sh_size"]
        if found and kind not in ("", "A") and end not in used:
            found.append((end, ""))
    build_ids = [
        note["n_desc"]
        for section in sections
        if isinstance(section, NoteSection)
        for note in section.iter_notes()
        if (note["n_name"], note["n_type"]) == BUILD_ID
    ]
    return table(found, numbers, "".join(build_ids[:1]))


def _entries(data: bytes, bits: int) -> Iterator[tuple[int, int, int, int]]:
    """Name, value, info and section of each entry of a symbol table."""
    if bits == 64:
        for name, info, _, index, value, _ in SYMBOL64.iter_unpack(data):
            yield name, value, info, index
    else:
        for name, value, _, info, _, index in SYMBOL32.iter_unpack(data):
            yield name, value, info, index


def _kind(section: Any) -> str:
    """What nm(1) calls symbols in a section; empty for what is not in memory."""
    from elftools.elf.constants import SH_FLAGS

    flags = section["sh_flags"]
    if not flags & SH_FLAGS.SHF_ALLOC:
        return ""
    if not section["sh_addr"]:
        return "A"  # the kernel's per-CPU section: its symbols are offsets
    if flags & SH_FLAGS.SHF_EXECINSTR:
        return "T"
    return "D" if flags & SH_FLAGS.SHF_WRITE else "R"
