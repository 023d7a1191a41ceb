"""Unpacked kernels, kept from one start to the next.

The directory ($XDG_CACHE_HOME/pyvmm/kernels) holds one sparse file for each unpacked image, named
by the SHA-256 of the packed bytes, and symbolic links that spare the hashing: named by the packed
file's identity, they point to the unpacked one. Whatever is wrong with the directory, the image
is then unpacked into memory, at every start.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from pyvmm.boot.image_file import ImageFile
from pyvmm.boot.unpack import unpack

PIECE = 64 << 10  # bytes: what can become a hole
LIMIT = 1 << 30  # bytes on disk of all images; the least recently used are deleted above it
_SETTLED_NS = 2 * 10**9  # by then the file system's clock has ticked
_BLOCK = 512  # bytes: the unit of st_blocks, stat(2)

Progress = Callable[[str], object]


def unpacked(
    source: ImageFile, kind: str, offset: int, length: int, progress: Progress | None = None
) -> ImageFile:
    """Unpack `length` bytes at `offset` of `source`, compressed as `kind`, or find it done.

    If it has to be unpacked, `progress` is called with a text for the user now and then, and with
    an empty one when that is over.
    Raises ImageError if the data is damaged, unpack.Unsupported if a library is missing.
    """
    folder = _folder()
    link = f"{source.identity}-{offset:x}-{length:x}"
    if folder:
        with suppress(OSError):
            return _open(folder, os.readlink(f"{folder}/{link}"), source.name)
    data = source.read(offset, length)
    if folder:
        from hashlib import sha256

        key = sha256(data).hexdigest()
        with suppress(OSError):
            if not os.path.exists(f"{folder}/{key}"):
                _store(folder, key, _reported(source.name, kind, data, progress))
            _link(folder, link, key, source)
            return _open(folder, key, source.name)
    fd = os.memfd_create("unpacked", os.MFD_CLOEXEC)
    try:
        _write_sparse(fd, _reported(source.name, kind, data, progress))
        return ImageFile(fd, source.name, link)
    except BaseException:
        os.close(fd)
        raise


def _folder() -> str | None:
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # XDG Base Directory Specification: relative ones are ignored
        home = os.environ.get("HOME")
        base = f"{home}/.cache" if home else ""
    if not base.startswith("/"):
        return None
    folder = f"{base}/pyvmm/kernels"
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except (OSError, ValueError):
        return None
    return folder


def _open(folder: str, key: str, name: str) -> ImageFile:
    fd = os.open(f"{folder}/{key}", os.O_RDONLY | os.O_CLOEXEC)
    with suppress(OSError):
        os.utime(fd)  # used now
    return ImageFile(fd, name, key)


def _reported(name: str, kind: str, data: bytes, progress: Progress | None) -> Iterable[bytes]:
    done = 0
    try:
        for chunk in unpack(name, kind, data):
            done += len(chunk)
            if progress:
                progress(f"Unpacking {name} ({kind}): {done >> 20} MiB")
            yield chunk
    finally:
        if progress:
            progress("")


def _store(folder: str, key: str, chunks: Iterable[bytes]) -> None:
    """Write a file that appears under its name only when it is whole and on the disk."""
    import tempfile

    fd, temporary = tempfile.mkstemp(prefix=".", dir=folder)
    try:
        _write_sparse(fd, chunks)
        os.fsync(fd)
        os.rename(temporary, f"{folder}/{key}")
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    _shrink(folder)


def _write_sparse(fd: int, chunks: Iterable[bytes]) -> None:
    """Leave a hole where there are only zeros: a kernel is half zeros, and loading skips holes."""
    zeros = bytes(PIECE)
    at = 0
    for chunk in chunks:
        for start in range(0, len(chunk), PIECE):
            piece = chunk[start : start + PIECE]
            if piece != zeros and os.pwrite(fd, piece, at + start) != len(piece):
                raise OSError(errno.ENOSPC, "the file system is full")
        at += len(chunk)
    os.ftruncate(fd, at)


def _link(folder: str, link: str, key: str, source: ImageFile) -> None:
    """Remember that this very file unpacks to `key`, unless its time stamps are too fresh.

    A file may be written again within one tick of its clock, and then its identity stays.
    """
    status = os.fstat(source.fd)
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS:
        with suppress(OSError):
            os.symlink(key, f"{folder}/{link}")


def _shrink(folder: str) -> None:
    """Delete the least recently used until the rest is within LIMIT; then links to nothing."""
    status = []
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            status.append((entry.path, entry.stat(follow_symlinks=False)))
    used = 0
    for path, entry_status in sorted(status, key=lambda pair: pair[1].st_mtime_ns, reverse=True):
        used += entry_status.st_blocks * _BLOCK
        if used > LIMIT:
            _remove(path)
    for path, _ in status:
        if os.path.islink(path) and not os.path.exists(path):
            _remove(path)


def _remove(path: str) -> None:
    with suppress(OSError):  # another process was faster
        os.unlink(path)
