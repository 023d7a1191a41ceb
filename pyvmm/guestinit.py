"""The first process of a guest with a root directory: csrc/guest/init.c, part of the extension."""

from __future__ import annotations

from pyvmm.native import ffi, lib


def program() -> bytes:
    """An ELF program that needs no library. Any thread."""
    return bytes(ffi.buffer(lib.pv_init, lib.pv_init_size))
