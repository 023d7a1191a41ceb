"""Image files and block devices as disks."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.backends import disk as disk_module
from pyvmm.backends import disk_spec
from pyvmm.backends.disk import RawDisk, lock, open_image
from pyvmm.errors import HostError, UsageError

MIB = 1 << 20
OpenDisk = Callable[..., RawDisk]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(MIB))
    return path


@pytest.fixture
def opened() -> Iterator[OpenDisk]:
    """Opens disks that are closed at the end."""
    disks: list[RawDisk] = []

    def open_one(path: Path, **options: bool) -> RawDisk:
        disks.append(open_image(str(path), **options))
        return disks[-1]

    yield open_one
    for disk in disks:
        disk.close()


def read(disk: RawDisk, offset: int, length: int) -> bytes:
    data = memoryview(bytearray(length))
    disk.preadv([data[: length // 3], data[length // 3 :]], offset)
    return bytes(data)


def write(disk: RawDisk, offset: int, data: bytes) -> None:
    view = memoryview(data)
    disk.pwritev([view[: len(data) // 3], view[len(data) // 3 :]], offset)


# ---- what it is ----


def test_a_file_is_a_disk_of_its_size(image: Path, opened: OpenDisk) -> None:
    disk = opened(image)
    assert disk.size == MIB
    assert disk.block_size == 512
    assert disk.physical_block_size == os.stat(image).st_blksize
    assert disk.fd is not None
    assert not disk.read_only


@pytest.mark.parametrize(("length", "size"), [(512, 512), (1025, 1024), (4095, 3584)])
def test_what_is_no_whole_sector_is_left_out(
    tmp_path: Path, opened: OpenDisk, caplog: pytest.LogCaptureFixture, length: int, size: int
) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(bytes(length))
    with caplog.at_level(logging.WARNING):
        assert opened(path).size == size
    assert bool(caplog.records) == (length != size)
    assert all(f"the last {length - size} are not part" in text for text in caplog.messages)


@pytest.mark.parametrize("length", [0, 511])
def test_an_empty_file_is_a_disk_of_0_bytes_with_a_warning(
    tmp_path: Path, opened: OpenDisk, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    path = tmp_path / "empty.img"
    path.write_bytes(bytes(length))
    with caplog.at_level(logging.WARNING):
        assert opened(path).size == 0
    assert caplog.messages == [f"{path} has no whole block: its disk has a size of 0"]


# ---- what cannot be opened ----


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("missing.img", "there is no such file; `truncate -s 10G .*missing.img` makes an empty"),
        ("directory", "directory is a directory"),
        ("fifo", "must be a file or a block device; .*fifo is neither"),
        ("image/x", "cannot be opened: Not a directory"),
        ("a\0b", r"'.*a\\x00b' is no file name"),
        ("loop", "cannot be opened: Too many levels of symbolic links"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, name: str, wrong: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "image").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(HostError, match=wrong):
        open_image(str(tmp_path / name))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_an_unwritable_file_needs_ro(
    image: Path, opened: OpenDisk, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    really_open = os.open

    def refuse_writers(path: str, flags: int) -> int:  # as root may write everywhere
        if flags & os.O_RDWR:
            raise OSError(number, os.strerror(number))
        return really_open(path, flags)

    monkeypatch.setattr(os, "open", refuse_writers)
    with pytest.raises(HostError, match="must be writable, or attached with ro or snapshot"):
        open_image(str(image))
    assert opened(image, read_only=True).read_only


# ---- locks ----


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, True)],
)
def test_only_readers_share_an_image(
    image: Path, opened: OpenDisk, first: bool, second: bool, shared: bool
) -> None:
    opened(image, read_only=first)
    if shared:
        opened(image, read_only=second)
        return
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError, match=r"disk\.img is in use by another machine; to share it"):
        open_image(str(image), read_only=second)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_image_is_free_again_when_its_disk_is_closed(image: Path, opened: OpenDisk) -> None:
    open_image(str(image)).close()
    opened(image)


def test_a_lock_holds_against_another_process(image: Path, opened: OpenDisk) -> None:
    opened(image)
    script = f"from pyvmm.backends.disk import open_image; open_image({str(image)!r})"
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "is in use by another machine" in other.stderr


def test_a_file_system_without_locks_says_so(image: Path) -> None:
    fd = os.open(image, os.O_RDONLY)
    os.close(fd)
    with pytest.raises(HostError, match="x cannot be locked: Bad file descriptor"):
        lock(fd, "x", exclusive=True)


# ---- input and output ----


@pytest.mark.parametrize("direct", [False, True])
def test_reads_and_writes_are_where_they_should_be(
    image: Path, opened: OpenDisk, direct: bool
) -> None:
    before = image.read_bytes()
    disk = opened(image, direct=direct)
    block = disk.block_size
    assert read(disk, 3 * block, 5 * block) == before[3 * block : 8 * block]
    data = os.urandom(4 * block)
    write(disk, 7 * block, data)
    disk.flush()
    after = before[: 7 * block] + data + before[11 * block :]
    assert read(disk, 0, MIB) == image.read_bytes() == after


def test_more_buffers_than_one_call_takes(image: Path, opened: OpenDisk) -> None:
    disk, data = opened(image), memoryview(bytearray(512 * 1500))
    disk.preadv([data[at : at + 512] for at in range(0, len(data), 512)], 0)
    assert data == image.read_bytes()[: len(data)]


def test_nothing_to_do_is_done(image: Path, opened: OpenDisk) -> None:
    disk = opened(image)
    disk.preadv([], 0)
    disk.pwritev([memoryview(b"")], 0)


@pytest.mark.parametrize("limit", [1, 100, 4096])
def test_short_transfers_are_carried_on(
    image: Path, opened: OpenDisk, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    before = image.read_bytes()
    really_read, really_write = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda fd, b, at: really_read(fd, [b[0][:limit]], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, b, at: really_write(fd, [b[0][:limit]], at))
    disk = opened(image)
    assert read(disk, 512, 1536) == before[512:2048]
    write(disk, 1024, before[:1024])
    assert image.read_bytes()[1024:2048] == before[:1024]


def test_a_file_that_was_cut_short_is_an_error(image: Path, opened: OpenDisk) -> None:
    disk = opened(image)
    os.truncate(image, 4096)
    with pytest.raises(OSError, match="is shorter than it was"):
        read(disk, 0, 8192)


def test_direct_transfers_go_through_a_buffer_if_the_guests_is_misaligned(
    image: Path, opened: OpenDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a file system that is strict; some let everything pass."""
    before = image.read_bytes()
    aligned = memoryview(mmap.mmap(-1, 8 * MIB))
    really = {"preadv": os.preadv, "pwritev": os.pwritev}

    def strict(name: str) -> Callable[[int, list[memoryview], int], int]:
        def move(fd: int, buffers: list[memoryview], offset: int) -> int:
            for buffer in buffers:
                if buffer.obj is misaligned or len(buffer) % 512 or offset % 512:
                    raise OSError(errno.EINVAL, "Invalid argument")
            return really[name](fd, buffers, offset)

        return move

    misaligned = bytearray(MIB)
    for name in really:
        monkeypatch.setattr(os, name, strict(name))
    monkeypatch.setattr(disk_module, "CHUNK", 64 << 10)
    disk = opened(image, direct=True)
    view = memoryview(misaligned)
    disk.preadv([view[:100], view[100:]], 0)
    assert misaligned == before
    disk.pwritev([view[700:800], view[800:1724]], 2048)
    assert image.read_bytes() == before[:2048] + before[700:1724] + before[3072:]
    disk.preadv([aligned[:MIB]], 0)


def test_direct_blocks_are_as_large_as_the_file_system_wants(
    image: Path, opened: OpenDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(fd: int, buffers: list[memoryview], offset: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    assert opened(image, direct=True, read_only=True).block_size in (512, 4096)
    monkeypatch.setattr(os, "preadv", strict)
    assert opened(image, direct=True, read_only=True).block_size == 4096


# ---- discard and zeroes ----


def allocated(path: Path) -> int:
    return os.stat(path).st_blocks * 512


def test_discard_gives_the_space_back(image: Path, opened: OpenDisk) -> None:
    disk, before = opened(image), allocated(image)
    disk.discard(64 << 10, 512 << 10)
    assert before - allocated(image) >= 500 << 10
    assert image.stat().st_size == MIB
    disk.discard(0, MIB)
    assert allocated(image) < 64 << 10


@pytest.mark.parametrize("unmap", [False, True])
@pytest.mark.parametrize("missing", [(), ("_zero_range",), ("_zero_range", "_give_up")])
def test_zeroes_are_zeroes_whatever_the_host_can_do(
    image: Path,
    opened: OpenDisk,
    monkeypatch: pytest.MonkeyPatch,
    unmap: bool,
    missing: tuple[str, ...],
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    disk, before = opened(image), image.read_bytes()
    for name in missing:
        monkeypatch.setattr(disk, name, refuse)
    monkeypatch.setattr(disk_module, "CHUNK", 64 << 10)
    disk.write_zeroes(512, 300 << 10, unmap)
    end = 512 + (300 << 10)
    assert image.read_bytes() == before[:512] + bytes(300 << 10) + before[end:]
    if unmap and "_give_up" not in missing:
        assert allocated(image) < 800 << 10


def test_discard_where_the_host_has_none_changes_nothing(
    image: Path, opened: OpenDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    disk, before = opened(image), image.read_bytes()
    monkeypatch.setattr(disk, "_give_up", refuse)
    disk.discard(0, 4096)
    assert image.read_bytes() == before


def test_other_errors_of_zeroes_and_discard_are_told(image: Path, opened: OpenDisk) -> None:
    disk = opened(image, read_only=True)
    for change in (lambda: disk.discard(0, 512), lambda: disk.write_zeroes(0, 512, False)):
        with pytest.raises(OSError, match="Bad file descriptor"):
            change()


# ---- other sizes ----


def test_an_image_grows_and_shrinks(image: Path, opened: OpenDisk) -> None:
    disk, before = opened(image), image.read_bytes()
    disk.resize(2 * MIB)
    assert disk.size == 2 * MIB
    assert read(disk, 0, 2 * MIB) == before + bytes(MIB)
    disk.resize(MIB // 2)
    assert disk.size == MIB // 2
    assert image.read_bytes() == before[: MIB // 2]


@pytest.mark.parametrize("size", [0, -512, MIB + 1])
def test_a_size_must_be_whole_blocks(image: Path, opened: OpenDisk, size: int) -> None:
    disk = opened(image)
    with pytest.raises(UsageError, match=f"must be a multiple of 512 bytes above 0, not {size}$"):
        disk.resize(size)
    assert image.stat().st_size == disk.size == MIB


def test_an_image_that_may_not_be_written_takes_up_the_size_that_it_has(
    image: Path, opened: OpenDisk
) -> None:
    disk = opened(image, read_only=True)
    with pytest.raises(UsageError, match=r"has 1048576 bytes, which only the host can change$"):
        disk.resize(2 * MIB)
    os.truncate(image, 2 * MIB)
    disk.resize(2 * MIB)
    assert disk.size == 2 * MIB


def test_a_disk_that_is_no_snapshot_has_nothing_to_commit(image: Path, opened: OpenDisk) -> None:
    with pytest.raises(UsageError, match=r"is no snapshot: what the guest writes"):
        opened(image).commit()


# ---- block devices ----


@pytest.fixture
def device(image: Path) -> Iterator[Path]:
    setup = subprocess.run(
        ["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False
    )
    if setup.returncode:
        pytest.skip(f"no loop device: {setup.stderr.strip()}")
    yield Path(setup.stdout.strip())
    subprocess.run(["losetup", "--detach", setup.stdout.strip()], check=True)


def test_a_block_device_is_a_disk(device: Path, image: Path, opened: OpenDisk) -> None:
    disk, before = opened(device), image.read_bytes()
    assert disk.size == MIB
    assert disk.block_size == 512
    assert disk.physical_block_size >= 512
    assert disk.minimum_io >= 512
    write(disk, 512, before[:1024])
    disk.write_zeroes(4096, 4096, True)
    disk.flush()
    assert (
        read(disk, 0, 4096)
        == image.read_bytes()[:4096]
        == before[:512] + before[:1024] + before[1536:4096]
    )
    assert read(disk, 4096, 4096) == bytes(4096)
    disk.discard(64 << 10, 512 << 10)
    assert allocated(image) < MIB - (400 << 10)


def test_a_block_device_that_somebody_has_is_refused(device: Path) -> None:
    fd = os.open(device, os.O_RDONLY | os.O_EXCL)  # as mounting it does
    with pytest.raises(HostError, match="is in use: the host must unmount it first"):
        open_image(str(device))
    os.close(fd)


# ---- facts ----


def test_numbers_are_those_of_the_header() -> None:
    header = Path("/usr/include/linux/fs.h")
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    text = header.read_text()
    for name in ("BLKSSZGET", "BLKPBSZGET", "BLKIOMIN", "BLKIOOPT", "BLKDISCARD", "BLKZEROOUT"):
        found = re.search(rf"#define {name}\s+_IO\(0x12,\s*(\d+)\)", text)
        assert found
        assert getattr(disk_spec, name) == 0x1200 | int(found[1])
    assert re.search(r"#define FICLONE\s+_IOW\(0x94, 9, int\)", text)
    assert disk_spec.FICLONE == 1 << 30 | 4 << 16 | 0x94 << 8 | 9
