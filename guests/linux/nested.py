"""Build the nested host of the tests ("L1") under build/nested/, from Debian packages.

    emulator/                    QEMU 10 of Debian 13 with the libraries it needs, run in place
    l1-ID/disk.img               Debian 12 with Python, a compiler, QEMU 7.2 and the generic kernel
    l1-ID/{vmlinuz,initramfs.img}  how it starts; ID changes with the recipe

QEMU emulates AMD's SVM, so L1 has a real /dev/kvm without help from the machine. Debian 12's own
QEMU would do but for two faults: guests warn of their XSAVE state with a call trace, and hardware
breakpoints never fire. Run as root: `python guests/linux/nested.py`.
"""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

from build import BUILD, SOURCE, busybox, initramfs, kernel_package, make, only_one, run

NESTED = BUILD / "nested"
EMULATOR = NESTED / "emulator"
EMULATOR_PACKAGES = ("qemu-system-x86", "qemu-system-data", "seabios", "ipxe-qemu")
L1_PACKAGES = (
    *("python3", "python3-cffi", "python3-lz4", "python3-pyelftools", "python3-zstandard"),
    *("python3-pytest", "python3-hypothesis"),
    *("gcc", "libc6-dev", "kmod", "iproute2", "strace", "busybox-static"),
    *("qemu-system-x86", "qemu-system-data", "seabios", "ipxe-qemu"),
)
DISK_SIZE = "4G"  # sparse
# What the initramfs needs to find the disk and the shared work tree.
MODULES = ("virtio_pci", "virtio_blk", "ext4", "9pnet_virtio", "9p", "overlay")


def mmdebstrap(target: Path, suite: str, packages: tuple[str, ...]) -> None:
    """Unpack a minimal Debian with `packages` into the folder `target`."""
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
    run(*command, "--aptopt=APT::Install-Recommends false", suite, target)


def make_l1(target: Path) -> None:
    """Build L1's three files in the folder `target`."""
    kernel = kernel_package("generic")
    (version,) = (path.name for path in (kernel / "lib/modules").iterdir())
    root = target / "root"
    root.mkdir(parents=True)
    mmdebstrap(root, "bookworm", L1_PACKAGES)
    # Unpacked instead of installed: an installed kernel would want an initramfs of its own.
    shutil.copytree(kernel / "lib/modules", root / "usr/lib/modules", symlinks=True)
    run("/sbin/depmod", "-b", root, version)
    shutil.copyfile(kernel / f"boot/vmlinuz-{version}", target / "vmlinuz")
    (target / "initramfs.img").write_bytes(l1_initramfs(root, version))
    disk = target / "disk.img"
    options = ("-E", "lazy_itable_init=1,lazy_journal_init=1")
    run("/sbin/mke2fs", "-q", "-t", "ext4", *options, "-d", root, disk, DISK_SIZE)
    shutil.rmtree(root)


def l1_initramfs(root: Path, version: str) -> bytes:
    """Busybox, and the modules in the order in which they must be loaded."""
    options = ("--show-depends", "--all", "--dirname", root, "--set-version", version)
    listed = run("/sbin/modprobe", *options, *MODULES)
    paths = dict.fromkeys(line.split()[1] for line in listed.splitlines() if "insmod" in line)
    files: dict[str, bytes | Path] = {"init": SOURCE / "l1-init", "bin/busybox": busybox()}
    for number, path in enumerate(paths):
        files[f"modules/{number:03}.ko"] = Path(path)
    return initramfs(files)


def recipe_id() -> str:
    """Changes with everything that L1 is made from, so that an old L1 is made anew."""
    parts = (Path(__file__).read_bytes(), (SOURCE / "l1-init").read_bytes())
    return sha256(b"".join(parts) + kernel_package("generic").name.encode()).hexdigest()[:12]


def build() -> Path:
    """Make what is missing and give the folder of L1's files."""
    make(EMULATOR, lambda target: mmdebstrap(target, "trixie", EMULATOR_PACKAGES))
    l1 = NESTED / f"l1-{recipe_id()}"
    for old in NESTED.glob("l1-*"):
        if not old.name.startswith(l1.name):
            shutil.rmtree(old)
    return make(l1, make_l1)


if __name__ == "__main__":
    with only_one():
        build()
