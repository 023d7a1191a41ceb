"""`pyvmm run --disk` as a user meets it who makes mistakes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from command import COMMAND, PATIENCE, PROMPT, Running, complaint, pyvmm

TREE = str(Path(__file__).parents[2])
EXIT = b"exit 4\r"  # a command of the built-in guest, for status 9


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


def run(*disks: str | Path, stdin: bytes = EXIT) -> subprocess.CompletedProcess[bytes]:
    arguments = [word for disk in disks for word in ("--disk", str(disk))]
    return pyvmm("run", "--memory", "16M", *arguments, stdin=stdin)


def test_a_machine_has_the_disks_that_it_was_given(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "a,b.img"
    other.write_bytes(bytes(4096))
    done = run(f"{image},ro", f"{image},snapshot", str(other).replace(",", ",,") + ",serial=S1")
    assert (done.returncode, done.stderr) == (9, b"")


def test_an_image_can_be_given_twice_only_to_read(image: Path) -> None:
    assert run(f"{image},ro", f"{image},ro").returncode == 9
    done = run(f"{image},ro", image)
    assert done.returncode == 1
    assert "disk.img is in use" in complaint(done)


def test_disks_can_be_named_in_a_file(image: Path, tmp_path: Path) -> None:
    config = tmp_path / "machine.toml"
    for value in (f'"{image}"', f'["{image},ro", "{image},ro"]'):
        config.write_text(f'memory = "16M"\ndisk = {value}\n')
        assert pyvmm("run", "--config", str(config), stdin=EXIT).returncode == 9


@pytest.mark.parametrize(
    ("disk", "status", "wrong"),
    [
        ("", 2, "A disk must be PATH[,format=raw|qcow2]"),
        ("disk.img,readonly", 2, "A disk has no option 'readonly'; there are format, ro, snapshot"),
        ("disk.img,ro,ro", 2, "the option ro twice"),
        ("disk.img,ro,snapshot", 2, "either ro or a snapshot"),
        ("disk.img,cache=fast", 2, "cache must be writeback or none or writethrough, not 'fast'"),
        ("disk.img,bps=0x10", 2, "bps must be a number"),
        ("missing.img", 1, "missing.img: there is no such file; `truncate -s 10G"),
        (".", 1, "must be a file or a block device"),
        ("/dev/null", 1, "must be a file or a block device; /dev/null is neither"),
    ],
)
def test_a_disk_that_cannot_be_is_one_clear_line(
    image: Path, disk: str, status: int, wrong: str
) -> None:
    done = pyvmm("run", "--disk", disk, cwd=image.parent, env=os.environ | {"PYTHONPATH": TREE})
    assert done.returncode == status
    assert wrong in complaint(done)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_an_unwritable_image_needs_ro(image: Path) -> None:
    folder = image.parent
    mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
    command = ("unshare", "-m", "sh", "-c", f'{mount}; exec "$@"', "sh", *COMMAND)
    done = pyvmm("run", "--disk", str(image), command=command)
    assert done.returncode == 1
    assert "must be writable, or attached with ro or snapshot" in complaint(done)
    for disk in (f"{image},ro", f"{image},snapshot"):
        arguments = ("run", "--memory", "16M", "--disk", disk)
        assert pyvmm(*arguments, command=command, stdin=EXIT).returncode == 9


@pytest.mark.parametrize("length", [0, 300, 5000])
def test_an_odd_image_is_served_with_a_warning(image: Path, length: int) -> None:
    image.write_bytes(bytes(length))
    done = run(image)
    assert done.returncode == 9
    assert "disk" in complaint(done)


def test_a_second_machine_is_told_that_the_image_is_in_use(image: Path) -> None:
    with Running("--memory", "16M", "--disk", str(image)) as first:
        first.expect(PROMPT)
        for disk in (image, f"{image},ro", f"{image},snapshot"):
            done = run(disk)
            assert done.returncode == 1
            assert "disk.img is in use by another machine" in complaint(done)
        first.process.kill()
        first.process.wait(PATIENCE)
    assert run(image).returncode == 9


def test_a_machine_without_disks_loads_nothing_of_them() -> None:
    code = (
        "import sys; from pyvmm import cli\n"
        "status = cli.main(['run', '--memory', '16M'])\n"
        "print(status, [name for name in sys.modules if 'disk' in name or 'virtio' in name])"
    )
    done = pyvmm(command=(COMMAND[0], "-c", code), stdin=EXIT)
    assert done.stdout.endswith(b"9 []\n"), done.stdout
