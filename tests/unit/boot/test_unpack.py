from __future__ import annotations

import random
import struct

import pytest

from pyvmm.boot import unpack
from pyvmm.errors import ImageError
from tests.fakes import images

DATA = random.Random(1).randbytes(200_000) + bytes(9 << 20)


def unpacked(kind: str, data: bytes) -> bytes:
    return b"".join(unpack.unpack("file", kind, data))


@pytest.mark.parametrize("kind", images.ALL_COMPRESSIONS)
def test_every_compression_is_recognised_and_gives_the_same_bytes_back(kind: str) -> None:
    packed = images.compress(kind, DATA)
    assert unpack.compression_of(packed) == kind
    assert unpacked(kind, packed) == DATA


def test_what_is_not_compressed_is_not_taken_for_it() -> None:
    assert unpack.compression_of(images.vmlinux()) is None
    assert unpack.compression_of(images.bzimage()) is None
    assert unpack.compression_of(b"") is None


@pytest.mark.parametrize("kind", images.ALL_COMPRESSIONS)
def test_a_truncated_stream_is_an_error(kind: str) -> None:
    packed = images.compress(kind, DATA)
    with pytest.raises(ImageError, match="damaged"):
        unpacked(kind, packed[: len(packed) // 2])


def test_a_zstd_stream_that_is_cut_anywhere_is_an_error() -> None:
    packed = images.compress("zstd", DATA[:1000] + bytes(300_000))
    for length in range(4, len(packed)):
        with pytest.raises(ImageError, match="damaged"):
            unpacked("zstd", packed[:length])


@pytest.mark.parametrize("kind", images.ALL_COMPRESSIONS)
def test_a_stream_of_rubbish_is_an_error(kind: str) -> None:
    with pytest.raises(ImageError, match=f"file has damaged {kind} data"):
        unpacked(kind, unpack.MAGICS[kind] + b"\xff" * 100)


@pytest.mark.parametrize("kind", images.ALL_COMPRESSIONS)
def test_a_decompression_bomb_is_stopped_at_the_limit(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "LIMIT", 4 << 20)
    largest = 0
    with pytest.raises(ImageError, match="more than 4 MiB"):  # noqa: PT012
        for chunk in unpack.unpack("file", kind, images.compress(kind, bytes(32 << 20))):
            largest = max(largest, len(chunk))
    assert largest <= 4 << 20


def test_an_lzop_block_that_is_stored_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    lzo = pytest.importorskip("lzo", reason="python-lzo is not installed")
    text = b"abc" * 1000
    block = lzo.compress(text, 1, False)
    header = struct.pack(">HHHBBI", 0x1040, 0x20A0, 0x940, 3, 9, 0x3000003) + bytes(12)
    data = unpack.MAGICS["lzo"] + header + b"\0" + bytes(4)
    data += struct.pack(">IIII", len(text), len(block), 0, 0) + block
    data += struct.pack(">III", 3, 3, 0) + b"xyz" + bytes(4)
    assert unpacked("lzo", data) == text + b"xyz"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lzo", None)
    with pytest.raises(unpack.Unsupported, match="lzo"):
        unpacked("lzo", unpack.MAGICS["lzo"])
