"""A file that a kernel or an initrd is read from: every read checked, copied straight to RAM."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from types import TracebackType

from pyvmm.errors import ImageError
from pyvmm.memory import HUGEPAGE, GuestMemory

AnyPath = str | os.PathLike[str]


class ImageFile:
    """An open regular file. `name` is what errors call it.

    `identity` names its bytes as long as nobody changes the file; the cache goes by it.
    """

    def __init__(self, fd: int, name: str, identity: str) -> None:
        """Take over `fd`."""
        self.fd = fd
        self.name = name
        self.identity = identity
        self.size = os.fstat(fd).st_size

    @classmethod
    def open(cls, path: AnyPath) -> ImageFile:
        """Open `path`; raises ImageError unless it is a readable, regular, non-empty file."""
        name = os.fspath(path)
        try:
            # Without O_NONBLOCK the open of a FIFO waits for a writer.
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ImageError(f"{name} cannot be opened: {error.strerror}") from error
        except ValueError as error:  # a NUL in the path
            raise ImageError(f"{name!r} cannot be opened: {error}") from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            os.close(fd)
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
            is_what = "empty" if stat.S_ISREG(status.st_mode) else f"{kind}, not a file"
            raise ImageError(f"{name} is {is_what}")
        numbers = (status.st_dev, status.st_ino, status.st_size)
        times = (status.st_mtime_ns, status.st_ctime_ns)
        return cls(fd, name, "-".join(f"{number:x}" for number in numbers + times))

    def close(self) -> None:
        """Release the descriptor; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, offset: int, length: int) -> bytes:
        """All `length` bytes at `offset`; raises ImageError where the file has not that many."""
        if offset + length > self.size:
            raise self.truncated()
        pieces = []
        while length:
            piece = os.pread(self.fd, length, offset)
            if not piece:  # cut off since it was opened
                raise self.truncated()
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def truncated(self) -> ImageError:
        """The error for a file that ends before what its headers promise."""
        return ImageError(f"{self.name} is truncated: it has only {self.size} bytes")

    def copy_into(self, memory: GuestMemory, address: int, offset: int, length: int) -> None:
        """Copy `length` bytes at `offset` to guest-physical `address`, where RAM must be zero.

        The file's holes are left out, so that the guest has those pages only when it touches them.
        Raises ImageError if the file is too short, MemoryAccessError outside RAM.
        """
        region = memory.region_at(address, length)
        # Seen from a file that was cut off since it was opened, the rest would look like a hole.
        if offset + length > os.fstat(self.fd).st_size:
            raise self.truncated()
        if length >= HUGEPAGE:
            memory.use_huge_pages()
        for at, end in self._extents(offset, offset + length):
            while at < end:
                to = address - region.base + at - offset
                count = os.preadv(self.fd, [region.view[to : to + end - at]], at)
                if not count:
                    raise self.truncated()
                at += count

    def _extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(start, end) of the file's bytes that are not in holes, which read as zeros."""
        while start < end:
            try:
                start = os.lseek(self.fd, start, os.SEEK_DATA)
                stop = min(os.lseek(self.fd, start, os.SEEK_HOLE), end)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole from here on
                    return
                stop = end  # a file system that cannot tell
            if start < end:
                yield start, stop
            start = stop
