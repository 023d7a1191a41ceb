"""Python objects as disks."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pyvmm.backends import python_disk
from pyvmm.backends.python_disk import PythonDisk
from pyvmm.errors import UsageError


class Backend:
    def __init__(self, size: int = 8192) -> None:
        self.data = bytearray(range(256)) * (size // 256)
        self.size = size
        self.flushed = 0
        self.calls: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.calls.append((offset, length))
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.calls.append((offset, len(data)))
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.flushed += 1


def buffers(*lengths: int) -> list[memoryview]:
    return [memoryview(bytearray(length)) for length in lengths]


def test_requests_become_calls() -> None:
    backend = Backend()
    disk = PythonDisk(backend)
    into = buffers(100, 412)
    disk.preadv(into, 512)
    assert b"".join(into) == backend.data[512:1024]
    disk.pwritev([memoryview(b"a" * 300), memoryview(b"b" * 212)], 1024)
    assert backend.data[1024:1536] == b"a" * 300 + b"b" * 212
    disk.flush()
    assert backend.flushed == 1
    assert backend.calls == [(512, 512), (1024, 512)]
    disk.write_zeroes(0, 1024, True)
    assert backend.data[:1024] == bytes(1024)


def test_large_requests_are_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_disk, "CHUNK", 1024)
    backend = Backend()
    disk = PythonDisk(backend)
    into = buffers(1500, 1060)
    disk.preadv(into, 512)
    assert b"".join(into) == backend.data[512:3072]
    disk.pwritev(into, 1024)
    disk.write_zeroes(4096, 2560, False)
    assert backend.data[4096:6656] == bytes(2560)
    assert max(length for _, length in backend.calls) == 1024
    assert len(backend.calls) == 9


def test_its_size_is_rounded_down_to_sectors() -> None:
    backend = Backend()
    backend.size = 1300
    assert PythonDisk(backend).size == 1024


def test_without_write_it_is_read_only_and_without_flush_there_is_none() -> None:
    class Reader:
        size = 512

        def read(self, offset: int, length: int) -> bytes:
            return bytes(length)

    disk = PythonDisk(Reader())
    assert disk.read_only
    disk.flush()
    assert not PythonDisk(Backend()).read_only


class NoSize:
    def read(self, offset: int, length: int) -> bytes:
        return b""


class NoRead:
    size = 512


class WrongSize(NoSize):
    size = "512"


class NegativeSize(NoSize):
    size = -512


@pytest.mark.parametrize("backend", [NoSize(), NoRead(), WrongSize(), NegativeSize(), "x"])
def test_what_cannot_be_a_disk_is_refused(backend: Any) -> None:
    with pytest.raises(UsageError, match="must have a size in bytes and a read"):
        PythonDisk(backend)


@pytest.mark.parametrize("data", [b"", bytes(511), bytes(513), None, "x" * 512])
def test_a_read_of_a_wrong_length_is_an_error(data: Any) -> None:
    backend = Backend()
    backend.read = lambda offset, length: data  # type: ignore[method-assign]
    into = buffers(512)
    with pytest.raises(OSError, match=r"read\(0, 512\) must return 512 bytes"):
        PythonDisk(backend).preadv(into, 0)
    assert into == buffers(512)


def test_exceptions_become_errors_that_name_the_method() -> None:
    class Broken(Backend):
        def write(self, offset: int, data: bytes) -> None:
            raise KeyError("missing")

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    disk = PythonDisk(Broken())
    with pytest.raises(OSError, match=r"Broken.write\(\) raised KeyError\('missing'\)") as caught:
        disk.pwritev(buffers(512), 0)
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError, match="No space") as caught:
        disk.flush()
    assert caught.value.errno == errno.ENOSPC
