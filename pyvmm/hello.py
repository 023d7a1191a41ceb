"""The built-in guest, which runs when no kernel is given: guests/hello.S, part of the extension."""

from __future__ import annotations

from pyvmm.native import ffi, lib


def image() -> bytes:
    """A Multiboot image that greets on COM1 and answers commands. Any thread."""
    return bytes(ffi.buffer(lib.pv_hello, lib.pv_hello_size))
