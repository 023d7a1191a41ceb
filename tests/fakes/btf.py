"""The writer's side of BTF, from Documentation/bpf/btf.rst."""

from __future__ import annotations

import struct
from collections.abc import Sequence


class BtfWriter:
    """Types are numbered from 1 in the order in which they are added."""

    def __init__(self) -> None:
        self.types = b""
        self.strings = b"\0"
        self.count = 0

    def _name(self, name: str) -> int:
        if not name:
            return 0
        at = self.strings.find(b"\0" + name.encode() + b"\0") + 1
        if not at:
            at = len(self.strings)
            self.strings += name.encode() + b"\0"
        return at

    def _add(self, name: str, kind: int, size: int, rest: bytes = b"", vlen: int = 0) -> int:
        self.types += struct.pack("<III", self._name(name), kind << 24 | vlen, size) + rest
        self.count += 1
        return self.count

    def int(self, name: str, size: int) -> int:
        return self._add(name, 1, size, struct.pack("<I", size * 8))

    def pointer(self, to: int = 0) -> int:
        return self._add("", 2, to)

    def array(self, of: int, count: int) -> int:
        return self._add("", 3, 0, struct.pack("<III", of, 1, count))

    def typedef(self, name: str, of: int) -> int:
        return self._add(name, 8, of)

    def enum(self, name: str, values: Sequence[str]) -> int:
        rest = b"".join(struct.pack("<Ii", self._name(v), i) for i, v in enumerate(values))
        return self._add(name, 6, 4, rest, len(values))

    def struct(
        self, name: str, size: int, members: Sequence[tuple[str, int, int]], *, union: bool = False
    ) -> int:
        """Members are (name, type, offset in bytes)."""
        rest = b"".join(struct.pack("<III", self._name(n), t, at * 8) for n, t, at in members)
        return self._add(name, 5 if union else 4, size, rest, len(members))

    def data(self) -> bytes:
        head = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        return head + self.types + self.strings
