"""Build the Linux guests of the tests under build/guests/, from Debian packages.

    vmlinuz-generic  vmlinuz-cloud    Debian's kernels as shipped (bzImage)
    vmlinux-generic  vmlinux-cloud    what is inside them (ELF)
    kernel.bz2                        the cloud kernel's ELF, compressed as a whole file
    initramfs.img                     busybox, and the scripts and `peer.py` of this folder
    virtio.img                        a second initramfs: the cloud kernel's virtio drivers
    disk.img                          64 MiB of ext4

Every step writes to a temporary name and renames, so that a build that was stopped goes on where it
was; a step whose result exists is not done again. Run as `python guests/linux/build.py`.
"""

from __future__ import annotations

import bz2
import fcntl
import lzma
import re
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import lz4.block

SOURCE = Path(__file__).resolve().parent
BUILD = SOURCE.parents[1] / "build"
GUESTS = BUILD / "guests"
PACKAGES = BUILD / "packages"
FLAVOURS = {"generic": "linux-image-amd64", "cloud": "linux-image-cloud-amd64"}
VIRTIO = (
    *("virtio_pci", "virtio_mmio"),
    *("virtio_blk", "virtio_rng", "virtio_console", "virtio_balloon"),
    *("virtio_net", "vmw_vsock_virtio_transport"),
)
DISK_SIZE = "64M"
LZ4_LEGACY = bytes.fromhex("02214c18")  # lz4_Frame_format.md, "Legacy frame"
LZ4_LEGACY_BLOCK = 8 << 20


def run(*command: str | Path, **options: object) -> str:
    """Run a command to its end and give what it printed; raises CalledProcessError."""
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options)
    return str(done.stdout)


def make(target: Path, recipe: Callable[[Path], object]) -> Path:
    """Let `recipe` write `target` unless it exists; what is half done never bears that name."""
    if not target.exists():
        print(f"making {target.relative_to(BUILD.parent)}", flush=True)
        unfinished = target.with_name(target.name + ".partial")
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        recipe(unfinished)
        unfinished.rename(target)
    return target


@contextmanager
def only_one() -> Iterator[None]:
    """Keep a second build in the same tree waiting until this one ends."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def package(name: str) -> Path:
    """The files of a Debian package, unpacked and not installed."""

    def recipe(folder: Path) -> None:
        folder.mkdir()
        # As root, apt would download as the user _apt, who may not write here.
        run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name, cwd=folder)
        (archive,) = folder.glob("*.deb")
        run("dpkg-deb", "-x", archive, folder)
        archive.unlink()

    return make(PACKAGES / name, recipe)


def kernel_package(flavour: str) -> Path:
    """The kernel that Debian's meta package of this flavour stood for when it was first asked."""
    built = sorted(PACKAGES.glob(f"linux-image-*[0-9]{'-cloud' * (flavour == 'cloud')}-amd64"))
    if built:
        return built[-1]
    depends = run("apt-cache", "depends", FLAVOURS[flavour])
    found = re.search(r"Depends: (linux-image-[0-9]\S*)", depends)
    if found is None:
        raise SystemExit(f"apt knows no {FLAVOURS[flavour]}: run apt-get update")
    return package(found[1])


def unpack_kernel(image: bytes) -> bytes:
    """The ELF inside a bzImage compressed by xz or lz4, as Debian's are (x86/boot.rst 1.3)."""
    setup_sectors = image[0x1F1]
    offset, length = struct.unpack_from("<II", image, 0x248)  # payload_offset, payload_length
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if not payload.startswith(LZ4_LEGACY):
        return lzma.LZMADecompressor().decompress(payload)
    elf, at = bytearray(), len(LZ4_LEGACY)
    while at < length - 4:  # the last four bytes are the unpacked size
        (size,) = struct.unpack_from("<I", payload, at)
        elf += lz4.block.decompress(payload[at + 4 : at + 4 + size], LZ4_LEGACY_BLOCK)
        at += 4 + size
    return bytes(elf)


def initramfs(files: Mapping[str, bytes | Path]) -> bytes:
    """A cpio archive in the "newc" format of initramfs-buffer-format.rst, all owned by root."""
    names = {parent for name in files for parent in list(map(str, Path(name).parents))[:-1]}
    entries: dict[str, tuple[int, bytes]] = dict.fromkeys(names, (stat.S_IFDIR | 0o755, b""))
    for name, content in files.items():
        data = content.read_bytes() if isinstance(content, Path) else content
        entries[name] = (stat.S_IFREG | 0o755, data)
    out = bytearray()
    for number, (name, (mode, data)) in enumerate(
        [*sorted(entries.items()), ("TRAILER!!!", (0, b""))]
    ):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def modules(root: Path, version: str, names: Sequence[str]) -> dict[str, bytes | Path]:
    """Modules and what they need as files of an initramfs, named in the order of loading.

    `root` is where depmod has been run.
    """
    options = ("--show-depends", "--all", "--dirname", root, "--set-version", version)
    listed = run("/sbin/modprobe", *options, *names)
    paths = dict.fromkeys(line.split()[1] for line in listed.splitlines() if "insmod" in line)
    return {f"modules/{number:03}.ko": Path(path) for number, path in enumerate(paths)}


def busybox() -> Path:
    """The busybox program, linked statically."""
    return package("busybox-static") / "bin/busybox"


def build() -> None:
    """Make everything."""
    for flavour in FLAVOURS:
        (shipped,) = (kernel_package(flavour) / "boot").glob("vmlinuz-*")
        make(GUESTS / f"vmlinuz-{flavour}", partial(shutil.copyfile, shipped))
        make(GUESTS / f"vmlinux-{flavour}", partial(make_elf, shipped))
    make(GUESTS / "kernel.bz2", make_compressed)
    files = {name: SOURCE / Path(name).name for name in ("init", "bin/check", "bin/peer.py")}
    files |= {"etc/udhcpc/default.script": SOURCE / "udhcpc", "bin/busybox": busybox()}
    make_initramfs("initramfs.img", files)
    make_initramfs("virtio.img", virtio_modules())
    make(GUESTS / "disk.img", make_disk)


def make_initramfs(name: str, files: Mapping[str, bytes | Path]) -> None:
    """An initramfs, made anew when one of its files was edited."""
    content = initramfs(files)
    image = GUESTS / name
    if image.exists() and image.read_bytes() != content:
        image.unlink()
    make(image, lambda out: out.write_bytes(content))


def virtio_modules() -> dict[str, bytes | Path]:
    """The cloud kernel's virtio drivers."""
    root = kernel_package("cloud")
    (version,) = (path.name for path in (root / "lib/modules").iterdir())
    run("/sbin/depmod", "-b", root, version)
    return modules(root, version, VIRTIO)


def make_elf(shipped: Path, out: Path) -> None:
    """What is inside a bzImage."""
    out.write_bytes(unpack_kernel(shipped.read_bytes()))


def make_compressed(out: Path) -> None:
    """An ELF kernel compressed as a whole file."""
    out.write_bytes(bz2.compress((GUESTS / "vmlinux-cloud").read_bytes(), 1))


def make_disk(out: Path) -> None:
    """A file system with something to read, made without mounting it."""
    content = out.with_suffix(".content")
    content.mkdir(exist_ok=True)
    (content / "hello.txt").write_text("Hello from the disk\n")
    run("/sbin/mke2fs", "-q", "-t", "ext4", "-L", "pyvmm", "-d", content, out, DISK_SIZE)
    shutil.rmtree(content)


if __name__ == "__main__":
    with only_one():
        build()
