"""Throw-away overlays: what a guest reads back, and that the image never changes."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.backends import disk_spec, overlay
from pyvmm.backends.disk import RawDisk, open_image
from pyvmm.backends.overlay import Clone, Overlay, open_snapshot
from pyvmm.errors import HostError

SECTORS = 100  # the last cluster is cut short
SIZE = SECTORS * 512
Snapshot = Clone | Overlay


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Snapshot]]:
    """Opens snapshots that are closed at the end."""
    snapshots: list[Snapshot] = []

    def open_one(path: Path) -> Snapshot:
        snapshots.append(open_snapshot(str(path)))
        return snapshots[-1]

    yield open_one
    for snapshot in snapshots:
        snapshot.close()


@pytest.fixture
def no_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "_clone", lambda base: None)


@pytest.fixture
def copied_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    """FICLONE as of a file system that has it, by copying."""
    really = fcntl.ioctl

    def ioctl(fd: int, request: int, arg: int | bytes = 0) -> int | bytes:
        if request != disk_spec.FICLONE:
            return really(fd, request, arg)
        assert isinstance(arg, int)
        size = os.fstat(arg).st_size
        os.pwrite(fd, os.pread(arg, size, 0), 0)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)


def read(disk: Snapshot, offset: int = 0, length: int = SIZE) -> bytes:
    data = memoryview(bytearray(length))
    disk.preadv([data[: length // 3], data[length // 3 :]], offset)
    return bytes(data)


def write(disk: Snapshot, offset: int, data: bytes) -> None:
    disk.pwritev([memoryview(data)], offset)


@st.composite
def operations(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """(what, first sector, sectors)"""
    found = []
    for _ in range(draw(st.integers(1, 12))):
        what = draw(st.sampled_from(["write", "zero", "zero and unmap", "discard", "commit"]))
        start = draw(st.integers(0, SECTORS - 1))
        found.append((what, start, draw(st.integers(1, SECTORS - start))))
    return found


@given(operations())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_overlay_reads_as_a_disk_that_was_written_to(
    tmp_path: Path, todo: list[tuple[str, int, int]]
) -> None:
    path = tmp_path / "model.img"
    kept = os.urandom(SIZE)
    path.write_bytes(kept)
    model = bytearray(kept)
    base = open_image(str(path), read_only=True)
    with closing(Overlay(base, _temporary(tmp_path))) as disk:
        for number, (what, sector, sectors) in enumerate(todo, 1):
            offset, length = sector * 512, sectors * 512
            data = bytes(length)
            if what == "write":
                data = bytes([number]) * length
                write(disk, offset, data)
            elif what == "discard":
                disk.discard(offset, length)
            elif what == "commit":
                disk.commit()
                kept = bytes(model)
                data = kept[offset : offset + length]
            else:
                disk.write_zeroes(offset, length, "unmap" in what)
            model[offset : offset + length] = data
            assert read(disk, offset, length) == data
            assert read(disk) == model
            assert path.read_bytes() == kept


def _temporary(directory: Path) -> RawDisk:
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR)
    os.ftruncate(fd, SIZE)
    return RawDisk(fd, "top")


@pytest.mark.usefixtures("no_clones")
def test_whole_clusters_are_written_without_reading_the_image(
    image: Path, opened: Callable[[Path], Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = opened(image)
    read_at: list[int] = []
    really = RawDisk.preadv

    def preadv(self: RawDisk, buffers: list[memoryview], offset: int) -> None:
        read_at.append(offset)
        really(self, buffers, offset)

    monkeypatch.setattr(RawDisk, "preadv", preadv)
    write(disk, 4096, bytes(8192))
    write(disk, SIZE - 2048, bytes(2048))  # the whole of the last one
    assert read_at == []
    write(disk, 4096 + 512, bytes(512))  # is there already
    assert read_at == []
    write(disk, 512, bytes(512))
    assert read_at == [0]


@pytest.mark.parametrize("how", ["no_clones", "copied_clones"])
def test_a_snapshot_never_changes_the_image_until_it_is_committed(
    image: Path, opened: Callable[[Path], Snapshot], request: pytest.FixtureRequest, how: str
) -> None:
    request.getfixturevalue(how)
    before = image.read_bytes()
    disk = opened(image)
    assert isinstance(disk, Clone if how == "copied_clones" else Overlay)
    assert not disk.read_only
    assert disk.size == SIZE
    assert (disk.fd is not None) == isinstance(disk, Clone)
    write(disk, 512, b"x" * 1024)
    disk.flush()
    after = before[:512] + b"x" * 1024 + before[1536:]
    assert read(disk) == after
    assert image.read_bytes() == before
    disk.commit()
    assert read(disk) == image.read_bytes() == after
    write(disk, 0, b"y" * 512)
    assert read(disk) == b"y" * 512 + after[512:]
    assert image.read_bytes() == after


@pytest.mark.parametrize("how", ["no_clones", "copied_clones"])
def test_snapshots_share_an_image_with_readers_but_not_with_writers(
    image: Path, opened: Callable[[Path], Snapshot], request: pytest.FixtureRequest, how: str
) -> None:
    request.getfixturevalue(how)
    first, second = opened(image), opened(image)
    write(first, 0, b"1" * 512)
    write(second, 0, b"2" * 512)
    assert (read(first, 0, 512), read(second, 0, 512)) == (b"1" * 512, b"2" * 512)
    with pytest.raises(HostError, match="in use"):
        open_image(str(image))
    with pytest.raises(HostError, match="in use"):
        first.commit()
    assert read(first, 0, 512) == b"1" * 512
    with pytest.raises(HostError, match="in use"):  # its own lock is there again
        second.commit()


def test_a_snapshot_needs_no_write_permission(
    image: Path, opened: Callable[[Path], Snapshot]
) -> None:
    disk = opened(image)
    base = disk._base
    assert fcntl.fcntl(base.descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY


def test_nothing_is_left_of_a_snapshot(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    disk = open_snapshot(str(image))
    write(disk, 0, bytes(512))
    assert os.listdir(tmp_path) == ["disk.img"]
    disk.close()
    assert os.listdir(tmp_path) == ["disk.img"]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("no_clones")
def test_the_file_with_the_changes_is_nobody_elses(
    image: Path, opened: Callable[[Path], Snapshot]
) -> None:
    disk = opened(image)
    assert isinstance(disk, Overlay)
    assert stat.S_IMODE(os.fstat(disk._top.descriptor).st_mode) == 0o600


@pytest.mark.usefixtures("no_clones")
def test_a_snapshot_without_a_place_for_changes_says_what_to_do(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError, match="/nonexistent takes no file for it, TMPDIR may name"):
        open_snapshot(str(image))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("no_clones")
def test_a_failed_write_leaves_what_was_there(
    image: Path, opened: Callable[[Path], Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    disk, before = opened(image), image.read_bytes()
    assert isinstance(disk, Overlay)
    monkeypatch.setattr(disk._top, "pwritev", fail)
    for offset in (0, 512, 4096):
        with pytest.raises(OSError, match="No space"):
            write(disk, offset, bytes(8192))
    assert read(disk) == before
