"""Throw-away overlays: a disk that starts as an image, and whose changes never reach it.

Where the file system can, the overlay is a clone of the image that shares its blocks. Elsewhere it
is an empty file, with a map of what has been written to it. Neither file has a name, so it goes
when the machine does. `commit` writes the changes into the image after all.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

from pyvmm.backends import disk_spec as spec
from pyvmm.backends.disk import CHUNK, RawDisk, lock, open_image, unlock
from pyvmm.backends.vectors import Buffers, move_all, size, split
from pyvmm.errors import HostError, UsageError
from pyvmm.typed import NoReturn

CLUSTER = 4096  # bytes: a guest's file system seldom writes less, so little has to be copied first
DEFAULT_DIRECTORY = "/var/tmp"  # for what may be large: file-hierarchy(7)


class Clone(RawDisk):
    """A clone of the image `base`; both are owned."""

    def __init__(self, fd: int, base: RawDisk) -> None:
        self._base = base
        super().__init__(fd, base.name)

    def resize(self, total: int) -> None:
        """See Storage."""
        refuse_size(self.name)

    def commit(self) -> None:
        """See Storage: make the image what the clone is."""
        with _Writer(self._base) as image:
            fcntl.ioctl(image, spec.FICLONE, self.descriptor)
            os.fsync(image)

    def close(self) -> None:
        """See Storage."""
        super().close()
        self._base.close()


class Overlay:
    """Copy on write: `top` has the clusters that the map says, `base` the others; both are owned.

    It is a pyvmm.virtio.blk.Storage. One thread at a time.
    """

    read_only = False
    can_discard = True
    fd: int | None = None

    def __init__(self, base: RawDisk, top: RawDisk) -> None:
        """`top` is as large as `base`."""
        self._base = base
        self._top = top
        self.size = base.size
        self.block_size = base.block_size
        self.physical_block_size = max(base.physical_block_size, CLUSTER)
        self.minimum_io = base.minimum_io
        self.optimal_io = base.optimal_io
        self._map = bytearray(-(-self.size // CLUSTER))  # a cluster each: 1 if `top` has it

    def preadv(self, buffers: Buffers, offset: int) -> None:
        """See Storage."""
        for start, end, on_top in self._runs(offset, offset + size(buffers)):
            part, buffers = split(buffers, end - start)
            (self._top if on_top else self._base).preadv(part, start)

    def pwritev(self, buffers: Buffers, offset: int) -> None:
        """See Storage."""
        end = offset + size(buffers)
        self._copy_edges(offset, end)
        self._top.pwritev(buffers, offset)
        self._mark(offset, end)

    def flush(self) -> None:
        """Nothing of it outlives the machine."""

    def discard(self, offset: int, length: int) -> None:
        """See Storage."""
        self.write_zeroes(offset, length, True)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        """See Storage."""
        self._copy_edges(offset, offset + length)
        self._top.write_zeroes(offset, length, unmap)
        self._mark(offset, offset + length)

    def close(self) -> None:
        """See Storage."""
        self._top.close()
        self._base.close()

    def resize(self, total: int) -> None:
        """See Storage."""
        refuse_size(self._base.name)

    def commit(self) -> None:
        """See Storage: write the changes into the image.

        If it fails, the overlay has still all that it had, but the image may have part of it.
        """
        chunk = memoryview(bytearray(CHUNK))
        with _Writer(self._base) as fd:
            for start, end, on_top in self._runs(0, self.size):
                for at in range(start, end if on_top else start, CHUNK):
                    part = [chunk[: end - at]]
                    self._top.preadv(part, at)
                    move_all(os.pwritev, fd, part, at)
            os.fsync(fd)
        self._map[:] = bytes(len(self._map))
        self._top.discard(0, self.size)

    def _runs(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Cut [start, end) where it changes between `top`, which is true, and `base`."""
        last = -(-end // CLUSTER)
        while start < end:
            cluster = start // CLUSTER
            on_top = self._map[cluster]
            other = self._map.find(1 - on_top, cluster, last)
            stop = end if other < 0 else other * CLUSTER
            yield start, stop, bool(on_top)
            start = stop

    def _copy_edges(self, start: int, end: int) -> None:
        """Bring clusters to the top of which [start, end) is only a part."""
        for edge in {start, end}:
            cluster = edge // CLUSTER
            if edge % CLUSTER and edge < self.size and not self._map[cluster]:
                first = cluster * CLUSTER
                data = [memoryview(bytearray(min(CLUSTER, self.size - first)))]
                self._base.preadv(data, first)
                self._top.pwritev(data, first)
                self._mark(first, first + 1)

    def _mark(self, start: int, end: int) -> None:
        first, last = start // CLUSTER, -(-end // CLUSTER)
        self._map[first:last] = b"\1" * (last - first)


class _Writer:
    """A descriptor to write the image that a snapshot is of, which is locked meanwhile."""

    def __init__(self, base: RawDisk) -> None:
        self._base = base

    def __enter__(self) -> int:
        base = self._base
        self._fd = os.open(f"/proc/self/fd/{base.descriptor}", os.O_RDWR | os.O_CLOEXEC)
        unlock(base.descriptor)  # a lock is an open file's: that one would be in this one's way
        try:
            lock(self._fd, base.name, exclusive=True)
        except HostError:
            self._end()
            raise
        return self._fd

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        os.close(self._fd)
        lock(self._base.descriptor, self._base.name, exclusive=False)


def refuse_size(name: str) -> NoReturn:
    """Raise the UsageError of who wants to resize a snapshot."""
    raise UsageError(f"A snapshot must keep the size of its image, {name}")


def open_snapshot(path: str, *, direct: bool = False) -> Clone | Overlay:
    """An overlay of the image at `path`. Raises HostError."""
    base = open_image(path, read_only=True, direct=direct)
    try:
        return _clone(base) or _copy_on_write(base)
    except BaseException:
        base.close()
        raise


def _clone(base: RawDisk) -> Clone | None:
    """None where the file system has no clones or takes no file of ours."""
    try:
        fd = _nameless_file(os.path.dirname(base.name) or ".")
    except OSError:
        return None
    try:
        fcntl.ioctl(fd, spec.FICLONE, base.descriptor)
        return Clone(fd, base)
    except OSError:
        os.close(fd)
        return None


def _copy_on_write(base: RawDisk) -> Overlay:
    directory = os.environ.get("TMPDIR") or DEFAULT_DIRECTORY
    try:
        fd = _nameless_file(directory)
    except OSError as error:
        why = f"{directory} takes no file for it, TMPDIR may name another: {error.strerror}"
        raise HostError(f"There is no place for the changes to {base.name}: {why}") from error
    try:
        os.ftruncate(fd, base.size)
        return Overlay(base, RawDisk(fd, f"the overlay of {base.name}"))
    except OSError as error:
        os.close(fd)
        what = f"the changes to {base.name}: {error.strerror}"
        raise HostError(f"There is no place in {directory} for {what}") from error


def _nameless_file(directory: str) -> int:
    return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
