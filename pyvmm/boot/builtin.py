"""Loading the built-in guest, without the loaders that it does not need."""

from __future__ import annotations

import os

from pyvmm import hello
from pyvmm.boot.entry import Entry, write_tables
from pyvmm.boot.image_file import ImageFile
from pyvmm.boot.multiboot import MultibootImage, find_header
from pyvmm.memory import GuestMemory

NAME = "hello"


def load(memory: GuestMemory) -> Entry:
    """Make `memory`, which must be all zeros, ready to enter the built-in guest."""
    data = hello.image()
    fd = os.memfd_create(NAME, os.MFD_CLOEXEC)
    os.write(fd, data)
    with ImageFile(fd, NAME, NAME) as file:
        header = find_header(data)
        assert header is not None, "guests/hello.S has one"
        entry = MultibootImage(file, header, None).load(memory, "", (), 0)
    write_tables(memory, entry)
    return entry
