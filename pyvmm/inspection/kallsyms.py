"""The symbol table that a Linux kernel has in its own memory, kallsyms.

scripts/kallsyms.c writes it, kernel/kallsyms.c reads it. From Linux 6.0 on the VMCOREINFO note says
where its parts lie. Otherwise they are found by what is in them: names are made of 256 tokens, and
those of the digits stand for themselves; the other parts stand before and behind the tokens, one
after the other, in an order that changed with 6.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import accumulate, islice, pairwise

from pyvmm.errors import MemoryAccessError
from pyvmm.inspection.kernel import KERNEL_MAP, GuestKernel, search
from pyvmm.inspection.symbols import Symbols
from pyvmm.memory import GuestMemory
from pyvmm.value import Value

SYMBOLS_MAX = 1 << 19  # the guest's word is believed up to here
NAMES_MAX = 1 << 23
TOKENS = 256
TOKEN_SIZE_MAX = 64
NAME_MAX = 512  # KSYM_NAME_LEN from Linux 6.1 on
LONG_NAME = 0x80  # set in a name's length: the next byte holds its bits from 7 up
LONG_NAME_SHIFT = 7
ALIGNMENT = 8  # of each part
TABLES_MAX, COUNTS_MAX = 4, 8  # that are looked at: of tokens, and of names before one
MARKED = 256  # every so many names a marker says where they start
MARKER_FORMS = ("I", "Q")  # from Linux 4.20 on, and before
DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
INDEX = struct.Struct(f"<{TOKENS}H")

Read = Callable[[int, int], bytes]


class Parts(Value):
    """Where the parts of a table lie, and its number of symbols."""

    count: int
    names: int
    names_size: int
    tokens: int
    offsets: int
    base: int


def by_note(kernel: GuestKernel) -> Symbols | None:
    """The table whose place the kernel tells, None if it does not. Any thread."""
    try:
        names, tokens = kernel.symbol("kallsyms_names"), kernel.symbol("kallsyms_token_table")
        parts = Parts(
            kernel.u32(kernel.symbol("kallsyms_num_syms")),
            names,
            tokens - names,  # the linker puts it after the names
            tokens,
            kernel.symbol("kallsyms_offsets"),
            kernel.symbol("kallsyms_relative_base"),
        )
        return _read(parts, kernel.read)
    except (LookupError, ValueError, MemoryAccessError):
        return None


def by_content(memory: GuestMemory) -> Iterator[tuple[int, Symbols]]:
    """Every table that is found, after the guest-physical address of its base. Any thread."""
    for tokens, index_end in islice(_token_tables(memory), TABLES_MAX):
        with suppress(ValueError, MemoryAccessError):
            for parts in _parts(memory, tokens, index_end):
                with suppress(ValueError, MemoryAccessError):
                    yield parts.base, _read(parts, memory.read)


# ---- reading a table ----


def _read(parts: Parts, read: Read) -> Symbols:
    """Raises ValueError for impossible sizes, MemoryAccessError."""
    count = parts.count
    if not (0 < count <= SYMBOLS_MAX and 0 < parts.names_size <= NAMES_MAX):
        raise ValueError("The kernel's symbol table has an impossible size")
    base = int.from_bytes(read(parts.base, 8), "little")
    offsets = memoryview(read(parts.offsets, 4 * count)).cast("i")
    first = 0
    addresses = [base + offset for offset in offsets]
    if min(offsets) < 0:  # KALLSYMS_ABSOLUTE_PERCPU: the others are offsets in a CPU's own area
        first = sum(offset >= 0 for offset in offsets)
        addresses = [base - 1 - offset for offset in offsets[first:]]
    if base < KERNEL_MAP or any(one > other for one, other in pairwise(addresses)):
        raise ValueError("The kernel's symbol table has impossible addresses")
    names = read(parts.names, parts.names_size)
    tokens = read(parts.tokens, TOKENS * TOKEN_SIZE_MAX).split(b"\0", TOKENS)
    tokens = [token[:TOKEN_SIZE_MAX] for token in tokens[:TOKENS]]
    positions = list(islice(_positions(names), count))

    def entry(at: int) -> str:
        try:
            start, length = _length(names, positions[first + at])
            spelled = names[start : start + min(length, NAME_MAX)]
            name = b"".join([tokens[token] for token in spelled])[: NAME_MAX + 1]
        except IndexError:  # the table is damaged
            return ""
        return name.decode("ascii", "replace")

    numbers = {entry(at - first)[1:]: offsets[at] for at in range(first)}
    return Symbols(addresses, entry, numbers)


def _positions(names: bytes) -> Iterator[int]:
    """Where each name starts."""
    position = 0
    while position < len(names) - 1:
        yield position
        start, length = _length(names, position)
        if not length:
            return
        position = start + length


def _length(names: bytes, position: int) -> tuple[int, int]:
    """Where the tokens of the name at `position` start, and how many they are."""
    length = names[position]
    if length & LONG_NAME:
        return position + 2, length & ~LONG_NAME | names[position + 1] << LONG_NAME_SHIFT
    return position + 1, length


# ---- finding its parts, which all raise ValueError or MemoryAccessError for what is none ----


def _token_tables(memory: GuestMemory) -> Iterator[tuple[int, int]]:
    for digits in search(memory, DIGITS):
        with suppress(ValueError, MemoryAccessError, struct.error):
            yield _find_tokens(memory, digits)


def _parts(memory: GuestMemory, tokens: int, index_end: int) -> Iterator[Parts]:
    """Where the parts may lie: the addresses are before the names, or behind the tokens."""
    names, names_size, count = _find_names(memory, tokens)
    size = _aligned(4 * count)
    before = names - 2 * ALIGNMENT  # the number of symbols is between
    behind = _aligned(index_end) + size
    for base in (before, behind):
        yield Parts(count, names, names_size, tokens, base - size, base)


def _find_tokens(memory: GuestMemory, digits: int) -> tuple[int, int]:
    """Where the table of tokens lies in which the digits do, and the end of its index."""
    region = memory.region_at(digits, len(DIGITS))
    size = min(ord("0") * TOKEN_SIZE_MAX, digits - region.base)
    before = memory.read(digits - size, size).split(b"\0")
    start = digits - sum(len(token) + 1 for token in before[-ord("0") - 1 : -1])
    size = min(TOKENS * TOKEN_SIZE_MAX + INDEX.size, region.end - start)
    data = memory.read(start, size)
    tokens = data.split(b"\0", TOKENS)[:TOKENS]
    *starts, end = accumulate((len(token) + 1 for token in tokens), initial=0)
    index = data.find(INDEX.pack(*starts), end, end + ALIGNMENT + INDEX.size)
    if start % ALIGNMENT or index < 0:
        raise ValueError("These digits are no tokens")
    return start, start + index + INDEX.size


def _find_names(memory: GuestMemory, tokens: int) -> tuple[int, int, int]:
    """Where the names lie and end, and how many they are: their number stands before them, their
    markers behind them, and, from Linux 6.2 to 6.3, something else before the tokens."""
    size = min(NAMES_MAX, tokens - memory.region_at(tokens, 1).base) & -ALIGNMENT
    data = memory.read(tokens - size, size)
    words = memoryview(data).cast("Q")
    counts = (at for at in reversed(range(len(words))) if MARKED < words[at] < SYMBOLS_MAX)
    for at in islice(counts, COUNTS_MAX):
        count, start = words[at], (at + 1) * ALIGNMENT
        names = data[start:]
        positions = list(islice(_positions(names), count + 1))
        if len(positions) != count + 1:
            continue
        end = positions.pop()
        for form in MARKER_FORMS:
            markers = struct.pack(f"<{len(positions[::MARKED])}{form}", *positions[::MARKED])
            if names.startswith(markers, _aligned(end)):
                return tokens - size + start, end, count
    raise ValueError("There are no names before the tokens")


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
