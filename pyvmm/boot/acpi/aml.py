"""ACPI machine language, as much of it as a DSDT for this board needs.

Every function returns the bytes of one term; terms nest by being arguments. The encodings are in
ACPI 6.4 §20.2, resource descriptors in §6.4; the section is at each.
"""

from __future__ import annotations

import struct

# Operators without operands, and prefixes, §20.3 table 20.2.
ZERO = b"\x00"
ONE = b"\x01"
_NAME, _BYTE, _WORD, _DWORD, _STRING, _QWORD = b"\x08", b"\x0a", b"\x0b", b"\x0c", b"\x0d", b"\x0e"
_SCOPE, _BUFFER, _PACKAGE, _METHOD = b"\x10", b"\x11", b"\x12", b"\x14"
_DUAL_NAME, _MULTI_NAME, _DEVICE = b"\x2e", b"\x2f", b"\x5b\x82"
_ARG0 = 0x68
_AND, _OR, _CREATE_DWORD_FIELD, _NOT, _EQUAL = b"\x7b", b"\x7d", b"\x8a", b"\x92", b"\x93"
_IF, _ELSE, _RETURN = b"\xa0", b"\xa1", b"\xa4"


def _sized(body: bytes) -> bytes:
    """PkgLength and `body`, §20.2.4: the length counts its own one to four bytes."""
    length = len(body) + 1
    if length < 1 << 6:
        return bytes((length,)) + body
    extra = 1
    while len(body) + 1 + extra >= 1 << 4 + 8 * extra:
        extra += 1
    length += extra
    return bytes((extra << 6 | length & 0xF,)) + (length >> 4).to_bytes(extra, "little") + body


def path(name: str) -> bytes:
    r"""NameString, §20.2.2: `PCI0`, `\_SB`, `\_SB.PCI0`; short segments are padded."""
    root = b"\\" if name.startswith("\\") else b""
    segments = name.lstrip("\\").split(".")
    encoded = b"".join(segment.ljust(4, "_").encode("ascii") for segment in segments)
    if len(segments) == 1:
        return root + encoded
    if len(segments) == 2:
        return root + _DUAL_NAME + encoded
    return root + _MULTI_NAME + bytes((len(segments),)) + encoded


# Data objects, §20.2.3.


def integer(value: int) -> bytes:
    """ComputationalData for an integer of 0 to 2^64 - 1, in its shortest form."""
    if value < 2:
        return ONE if value else ZERO
    if value < 1 << 8:
        return _BYTE + value.to_bytes(1, "little")
    if value < 1 << 16:
        return _WORD + value.to_bytes(2, "little")
    if value < 1 << 32:
        return _DWORD + value.to_bytes(4, "little")
    return _QWORD + value.to_bytes(8, "little")


def string(text: str) -> bytes:
    """String, ASCII without NUL."""
    return _STRING + text.encode("ascii") + b"\0"


def buffer(data: bytes) -> bytes:
    """DefBuffer, §20.2.5.4."""
    return _BUFFER + _sized(integer(len(data)) + data)


def package(*elements: bytes) -> bytes:
    """DefPackage, §20.2.5.4, of at most 255 elements."""
    return _PACKAGE + _sized(bytes((len(elements),)) + b"".join(elements))


def eisa_id(text: str) -> bytes:
    """A compressed EISA ID, `PNP0A08`, §19.6.37 EISAID: three letters of 5 bits, four digits."""
    one, two, three = (ord(letter) - ord("@") for letter in text[:3])
    value = one << 26 | two << 21 | three << 16 | int(text[3:], 16)
    return _DWORD + value.to_bytes(4, "big")


def uuid(text: str) -> bytes:
    """A UUID as a buffer, §19.6.142 ToUUID: the first three groups have their bytes reversed."""
    groups = [bytes.fromhex(group) for group in text.split("-")]
    return buffer(b"".join(group[::-1] for group in groups[:3]) + b"".join(groups[3:]))


# Named objects, §20.2.5.1 and §20.2.5.2.


def name(name: str, value: bytes) -> bytes:
    """DefName."""
    return _NAME + path(name) + value


def scope(name: str, *terms: bytes) -> bytes:
    """DefScope."""
    return _SCOPE + _sized(path(name) + b"".join(terms))


def device(name: str, *terms: bytes) -> bytes:
    """DefDevice."""
    return _DEVICE + _sized(path(name) + b"".join(terms))


def method(name: str, arguments: int, *terms: bytes) -> bytes:
    """DefMethod, serialized at level 0: one that creates names must not run twice at a time."""
    serialized = 1 << 3
    return _METHOD + _sized(path(name) + bytes((arguments | serialized,)) + b"".join(terms))


def create_dword_field(source: bytes, offset: int, name: str) -> bytes:
    """DefCreateDWordField: `name` is the 32 bits at byte `offset` of the buffer `source`."""
    return _CREATE_DWORD_FIELD + source + integer(offset) + path(name)


# Operators and statements, §20.2.5.3 and §20.2.5.4. A target is a `path`, an `argument` or `ZERO`.


def argument(number: int) -> bytes:
    """ArgObj, §20.2.6.1: an argument of the method, 0 to 6."""
    return bytes((_ARG0 + number,))


def bit_and(left: bytes, right: bytes, target: bytes) -> bytes:
    """DefAnd."""
    return _AND + left + right + target


def bit_or(left: bytes, right: bytes, target: bytes) -> bytes:
    """DefOr."""
    return _OR + left + right + target


def equal(left: bytes, right: bytes) -> bytes:
    """DefLEqual."""
    return _EQUAL + left + right


def not_equal(left: bytes, right: bytes) -> bytes:
    """DefLNotEqual."""
    return _NOT + _EQUAL + left + right


def if_(condition: bytes, *terms: bytes) -> bytes:
    """DefIfElse, its first half."""
    return _IF + _sized(condition + b"".join(terms))


def else_(*terms: bytes) -> bytes:
    """DefElse; it follows an `if_`."""
    return _ELSE + _sized(b"".join(terms))


def return_(value: bytes) -> bytes:
    """DefReturn."""
    return _RETURN + value


# Resource descriptors, §6.4.

_CONSUMER = 1 << 0  # extended interrupt flags, table 6.56; the address spaces' general flags
_SHARED = 1 << 3  # extended interrupt flags; neither edge-triggered nor active-low
_MIN_FIXED, _MAX_FIXED = (
    1 << 2,
    1 << 3,
)  # general flags, table 6.45 ff.; a producer, positive decode
_MEMORY, _IO, _BUS = 0, 1, 2  # resource types of an address space
_WRITABLE = 1 << 0  # memory-specific flags, table 6.49: not cacheable, hence not prefetchable
_ENTIRE_RANGE = 0b11  # I/O-specific flags, table 6.50
_DECODE_16 = 1 << 0  # I/O port descriptor, table 6.37


def resource_template(*descriptors: bytes) -> bytes:
    """A resource buffer with its end tag, §6.4.2.9; checksum 0 means there is none."""
    return buffer(b"".join(descriptors) + b"\x79\x00")


def irq(number: int) -> bytes:
    """IRQ descriptor, §6.4.2.1: an ISA interrupt, edge-triggered, active high, not shared."""
    return struct.pack("<BH", 0x22, 1 << number)


def io(base: int, size: int) -> bytes:
    """I/O port descriptor, §6.4.2.5: `size` ports from `base`, used by the device."""
    return struct.pack("<BBHHBB", 0x47, _DECODE_16, base, base, 1, size)


def memory32_fixed(base: int, size: int) -> bytes:
    """32-bit fixed memory range descriptor, §6.4.3.4: `size` bytes from `base`, used."""
    return struct.pack("<BHBII", 0x86, 9, _WRITABLE, base, size)


def interrupt(gsi: int) -> bytes:
    """Extended interrupt descriptor, §6.4.3.6: one, level-triggered, active high, shared."""
    return struct.pack("<BHBBI", 0x89, 6, _CONSUMER | _SHARED, 1, gsi)


def _address_space(tag: int, field: str, kind: int, flags: int, first: int, size: int) -> bytes:
    """An address space descriptor, §6.4.3.5: what a bridge passes on; granularity 0."""
    body = struct.pack(
        f"<BBB5{field}",
        *(kind, _MIN_FIXED | _MAX_FIXED, flags),
        *(0, first, first + size - 1, 0, size),
    )
    return struct.pack("<BH", tag, len(body)) + body


def bus_numbers(first: int, size: int) -> bytes:
    """Word address space descriptor, §6.4.3.5.3, of `size` buses."""
    return _address_space(0x88, "H", _BUS, 0, first, size)


def io_window(base: int, size: int) -> bytes:
    """Word address space descriptor, §6.4.3.5.3, of `size` ports."""
    return _address_space(0x88, "H", _IO, _ENTIRE_RANGE, base, size)


def memory_window(base: int, size: int) -> bytes:
    """DWord address space descriptor, §6.4.3.5.2: below 4 GiB; not prefetchable."""
    return _address_space(0x87, "I", _MEMORY, _WRITABLE, base, size)


def memory_window64(base: int, size: int) -> bytes:
    """QWord address space descriptor, §6.4.3.5.1.

    Not prefetchable: Linux lets no other BAR into a prefetchable window.
    """
    return _address_space(0x8A, "Q", _MEMORY, _WRITABLE, base, size)
