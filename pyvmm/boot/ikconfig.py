"""A kernel's build configuration: where it is, and what it says a guest will lack."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from pyvmm.boot.image_file import ImageFile

# kernel/configs.c: a gzip file between these two, put there by CONFIG_IKCONFIG
_START, _END = b"IKCFG_ST", b"IKCFG_ED"
_MAX = 16 << 20  # bytes of text; the largest has 300 KiB
_GZIP = 31  # zlib's wbits for a gzip header with the largest window
_VERSION = b"Linux version "
_VERSION_MAX = 512

# What a guest of this VMM needs or may use, and the option that gives it.
OPTIONS = (
    ("serial console", "CONFIG_SERIAL_8250_CONSOLE"),
    ("initrd", "CONFIG_BLK_DEV_INITRD"),
    ("KVM guest support", "CONFIG_KVM_GUEST"),
    ("PVH entry", "CONFIG_PVH"),
    ("ACPI", "CONFIG_ACPI"),
    ("PCI", "CONFIG_PCI"),
    ("virtio over PCI", "CONFIG_VIRTIO_PCI"),
    ("virtio over MMIO", "CONFIG_VIRTIO_MMIO"),
    ("virtio disk", "CONFIG_VIRTIO_BLK"),
    ("virtio network", "CONFIG_VIRTIO_NET"),
    ("virtio random numbers", "CONFIG_HW_RANDOM_VIRTIO"),
    ("virtio console", "CONFIG_VIRTIO_CONSOLE"),
    ("virtio balloon", "CONFIG_VIRTIO_BALLOON"),
    ("virtio sockets", "CONFIG_VIRTIO_VSOCKETS"),
    ("virtio file system", "CONFIG_VIRTIO_FS"),
)
_STATES = {"y": "built in", "m": "module"}


def version_of(data: bytes) -> str:
    """The release and build in an unpacked kernel, as in /proc/version; empty if none is there."""
    at = data.find(_VERSION)
    if at < 0:
        return ""
    start = at + len(_VERSION)
    line = data[start : start + _VERSION_MAX].split(b"\0", 1)[0].split(b"\n", 1)[0]
    return line.decode("ascii", "backslashreplace")


def embedded(data: bytes) -> str | None:
    """The configuration inside an unpacked kernel; None if it was built without, or is damaged."""
    start = data.find(_START)
    end = data.find(_END, start)
    if start < 0 or end < 0:
        return None
    decoder = zlib.decompressobj(_GZIP)
    try:
        text = decoder.decompress(data[start + len(_START) : end], _MAX)
    except zlib.error:
        return None
    return text.decode("utf-8", "replace")


def beside(kernel: ImageFile, release: str) -> tuple[Path, str] | None:
    """The file config-RELEASE that distributions install, next to the kernel or in /boot."""
    if not release or "/" in release:
        return None
    for folder in (Path(kernel.name).resolve().parent, Path("/boot")):
        path = folder / f"config-{release}"
        try:
            with path.open("rb") as file:
                return path, file.read(_MAX).decode("utf-8", "replace")
        except OSError:
            continue
    return None


def states(text: str) -> Sequence[tuple[str, str]]:
    """For each of OPTIONS: what it is for, and "built in", "module" or "absent"."""
    chosen = dict(line.split("=", 1) for line in text.splitlines() if line.startswith("CONFIG_"))
    return [
        (purpose, f"{_STATES.get(chosen.get(option, ''), 'absent')} ({option})")
        for purpose, option in OPTIONS
    ]
