"""What lies at an address of the guest: symbols of an ELF image, or the running kernel's own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from os import PathLike
from typing import IO, TYPE_CHECKING

from pyvmm.errors import ImageError, MemoryAccessError

if TYPE_CHECKING:
    from pyvmm.inspection.kernel import GuestKernel

# The tables of Linux's kallsyms: scripts/kallsyms.c writes them, kernel/kallsyms.c reads them.
SYMBOLS_MAX = 1 << 20  # the guest's word is believed up to here
NAMES_MAX = 1 << 25
TOKENS = 256
TOKEN_SIZE_MAX = 64
LONG_NAME = 0x80  # set in a name's length: the next byte holds its bits from 7 up
LONG_NAME_SHIFT = 7


class Symbols:
    """A sorted table of symbols. Any thread."""

    def __init__(self, addresses: Sequence[int], name: Callable[[int], str]) -> None:
        """`addresses` ascend; `name(i)` is the symbol at the i-th, empty where one only ends."""
        self._addresses = addresses
        self._name = name

    def lookup(self, address: int, kaslr_offset: int = 0) -> str | None:
        """`name+0x12/0x40`: how far into the symbol, and its size; None outside all symbols.

        `kaslr_offset` is by how many bytes the guest moved the image up. A symbol reaches to the
        next one.
        """
        address -= kaslr_offset
        at = bisect_right(self._addresses, address) - 1
        if not 0 <= at < len(self._addresses) - 1:
            return None
        start, end = self._addresses[at], self._addresses[at + 1]
        name = self._name(at)
        return f"{name}+{address - start:#x}/{end - start:#x}" if name else None

    @classmethod
    def from_elf(cls, image: str | PathLike[str] | bytes) -> Symbols | None:
        """The symbols in executable sections of an ELF file or its bytes; None if it has none.

        Raises ImageError if it cannot be read or is no sound ELF file.
        """
        import io

        from elftools.common.exceptions import ELFError

        what = "The image" if isinstance(image, bytes) else str(image)
        try:
            with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as file:
                found = _elf_symbols(file)
        except OSError as error:
            raise ImageError(f"{what} cannot be read: {error.strerror}") from error
        except (ELFError, ArithmeticError, LookupError, ValueError, TypeError) as error:
            # pyelftools lets its own parsing errors out as any of these.
            raise ImageError(f"The symbols of {what} cannot be read: {error}") from error
        addresses = sorted(found)
        return cls(addresses, [found[a] for a in addresses].__getitem__) if any(addresses) else None

    @classmethod
    def from_kernel(cls, kernel: GuestKernel) -> Symbols | None:
        """The running kernel's own table (its KASLR offset is in it), None if it shows none.

        Linux 6.0 and later with KALLSYMS says where it lies.
        """
        try:
            names = _Kallsyms(kernel)
        except (LookupError, ValueError, MemoryAccessError):
            return None
        return cls(names.addresses, names.name)


def _elf_symbols(file: IO[bytes]) -> dict[int, str]:
    from elftools.elf.constants import SH_FLAGS
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    elf = ELFFile(file)
    code = {
        index: section
        for index, section in enumerate(elf.iter_sections())
        if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR
    }
    found: dict[int, str] = {}
    for table in elf.iter_sections():
        if isinstance(table, SymbolTableSection):
            for symbol in table.iter_symbols():
                if symbol["st_shndx"] in code and symbol.name:
                    found.setdefault(symbol["st_value"], symbol.name)
    if found:
        for section in code.values():
            found.setdefault(section["sh_addr"] + section["sh_size"], "")
    return found


def symbols_of(image: str | PathLike[str]) -> Symbols | None:
    """The symbols of an image file; None if it is no ELF file, damaged, or has none."""
    try:
        return Symbols.from_elf(image)
    except ImageError:
        return None


class _Kallsyms:
    """The compressed symbol table in a kernel's memory; only the names asked for are unpacked."""

    def __init__(self, kernel: GuestKernel) -> None:
        count = kernel.u32(kernel.symbol("kallsyms_num_syms"))
        names = kernel.symbol("kallsyms_names")
        tokens = kernel.symbol("kallsyms_token_table")  # the linker puts it after the names
        if not (0 < count <= SYMBOLS_MAX and 0 < tokens - names <= NAMES_MAX):
            raise ValueError("The kernel's symbol table has an impossible size")
        base = kernel.u64(kernel.symbol("kallsyms_relative_base"))
        offsets = memoryview(kernel.read(kernel.symbol("kallsyms_offsets"), 4 * count)).cast("i")
        if min(offsets) < 0:  # KALLSYMS_ABSOLUTE_PERCPU: the others are offsets in a CPU's own area
            self._first = sum(offset >= 0 for offset in offsets)
            self.addresses = [base - 1 - offset for offset in offsets[self._first :]]
        else:
            self._first = 0
            self.addresses = [base + offset for offset in offsets]
        self._names = kernel.read(names, tokens - names)
        self._token_table = kernel.read(tokens, TOKENS * TOKEN_SIZE_MAX)
        index = kernel.read(kernel.symbol("kallsyms_token_index"), 2 * TOKENS)
        self._token_index = memoryview(index).cast("H")
        self._positions = list(islice(self._walk(), count))

    def name(self, at: int) -> str:
        """The name of the symbol at the `at`-th address; empty if the table is damaged."""
        try:
            start, length = self._tokens(self._positions[self._first + at])
        except IndexError:
            return ""
        name = b"".join(self._token(token) for token in self._names[start : start + length])
        return name[1:].decode("ascii", "replace")  # its first letter is the kind, as nm gives it

    def _walk(self) -> Iterator[int]:
        """Where each name starts."""
        position = 0
        while position < len(self._names) - 1:
            yield position
            start, length = self._tokens(position)
            position = start + length

    def _tokens(self, position: int) -> tuple[int, int]:
        """Where the tokens of the name at `position` start, and how many they are."""
        length = self._names[position]
        if length & LONG_NAME:
            return position + 2, length & ~LONG_NAME | self._names[position + 1] << LONG_NAME_SHIFT
        return position + 1, length

    def _token(self, token: int) -> bytes:
        start = self._token_index[token]
        return self._token_table[start : start + TOKEN_SIZE_MAX].partition(b"\0")[0]
