"""Build the nested host of the tests ("L1") under build/nested/, from Debian packages.

    emulator/                    QEMU 10 of Debian 13 with the libraries it needs, run in place
    l1-ID/disk.img               Debian 12 with Python, a compiler, QEMU 7.2, the generic kernel and
                                 tools for networks
    l1-ID/{vmlinuz,initramfs.img}  how it starts; ID changes with the recipe

QEMU emulates AMD's SVM, so L1 has a real /dev/kvm without help from the machine. Debian 12's own
QEMU would do but for two faults: guests warn of their XSAVE state with a call trace, and hardware
breakpoints never fire. Run as root: `python guests/linux/nested.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bootstrap import RELEASE, add_kernel, make_ext4, mmdebstrap, recipe_id

from build import BUILD, SOURCE, busybox, initramfs, make, modules, only_one

NESTED = BUILD / "nested"
EMULATOR = NESTED / "emulator"
EMULATOR_PACKAGES = ("qemu-system-x86", "qemu-system-data", "seabios", "ipxe-qemu")
L1_PACKAGES = (
    *("python3", "python3-cffi", "python3-lz4", "python3-pyelftools", "python3-zstandard"),
    *("python3-pytest", "python3-hypothesis", "python3-prompt-toolkit"),
    *("gcc", "libc6-dev", "kmod", "iproute2", "strace", "busybox-static"),
    *("qemu-system-x86", "qemu-system-data", "seabios", "ipxe-qemu"),
    *("qemu-utils", "e2fsprogs"),
    *("curl", "gdb", "iperf3", "libslirp0", "passt", "tshark"),
)
FLAVOUR = "generic"
DISK_SIZE = "4G"  # sparse
# What the initramfs needs to find the disk and the shared work tree.
MODULES = ("virtio_pci", "virtio_blk", "ext4", "9pnet_virtio", "9p", "overlay")


def make_l1(target: Path) -> None:
    """Build L1's three files in the folder `target`."""
    root = target / "root"
    root.mkdir(parents=True)
    mmdebstrap(root, RELEASE, L1_PACKAGES)
    version = add_kernel(root, FLAVOUR)
    shutil.move(root / f"boot/vmlinuz-{version}", target / "vmlinuz")
    files = {"init": SOURCE / "l1-init", "bin/busybox": busybox()}
    content = initramfs(files | modules(root, version, MODULES))
    (target / "initramfs.img").write_bytes(content)
    options = ("-E", "lazy_itable_init=1,lazy_journal_init=1")
    make_ext4(target / "disk.img", root, DISK_SIZE, *options)
    shutil.rmtree(root)


def build() -> Path:
    """Make what is missing and give the folder of L1's files."""
    make(EMULATOR, lambda target: mmdebstrap(target, "trixie", EMULATOR_PACKAGES))
    l1 = NESTED / f"l1-{recipe_id(__file__, SOURCE / 'l1-init', kernel=FLAVOUR)}"
    for old in NESTED.glob("l1-*"):
        if not old.name.startswith(l1.name):
            shutil.rmtree(old)
    return make(l1, make_l1)


if __name__ == "__main__":
    with only_one():
        build()
