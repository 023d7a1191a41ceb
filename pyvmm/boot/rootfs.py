"""The initial RAM file system of a guest whose root is a directory of the host.

It has csrc/guest/init.c, drivers of the guest's kernel, and what that init is to do; see there for
the files.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence

from pyvmm import guestinit
from pyvmm.boot import ikconfig
from pyvmm.boot.bzimage import BzImage, is_bzimage
from pyvmm.boot.image import open_unpacked
from pyvmm.boot.linux_spec import SETUP_HEADER_END
from pyvmm.boot.unpack import compression_of, unpack
from pyvmm.errors import ImageError, UsageError

WORDS_SIZE = 128 << 10  # bytes of a command, and of its environment; csrc/guest/init.c
WORDS_MAX = 4096
DRIVERS = ("virtio_pci", "virtio_mmio", "virtiofs", "overlay", "virtio_console")
# What udev would load for a root that has it. A kernel may lack any of them.
MORE_DRIVERS = (
    *("virtio_blk", "virtio_net", "virtio_rng", "virtio_balloon"),
    "vmw_vsock_virtio_transport",
)
WINSIZE = struct.Struct("=4H")  # <asm-generic/termios.h> struct winsize: rows, columns, pixels

# early-userspace/buffer-format.rst: the magic and 13 fields of 8 hexadecimal digits.
_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_ALIGN = 4
_DIRECTORY, _FILE = 0o040755, 0o100755


def initramfs(
    kernel: str,
    root: str,
    *,
    mode: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    terminal: tuple[int, int] | None,
) -> bytes:
    """Make it for a `kernel` and a `root` directory; the rest is as in share_config.Rootfs.

    Raises ImageError if the kernel or a module cannot be read, UsageError for a command that is
    too long.
    """
    names = (*DRIVERS, *MORE_DRIVERS) if command else DRIVERS
    files: dict[str, bytes | None] = {"modules": None}
    for number, path in enumerate(find_modules(kernel, root, names)):
        files[f"modules/{number:03}.ko"] = read_module(path)
    files["mode"] = mode.encode()
    files["arguments"] = _words(command)
    files["environment"] = _words([f"{name}={value}" for name, value in environment.items()])
    if terminal is not None:
        columns, rows = terminal
        files["terminal"] = WINSIZE.pack(rows, columns, 0, 0)
    files["init"] = guestinit.program()
    return archive(files)


def archive(files: Mapping[str, bytes | None]) -> bytes:
    """A cpio archive in the "newc" format; what has no content is a directory."""
    out = bytearray()
    for number, (name, data) in enumerate([*files.items(), (_TRAILER, b"")], 1):
        mode = _DIRECTORY if data is None else _FILE
        path, data = name.encode() + b"\0", data or b""
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        for piece in (_MAGIC + b"".join(b"%08x" % field for field in fields) + path, data):
            out += piece
            out += bytes(-len(out) % _ALIGN)
    return bytes(out)


def release_of(kernel: str) -> str:
    """What `uname -r` will say, "" if the kernel does not tell. Raises ImageError."""
    with open_unpacked(kernel)[0] as file:
        if is_bzimage(file.read(0, min(file.size, SETUP_HEADER_END))):
            version = BzImage(file).version()
        else:
            version = ikconfig.version_of(file.read(0, file.size)).removeprefix("Linux version ")
    return version.split(" ", 1)[0]


def find_modules(kernel: str, root: str, names: Sequence[str]) -> list[str]:
    """The files of the modules `names` and of all that they need, in the order of loading.

    A name that has no file is left out: it may be built in. Raises ImageError if there are modules
    but depmod(8) has not listed them.
    """
    release = release_of(kernel)
    if not release or "/" in release:
        return []
    beside = os.path.dirname(os.path.realpath(kernel))
    for prefix in (root, os.path.join(beside, os.pardir), beside, "/"):
        folder = os.path.join(prefix, "lib/modules", release)
        if os.path.isdir(folder):
            return _with_dependencies(folder, names)
    return []


def _with_dependencies(folder: str, names: Sequence[str]) -> list[str]:
    """From modules.dep, modules.dep.5: `FILE: FILE...`, what is loaded first coming last."""
    try:
        with open(os.path.join(folder, "modules.dep")) as file:
            lines = [line.split(":", 1) for line in file if ":" in line]
    except OSError as error:
        raise ImageError(
            f"{folder} must have modules.dep, which depmod makes: {error.strerror}"
        ) from error
    needs = {_name(path): [path, *needed.split()] for path, needed in lines}
    found: dict[str, None] = {}  # a set in order
    for name in names:
        found |= dict.fromkeys(reversed(needs.get(name, [])))
    return [os.path.join(folder, path) for path in found]


def _name(path: str) -> str:
    """A module's name, in which modprobe(8) takes - and _ for the same."""
    return os.path.basename(path).split(".", 1)[0].replace("-", "_")


def read_module(path: str) -> bytes:
    """A module, unpacked: not every kernel can do that itself. Raises ImageError."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    kind = compression_of(data)
    return data if kind is None else b"".join(unpack(path, kind, data))


def _words(words: Sequence[str]) -> bytes:
    data = b"".join(os.fsencode(word) + b"\0" for word in words)
    if len(data) >= WORDS_SIZE or len(words) > WORDS_MAX:
        raise UsageError(f"A command must have up to {WORDS_MAX} words and {WORDS_SIZE - 1} bytes")
    return data
