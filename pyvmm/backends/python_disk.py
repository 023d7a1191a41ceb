"""A disk that is a Python object."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pyvmm.backends.vectors import Buffers, scatter, size, split
from pyvmm.errors import UsageError
from pyvmm.typed import Any, Protocol

SECTOR = 512
PAGE = 4096
CHUNK = 1 << 20  # the most bytes that one call is about


class Backend(Protocol):
    """What a program gives as a disk; called on the disk's own thread, one call at a time.

    Offsets and lengths are bytes, inside the disk and multiples of 512; a length is at most CHUNK.
    An exception becomes an I/O error of the guest, and a line in the log. An OSError with
    errno.ENOSPC is what the disk's `werror` is about.
    """

    size: int  # bytes; what changes it while the machine is open must call Blk.resize then

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there."""

    def write(self, offset: int, data: bytes) -> object:
        """Store them. A disk without this method is read-only."""

    def flush(self) -> object:
        """Make what was written permanent. May be left out."""


class PythonDisk:
    """A Backend as a pyvmm.virtio.blk.Storage."""

    block_size = SECTOR
    physical_block_size = PAGE
    minimum_io = 0
    optimal_io = 0
    can_discard = False
    fd: int | None = None

    def __init__(self, backend: Any) -> None:
        """Raises UsageError if `backend` has not what a disk must have."""
        total = getattr(backend, "size", None)
        if not isinstance(total, int) or total < 0 or not callable(getattr(backend, "read", None)):
            raise UsageError("A disk's backend must have a size in bytes and a read()")
        self._backend = backend
        self._flush = getattr(backend, "flush", None)
        self.size = total - total % SECTOR
        self.read_only = not callable(getattr(backend, "write", None))

    def preadv(self, buffers: Buffers, offset: int) -> None:
        """See Storage."""
        while buffers:
            part, buffers = split(buffers, CHUNK)
            length = size(part)
            data = _call(self._backend.read, offset, length)
            if not isinstance(data, (bytes, bytearray, memoryview)) or len(data) != length:
                raise OSError(errno.EIO, f"read({offset}, {length}) must return {length} bytes")
            scatter(data, part)
            offset += length

    def pwritev(self, buffers: Buffers, offset: int) -> None:
        """See Storage."""
        while buffers:
            part, buffers = split(buffers, CHUNK)
            data = b"".join(part)
            _call(self._backend.write, offset, data)
            offset += len(data)

    def flush(self) -> None:
        """See Storage."""
        if self._flush is not None:
            _call(self._flush)

    def discard(self, offset: int, length: int) -> None:
        """See Storage."""

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        """See Storage."""
        for at in range(offset, offset + length, CHUNK):
            _call(self._backend.write, at, bytes(min(CHUNK, offset + length - at)))

    def resize(self, total: int) -> None:
        """See Storage: the backend must have the size already."""
        actual = self._backend.size
        if total != actual or total % SECTOR:
            raise UsageError(f"The backend must have the size {total} already, not {actual}")
        self.size = total

    def commit(self) -> None:
        """See Storage."""
        raise UsageError("A disk that is a Python object is no snapshot")

    def close(self) -> None:
        """The program made the backend, and it remains the program's."""


def _call(method: Callable[..., Any], *args: object) -> Any:
    try:
        return method(*args)
    except OSError:
        raise
    except Exception as error:
        name = getattr(method, "__qualname__", repr(method))
        raise OSError(errno.EIO, f"{name}() raised {error!r}") from error
