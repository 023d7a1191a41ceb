"""The lzop container, which kernels compressed with LZO are in."""

from __future__ import annotations

import struct
from collections.abc import Iterator

# The lzop header after its magic, big-endian, as lzop 0.940 and later write it: version, library
# version, version needed, method, level, flags; then, if F_H_FILTER, a filter; mode, two words of
# time, the length of a name, the name, a checksum (lzop 1.04, src/lzop.c write_header).
_MAGIC_SIZE = 9
_FIXED = struct.Struct(">HHHBBI")
_MODE_AND_TIMES = 12
_F_ADLER32_D, _F_ADLER32_C = 0x1, 0x2
_F_H_EXTRA_FIELD, _F_H_FILTER = 0x40, 0x800
_F_CRC32_D, _F_CRC32_C = 0x100, 0x200
_WORD = struct.Struct(">I")
_MAX_BLOCK = 64 << 20  # bytes: lzop's MAX_BLOCK_SIZE


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise EOFError("it ends too early")
        self._at += size
        return self._data[self._at - size : self._at]

    def word(self) -> int:
        value: int = _WORD.unpack(self.take(_WORD.size))[0]
        return value


def unpack_lzop(data: bytes) -> Iterator[bytes]:
    """Unpack block by block; ImportError without python-lzo, else any exception for damage."""
    import lzo

    reader = _Reader(data, _MAGIC_SIZE)
    *_, flags = _FIXED.unpack(reader.take(_FIXED.size))
    reader.take((_WORD.size if flags & _F_H_FILTER else 0) + _MODE_AND_TIMES)
    reader.take(reader.take(1)[0] + _WORD.size)
    if flags & _F_H_EXTRA_FIELD:
        reader.take(reader.word() + _WORD.size)
    plain_sums = _WORD.size * (bool(flags & _F_ADLER32_D) + bool(flags & _F_CRC32_D))
    packed_sums = _WORD.size * (bool(flags & _F_ADLER32_C) + bool(flags & _F_CRC32_C))
    while size := reader.word():
        packed_size = reader.word()
        if size > _MAX_BLOCK or packed_size > size:
            raise ValueError(f"a block of {packed_size} bytes unpacks to {size}")
        reader.take(plain_sums)
        if packed_size == size:
            yield reader.take(size)
        else:
            reader.take(packed_sums)
            yield lzo.decompress(reader.take(packed_size), False, size)
