"""Debian as a folder and as a disk, made without loop devices or mounts. Needs root."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from build import kernel_package, run

RELEASE = "bookworm"


def mmdebstrap(target: Path, suite: str, packages: Sequence[str]) -> None:
    """Unpack a minimal Debian with `packages` into the folder `target`."""
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
    run(*command, "--aptopt=APT::Install-Recommends false", suite, target)


def add_kernel(root: Path, flavour: str) -> str:
    """Unpack a kernel with its modules into the Debian at `root`; its version.

    Unpacked instead of installed: so it is the very kernel that the tests start, and nothing makes
    an initramfs that nobody asked for.
    """
    kernel = kernel_package(flavour)
    (modules,) = (kernel / "lib/modules").iterdir()
    shutil.copytree(modules, root / "usr/lib/modules" / modules.name, symlinks=True)
    shutil.copytree(kernel / "boot", root / "boot", dirs_exist_ok=True)
    run("/sbin/depmod", "-b", root, modules.name)
    return modules.name


def make_ext4(disk: Path, root: Path, size: str, *options: str) -> None:
    """A sparse image of a file system with what is in `root`."""
    run("/sbin/mke2fs", "-q", "-t", "ext4", *options, "-d", root, disk, size)


def recipe_id(*files: Path | str, kernel: str) -> str:
    """Changes with the files and the kernel that a disk is made from, so that it is made anew."""
    parts = [Path(file).read_bytes() for file in (__file__, *files)]
    return sha256(b"".join(parts) + kernel_package(kernel).name.encode()).hexdigest()[:12]
