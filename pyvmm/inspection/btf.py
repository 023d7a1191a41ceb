"""Where the members of the guest kernel's structures lie, by the type information in its memory.

It is there in kernels with CONFIG_DEBUG_INFO_BTF; Linux, Documentation/bpf/btf.rst §2. Only what
offsets and sizes need is read: structures, unions, and what leads to them.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator

from pyvmm.value import Value

SIZE_MAX = 64 << 20  # bytes that the guest is believed to have of it
TYPES_MAX = 1 << 20
DEPTH_MAX = 16  # of types that stand for others, and of arrays
NAMELESS_MAX = 256  # structures in one, directly or not, that have no name

HEADER = struct.Struct("<HBBIIIII")  # magic version flags hdr_len type_off type_len str_off str_len
MAGIC = 0xEB9F
TYPE = struct.Struct("<III")  # name_off, info, size or type
INFO_VLEN = 0xFFFF
INFO_KIND_SHIFT, INFO_KIND_MASK = 24, 0x1F
INFO_KIND_FLAG = 1 << 31  # of a structure: its members' offsets have a width in the top byte
MEMBER = struct.Struct("<III")  # name_off, type, offset in bits
MEMBER_OFFSET_MASK = (1 << 24) - 1
ARRAY = struct.Struct("<III")  # type, index_type, nelems

PTR, ARRAY_KIND, STRUCT, UNION = 2, 3, 4, 5
ALIASES = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag
SIZED = (1, 6, 16, 19)  # int, enum, float, enum64
# The bytes behind each type of a kind: some, and some for each of its vlen.
EXTRA = {
    1: (4, 0),
    ARRAY_KIND: (ARRAY.size, 0),
    STRUCT: (0, MEMBER.size),
    UNION: (0, MEMBER.size),
    6: (0, 8),
    13: (0, 8),
    14: (4, 0),
    15: (0, 12),
    17: (4, 0),
    19: (0, 12),
}
KIND_MAX = 19
POINTER_SIZE = 8


class Place(Value):
    """Where a member is: bytes from the structure's start, and its type's id."""

    offset: int
    type: int


class Btf:
    """One kernel's types. Any thread.

    What is asked of it raises LookupError if there is no such type or member, which it names, or
    ValueError for information that makes no sense.
    """

    def __init__(self, data: bytes) -> None:
        """Raises ValueError for what is none."""
        try:
            magic, _, _, header, types, types_size, strings, strings_size = HEADER.unpack_from(data)
        except struct.error as error:
            raise ValueError("BTF must begin with a header") from error
        if magic != MAGIC:
            raise ValueError("BTF must begin with its magic number")
        self._data = data[header + types : header + types + types_size]
        self._strings = data[header + strings : header + strings + strings_size]
        self._places = self._walk()  # of each type by its id; 0 is void
        self._found: dict[str, int] = {}

    def _walk(self) -> array[int]:
        places, at = array("I", [0]), 0
        data, size = self._data, len(self._data)
        while at + TYPE.size <= size and len(places) < TYPES_MAX:
            info = int.from_bytes(data[at + 4 : at + 8], "little")
            kind = info >> INFO_KIND_SHIFT & INFO_KIND_MASK
            if not 0 < kind <= KIND_MAX:
                raise ValueError(f"BTF has a type of the unknown kind {kind}")
            fixed, each = EXTRA.get(kind, (0, 0))
            following = at + TYPE.size + fixed + each * (info & INFO_VLEN)
            if following > size:  # it is cut off
                break
            places.append(at)
            at = following
        return places

    def offset(self, path: str) -> int:
        """Of `task_struct.thread_info.cpu` the offset of `cpu` in a task_struct, in bytes."""
        return self.place(path).offset

    def has(self, path: str) -> bool:
        """Whether there is such a member."""
        try:
            self.place(path)
        except LookupError:
            return False
        return True

    def place(self, path: str) -> Place:
        """The same, with the type."""
        name, *members = path.split(".")
        place = Place(0, self._structure(name))
        for member in members:
            found = self._member(self._resolve(place.type), member, set())
            if found is None:
                raise LookupError(f"This kernel has no {path}")
            place = Place(place.offset + found.offset, found.type)
        return place

    def size(self, path: str) -> int:
        """The size in bytes of a structure, or of a member."""
        return self._size(self.place(path).type, DEPTH_MAX)

    def count(self, path: str) -> int:
        """The number of elements of a member that is an array; 1 for others."""
        place = self._resolve(self.place(path).type)
        if self._kind(place) != ARRAY_KIND:
            return 1
        return int(ARRAY.unpack_from(self._data, place + TYPE.size)[2])

    def element(self, path: str) -> int:
        """The size in bytes of one element of a member that is an array."""
        return self.size(path) // max(self.count(path), 1)

    # ---- types; `place` is one's offset in the data ----

    def _structure(self, name: str) -> int:
        if name not in self._found:
            wanted = self._strings.find(b"\0" + name.encode() + b"\0") + 1
            for identity, at in enumerate(self._places):
                called = int.from_bytes(self._data[at : at + 4], "little")
                if identity and called == wanted > 0 and self._kind(at) in (STRUCT, UNION):
                    self._found[name] = identity
                    break
            else:
                raise LookupError(f"This kernel has no structure {name}")
        return self._found[name]

    def _kind(self, place: int) -> int:
        _, info, _ = TYPE.unpack_from(self._data, place)
        return int(info) >> INFO_KIND_SHIFT & INFO_KIND_MASK

    def _resolve(self, identity: int) -> int:
        """The place of a type, or of what it stands for."""
        for _ in range(DEPTH_MAX):
            if not 0 < identity < len(self._places):
                break
            place = self._places[identity]
            if self._kind(place) not in ALIASES:
                return place
            identity = TYPE.unpack_from(self._data, place)[2]
        raise ValueError("BTF has a type that leads nowhere")

    def _members(self, place: int) -> Iterator[tuple[int, Place]]:
        """Where each one's name lies in the strings, and its place."""
        _, info, _ = TYPE.unpack_from(self._data, place)
        mask = MEMBER_OFFSET_MASK if info & INFO_KIND_FLAG else -1
        start = place + TYPE.size
        for at in range(start, start + MEMBER.size * (info & INFO_VLEN), MEMBER.size):
            name, type_, bits = MEMBER.unpack_from(self._data, at)
            yield name, Place((bits & mask) // 8, type_)

    def _member(self, place: int, name: str, seen: set[int]) -> Place | None:
        """Of that name, also in members without one; `seen` are the structures looked into."""
        if place in seen or len(seen) == NAMELESS_MAX or self._kind(place) not in (STRUCT, UNION):
            return None
        seen.add(place)
        wanted = name.encode() + b"\0"
        for at, member in self._members(place):
            if at and self._strings.startswith(wanted, at):
                return member
            if not at:
                inner = self._member(self._resolve(member.type), name, seen)
                if inner is not None:
                    return Place(member.offset + inner.offset, inner.type)
        return None

    def _size(self, identity: int, depth: int) -> int:
        place = self._resolve(identity)
        kind = self._kind(place)
        if kind in (STRUCT, UNION, *SIZED):
            return int(TYPE.unpack_from(self._data, place)[2])
        if kind == PTR:
            return POINTER_SIZE
        if kind == ARRAY_KIND and depth:
            element, _, count = ARRAY.unpack_from(self._data, place + TYPE.size)
            return int(count) * self._size(element, depth - 1)
        raise ValueError("BTF has a type without a size")
