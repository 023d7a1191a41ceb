"""Unpacking what kernels are compressed with, as a stream of bounded pieces."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from pyvmm.errors import ImageError
from pyvmm.typed import Protocol

LIMIT = 1 << 30  # bytes: ten times the largest kernel; what unpacks to more is a bomb
CHUNK = 1 << 20
_ZSTD_WINDOW = 1 << 27  # bytes: `zstd --ultra -22`, the kernel build's setting

# The first bytes of each format: RFC 1952 §2.3, the bzip2 manual, The .xz File Format §2.1.1.1,
# the .lzma format as `lzma` writes it (lc=3 lp=0 pb=2, dictionary of whole 64 KiB), RFC 8878
# §3.1.1, lz4_Frame_format.md ("Frame" and "Legacy frame"), lzop.
MAGICS = {
    "gzip": b"\x1f\x8b\x08",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "lzma": b"\x5d\x00\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x04\x22\x4d\x18",
    "lz4 legacy": b"\x02\x21\x4c\x18",
    "lzo": b"\x89LZO\x00\r\n\x1a\n",
}
_ZSTD_HEADER = 18  # bytes at most, RFC 8878 §3.1.1.1; below: §3.1.1.2, the header of a block
_ZSTD_LAST, _ZSTD_TYPE, _ZSTD_RLE = 1, 3 << 1, 1 << 1
_LZ4_LEGACY_BLOCK = 8 << 20  # lz4_Frame_format.md, "Legacy frame": a block unpacks to at most this


class Unsupported(ImageError):
    """The compression is known, but the library that unpacks it is not installed."""


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def compression_of(head: bytes) -> str | None:
    """The compression that begins with `head`, a key of MAGICS; None if it is none of them."""
    return next((kind for kind, magic in MAGICS.items() if head.startswith(magic)), None)


def unpack(name: str, kind: str, data: bytes) -> Iterator[bytes]:
    """Unpack `data`, which is `kind` (a key of MAGICS), piece by piece.

    Errors call it `name`: ImageError if it is damaged or has more than LIMIT bytes inside,
    Unsupported if this needs a library that is not installed.
    """
    done = 0
    try:
        for chunk in _chunks(kind, data):
            done += len(chunk)
            if done > LIMIT:
                raise ImageError(f"{name} unpacks to more than {LIMIT >> 20} MiB")
            yield chunk
    except ImportError as error:
        raise Unsupported(
            f"{name} needs the Python package {error.name} to unpack {kind}"
        ) from error
    except ImageError:
        raise
    except Exception as error:  # each library has its own tree, and all of it means the same
        raise ImageError(f"{name} has damaged {kind} data: {error}") from error


def _chunks(kind: str, data: bytes) -> Iterator[bytes]:
    if kind == "lz4 legacy":
        yield from _lz4_legacy(data)
    elif kind == "lzo":
        from pyvmm.boot.lzop import unpack_lzop

        yield from unpack_lzop(data)
    else:
        stream = _open_stream(kind, io.BytesIO(data))
        while chunk := stream.read(CHUNK):
            yield chunk


def _open_stream(kind: str, source: io.BytesIO) -> _Stream:
    if kind == "gzip":
        import gzip

        return gzip.GzipFile(fileobj=source)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2File(source)
    if kind == "zstd":
        import zstandard

        _check_zstd_is_whole(source.getbuffer())
        decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        return decoder.stream_reader(source, read_across_frames=True)
    if kind == "lz4":
        import lz4.frame

        stream: _Stream = lz4.frame.LZ4FrameFile(source)
        return stream
    import lzma

    return lzma.LZMAFile(source)


def _check_zstd_is_whole(data: memoryview) -> None:
    """Raise EOFError unless every frame ends: the library takes what is cut off for an end.

    RFC 8878 §3.1.1: a frame is a header, blocks until the one that is marked as the last, and
    perhaps 4 bytes of checksum.
    """
    import zstandard

    at = 0
    while data[at : at + 4] == MAGICS["zstd"]:
        header = data[at : at + _ZSTD_HEADER]
        at += zstandard.frame_header_size(header)
        last = False
        while not last:
            block = int.from_bytes(data[at : at + 3], "little")
            last = bool(block & _ZSTD_LAST)
            at += 3 + (1 if block & _ZSTD_TYPE == _ZSTD_RLE else block >> 3)
            if at > len(data):
                raise EOFError("it ends too early")
        at += 4 * zstandard.get_frame_parameters(header).has_checksum
    if at > len(data):
        raise EOFError("it ends too early")


def _lz4_legacy(data: bytes) -> Iterator[bytes]:
    """lz4_Frame_format.md, "Legacy frame": blocks until the end, each after its 32-bit size."""
    import lz4.block

    at = len(MAGICS["lz4 legacy"])
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if size > len(data) - at:
            raise EOFError("it ends too early")
        yield lz4.block.decompress(data[at : at + size], uncompressed_size=_LZ4_LEGACY_BLOCK)
        at += size
