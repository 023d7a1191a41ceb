"""Image files and block devices as disks.

An image is locked while a machine has it: for itself if it may write, else with others that do not
write either. The locks belong to the open file (OFD), so they end with it, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat

from pyvmm.backends import disk_spec as spec
from pyvmm.backends.vectors import Buffers, move_all, scatter, size, split
from pyvmm.errors import HostError, UsageError
from pyvmm.log import Log
from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = Log(__name__)

SECTOR = 512  # bytes; a disk is a multiple of it
PAGE = 4096
LARGEST_BLOCK = 64 << 10  # of a file system; what calls itself larger is one over a network
CHUNK = 1 << 20  # bytes moved at once where there is a copy in between
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTTY)


class RawDisk:
    """A disk whose bytes are those of a descriptor; pyvmm.virtio.blk.Storage says what it does.

    One thread at a time.
    """

    fd: int | None

    def __init__(
        self, fd: int, name: str, *, read_only: bool = False, direct: bool = False
    ) -> None:
        """Own `fd`, of a file or block device. `direct`: it was opened with O_DIRECT.

        `name` is for people.
        """
        self.fd = self.descriptor = fd
        self.name = name
        self.read_only = read_only
        self.can_discard = not read_only
        self._direct = direct
        self._bounce: memoryview | None = None
        self._is_device = stat.S_ISBLK(os.fstat(fd).st_mode)
        self._find_geometry()
        self._find_size()

    def _find_geometry(self) -> None:
        self.optimal_io = 0
        if self._is_device:
            self.block_size = self._ask(spec.BLKSSZGET)
            self.physical_block_size = self._ask(spec.BLKPBSZGET)
            self.minimum_io = self._ask(spec.BLKIOMIN)
            self.optimal_io = self._ask(spec.BLKIOOPT)
            return
        block = os.fstat(self.descriptor).st_blksize
        usual = SECTOR <= block <= LARGEST_BLOCK and not block & (block - 1)
        self.minimum_io = self.physical_block_size = block if usual else PAGE
        self.block_size = self._find_alignment() if self._direct else SECTOR

    def _ask(self, ioctl: int) -> int:
        answer: int
        (answer,) = spec.INT.unpack(fcntl.ioctl(self.descriptor, ioctl, spec.INT.pack(0)))
        return answer

    def _find_alignment(self) -> int:
        """What the file system wants of the offsets of direct I/O: a sector will do, or not."""
        try:
            os.preadv(self.descriptor, [self._bounced()[SECTOR : 2 * SECTOR]], SECTOR)
        except OSError:
            return PAGE
        return SECTOR

    def _find_size(self) -> None:
        total = os.lseek(self.descriptor, 0, os.SEEK_END)
        self.size = total - total % self.block_size
        if not self.size:
            log.warning("%s has no whole block: its disk has a size of 0", self.name)
        elif self.size != total:
            log.warning(
                "%s is no multiple of %d bytes: the last %d are not part of the disk",
                self.name,
                self.block_size,
                total - self.size,
            )

    # ---- Storage ----

    def resize(self, total: int) -> None:
        """See Storage. What is not ours to change must have the new size already."""
        if total <= 0 or total % self.block_size:
            wrong = f"must be a multiple of {self.block_size} bytes above 0, not {total}"
            raise UsageError(f"The size of {self.name} {wrong}")
        actual = os.lseek(self.descriptor, 0, os.SEEK_END)
        if (self._is_device or self.read_only) and total != actual:
            raise UsageError(f"{self.name} has {actual} bytes, which only the host can change")
        if total != actual:
            os.ftruncate(self.descriptor, total)
        self._find_size()

    def commit(self) -> None:
        """See Storage."""
        raise UsageError(f"{self.name} is no snapshot: what the guest writes is in it at once")

    def preadv(self, buffers: Buffers, offset: int) -> None:
        """See Storage."""
        try:
            self._move(os.preadv, buffers, offset)
        except OSError as error:
            if not self._is_misaligned(error):
                raise
            while buffers:
                part, buffers = split(buffers, CHUNK)
                bounce = self._bounced()[: size(part)]
                self._move(os.preadv, [bounce], offset)
                scatter(bounce, part)
                offset += len(bounce)

    def pwritev(self, buffers: Buffers, offset: int) -> None:
        """See Storage."""
        try:
            self._move(os.pwritev, buffers, offset)
        except OSError as error:
            if not self._is_misaligned(error):
                raise
            while buffers:
                part, buffers = split(buffers, CHUNK)
                bounce = self._bounced()[: size(part)]
                bounce[:] = b"".join(part)
                self._move(os.pwritev, [bounce], offset)
                offset += len(bounce)

    def flush(self) -> None:
        """See Storage."""
        os.fdatasync(self.descriptor)

    def discard(self, offset: int, length: int) -> None:
        """See Storage; where the host cannot, nothing is done."""
        try:
            self._give_up(offset, length)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        """See Storage."""
        attempts: list[Callable[[int, int], None]] = [self._zero_range, self._write_zeros]
        if unmap and not self._is_device:  # what a device gives up need not read as zeros
            attempts.insert(0, self._give_up)
        for attempt in attempts:
            try:
                attempt(offset, length)
                return
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise

    def close(self) -> None:
        """See Storage."""
        os.close(self.descriptor)

    # ---- how ----

    def _move(self, move: Callable[[int, Buffers, int], int], buffers: Buffers, at: int) -> None:
        try:
            move_all(move, self.descriptor, buffers, at)
        except EOFError:
            raise OSError(errno.EIO, f"{self.name} is shorter than it was") from None

    def _is_misaligned(self, error: OSError) -> bool:
        """Whether it failed for where the guest's buffers are: direct I/O wants them aligned."""
        return self._direct and error.errno == errno.EINVAL

    def _bounced(self) -> memoryview:
        if self._bounce is None:
            self._bounce = memoryview(mmap.mmap(-1, CHUNK))  # aligned to a page
        return self._bounce

    def _give_up(self, offset: int, length: int) -> None:
        if self._is_device:
            fcntl.ioctl(self.descriptor, spec.BLKDISCARD, spec.START_LENGTH.pack(offset, length))
        else:
            fcntl.ioctl(
                self.descriptor, spec.PUNCH_HOLE, spec.SPACE.pack(0, 0, offset, length, 0, 0)
            )

    def _zero_range(self, offset: int, length: int) -> None:
        if self._is_device:
            fcntl.ioctl(self.descriptor, spec.BLKZEROOUT, spec.START_LENGTH.pack(offset, length))
        else:
            fcntl.ioctl(
                self.descriptor, spec.ZERO_RANGE, spec.SPACE.pack(0, 0, offset, length, 0, 0)
            )

    def _write_zeros(self, offset: int, length: int) -> None:
        zeros = memoryview(mmap.mmap(-1, min(length, CHUNK)))
        for at in range(offset, offset + length, CHUNK):
            self._move(os.pwritev, [zeros[: offset + length - at]], at)


def lock(fd: int, name: str, *, exclusive: bool) -> None:
    """Lock an image, or change its lock. Raises HostError if another machine has it."""
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, spec.FLOCK.pack(kind, *spec.WHOLE_FILE))
    except BlockingIOError:
        cure = "every machine that has it must have it with ro or snapshot"
        raise HostError(f"{name} is in use by another machine; to share it, {cure}") from None
    except OSError as error:
        raise HostError(f"{name} cannot be locked: {error.strerror}") from error


def unlock(fd: int) -> None:
    """Give the lock of an image up."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, spec.FLOCK.pack(fcntl.F_UNLCK, *spec.WHOLE_FILE))


def open_image(path: str, *, read_only: bool = False, direct: bool = False) -> RawDisk:
    """Open and lock a disk image or block device; `direct` goes past the host's page cache.

    Raises HostError, naming the file and the cure.
    """
    flags = os.O_CLOEXEC | (os.O_RDONLY if read_only else os.O_RDWR)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "neither"
            raise HostError(f"A disk must be a file or a block device; {path} is {what}")
        if stat.S_ISBLK(mode) and not read_only:
            flags |= os.O_EXCL  # refused if the host has mounted it: open(2)
        fd = os.open(path, flags | (os.O_DIRECT if direct else 0))
    except (OSError, ValueError) as error:
        raise HostError(_why_not(path, error, read_only, direct)) from error
    try:
        disk = RawDisk(fd, path, read_only=read_only, direct=direct)
        lock(fd, path, exclusive=not read_only)
    except BaseException:
        os.close(fd)
        raise
    return disk


def _why_not(path: str, error: OSError | ValueError, read_only: bool, direct: bool) -> str:
    match error:
        case FileNotFoundError():
            return f"{path}: there is no such file; `truncate -s 10G {path}` makes an empty disk"
        case OSError(errno=errno.EBUSY):
            return f"{path} is in use: the host must unmount it first"
        case OSError(errno=errno.EINVAL) if direct:
            return f"The file system of {path} has no direct I/O, which cache=none needs"
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS) if not read_only:
            return f"{path} must be writable, or attached with ro or snapshot: {error.strerror}"
        case OSError():
            return f"{path} cannot be opened: {error.strerror}"
        case _:
            return f"{path!r} is no file name"
