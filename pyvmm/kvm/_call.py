"""The one place where an ioctl's errno becomes KvmError."""

from __future__ import annotations

import os

from pyvmm.errors import KvmError
from pyvmm.native import ffi, lib
from pyvmm.typed import Any


def call(fd: int, ioctl: str, arg: Any = ffi.NULL, asked: str = "") -> int:
    """Make the ioctl of that name with a pointer; its result. `asked` tells a person what for.

    Raises KvmError.
    """
    result: int = lib.pv_ioctl(fd, getattr(lib, ioctl), arg)
    if result < 0:
        raise KvmError(ioctl, -result, asked)
    return result


def call_value(fd: int, ioctl: str, arg: int = 0, asked: str = "") -> int:
    """Make the ioctl of that name with a number in place of a pointer; its result.

    Raises KvmError.
    """
    result: int = lib.pv_ioctl_value(fd, getattr(lib, ioctl), arg)
    if result < 0:
        raise KvmError(ioctl, -result, asked)
    return result


class Handle:
    """An owner of one descriptor; `with` closes it, and closing twice is no error."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close the descriptor; every call after that fails with EBADF."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
