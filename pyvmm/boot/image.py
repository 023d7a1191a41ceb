"""What kind of image a file is, by its content alone; and the way to boot it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Protocol

from pyvmm.boot import cache, elf, multiboot, multiboot_spec, pvh
from pyvmm.boot.bzimage import BzImage, is_bzimage
from pyvmm.boot.entry import Entry
from pyvmm.boot.image_file import ImageFile
from pyvmm.boot.linux import SelfUnpacking, Vmlinux, is_linux
from pyvmm.boot.multiboot import MultibootImage
from pyvmm.boot.pvh import PvhImage
from pyvmm.boot.unpack import Unsupported, compression_of
from pyvmm.errors import ImageError, UsageError
from pyvmm.memory import GuestMemory

PROTOCOLS = ("auto", "linux", "pvh")
