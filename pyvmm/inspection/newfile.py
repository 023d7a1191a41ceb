"""Files that appear under their name when they are whole."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from pyvmm.errors import HostError, UsageError


@contextmanager
def new_file(path: str) -> Iterator[int]:
    """A descriptor to write `path` by; whatever ends the `with` early leaves nothing behind.

    The file's mode is 0600, because it shows what is in a guest. Raises UsageError if `path` is
    something else than a regular file, HostError if it cannot be written. Any thread.
    """
    try:
        if os.path.lexists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{path} must be a regular file, or a name that is not used yet")
        folder, name = os.path.split(path)
        fd, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder or ".")
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}") from error
    try:
        yield fd
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            raise HostError(f"{path} cannot be written: {error.strerror}") from error
        raise
    finally:
        os.close(fd)


def write_at(fd: int, data: bytes, place: int) -> None:
    """Write all of `data` at `place`, in bytes from the start."""
    while data:
        written = os.pwrite(fd, data, place)
        data, place = data[written:], place + written
