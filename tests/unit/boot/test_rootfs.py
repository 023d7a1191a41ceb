"""The initial RAM file system of a guest whose root is a directory."""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm import guestinit, layout
from pyvmm.boot import rootfs
from pyvmm.errors import ImageError, UsageError

ROOT = Path(__file__).parents[3]
INIT_C = (ROOT / "csrc/guest/init.c").read_text()
RELEASE = "6.1.0-test"
DEPENDENCIES = """\
kernel/virtio_pci.ko: kernel/virtio_ring.ko kernel/virtio.ko
kernel/virtio_ring.ko: kernel/virtio.ko
kernel/virtio.ko:
kernel/fs/virtiofs.ko.xz: kernel/fs/fuse.ko kernel/virtio_ring.ko kernel/virtio.ko
kernel/virtio-console.ko: kernel/virtio.ko
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory with modules."""
    folder = tmp_path / "root/lib/modules" / RELEASE
    folder.mkdir(parents=True)
    (folder / "modules.dep").write_text(DEPENDENCIES)
    for path in [*re.findall(r"^(\S+):", DEPENDENCIES, re.M), "kernel/fs/fuse.ko"]:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        data = file.name.split(".")[0].encode()
        file.write_bytes(lzma.compress(data) if file.suffix == ".xz" else data)
    return tmp_path / "root"


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setattr(rootfs, "release_of", lambda kernel: RELEASE)
    return str(tmp_path / "boot/vmlinuz")


def unpacked(archive: bytes, folder: Path) -> dict[str, bytes]:
    """What cpio(1) finds in it."""
    busybox = shutil.which("busybox")
    program = [shutil.which("cpio")] if shutil.which("cpio") else busybox and [busybox, "cpio"]
    if not program:
        pytest.skip("cpio is not installed (cpio)")
    folder.mkdir()
    subprocess.run([*program, "-i", "-d"], input=archive, cwd=folder, check=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def make(kernel: str, root: Path, **more: object) -> bytes:
    settings = {"mode": "overlay", "command": (), "environment": {}, "terminal": None} | more
    return rootfs.initramfs(kernel, str(root), **settings)


def test_it_has_init_the_drivers_in_order_and_what_to_do(
    kernel: str, root: Path, tmp_path: Path
) -> None:
    command = {"command": ("ls", "a b", "ü"), "environment": {"A": "1", "B": ""}}
    archive = make(kernel, root, terminal=(80, 24), **command)
    files = unpacked(archive, tmp_path / "found")
    names = [b"virtio", b"virtio_ring", b"virtio_pci", b"fuse", b"virtiofs", b"virtio-console"]
    assert [files.pop(f"modules/{number:03}.ko") for number in range(len(names))] == names
    assert files == {
        "init": guestinit.program(),
        "mode": b"overlay",
        "arguments": "ls\0a b\0ü\0".encode(),
        "environment": b"A=1\0B=\0",
        "terminal": rootfs.WINSIZE.pack(24, 80, 0, 0),
    }


def test_init_can_be_executed_by_all(kernel: str, root: Path, tmp_path: Path) -> None:
    unpacked(make(kernel, root), tmp_path / "found")
    assert (tmp_path / "found/init").stat().st_mode & 0o777 == 0o755


def test_init_is_a_static_program(tmp_path: Path) -> None:
    program = guestinit.program()
    assert program[:5] == b"\x7fELF\x02"
    assert b"/lib64/ld-linux" not in program


def test_a_kernel_without_modules_has_everything_built_in(kernel: str, tmp_path: Path) -> None:
    files = unpacked(make(kernel, tmp_path / "none"), tmp_path / "found")
    assert [name for name in files if name.startswith("modules")] == []


def test_modules_beside_the_kernel_will_do(kernel: str, root: Path, tmp_path: Path) -> None:
    Path(kernel).parent.mkdir()
    (root / "lib").rename(tmp_path / "lib")
    assert rootfs.find_modules(kernel, str(root), ["virtio"]) != []


def test_modules_that_nobody_has_listed_are_refused(kernel: str, root: Path) -> None:
    (root / "lib/modules" / RELEASE / "modules.dep").unlink()
    with pytest.raises(ImageError, match=r"must have modules\.dep, which depmod makes"):
        make(kernel, root)


def test_a_damaged_module_is_refused(kernel: str, root: Path) -> None:
    (root / "lib/modules" / RELEASE / "kernel/fs/virtiofs.ko.xz").write_bytes(b"\xfd7zXZ\0bad")
    with pytest.raises(ImageError, match=r"virtiofs\.ko\.xz"):
        make(kernel, root)


@pytest.mark.parametrize(
    "command", [["x" * rootfs.WORDS_SIZE], ["x"] * (rootfs.WORDS_MAX + 1)], ids=["bytes", "words"]
)
def test_a_command_that_is_too_long_is_refused(kernel: str, root: Path, command: list[str]) -> None:
    with pytest.raises(UsageError, match="A command must have up to 4096 words and 131071 bytes"):
        make(kernel, root, command=command)


@pytest.mark.parametrize("kind", ["vmlinuz", "vmlinux"])
def test_a_kernel_tells_its_release(kind: str) -> None:
    image = ROOT / f"build/guests/{kind}-cloud"
    if not image.exists():
        pytest.skip(f"{image.name} is not built (make guests)")
    assert re.fullmatch(r"6\.1\.0-\d+-cloud-amd64", rootfs.release_of(str(image)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EXIT_STATUS_PORT", layout.EXIT_STATUS_PORT),
        ("WORDS_SIZE", rootfs.WORDS_SIZE),
        ("WORDS_MAX", rootfs.WORDS_MAX),
    ],
)
def test_init_and_pyvmm_agree(name: str, value: int) -> None:
    (text,) = re.findall(rf"\b{name} = ([^,]*),", INIT_C)
    assert eval(text) == value
