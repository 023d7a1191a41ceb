from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.boot import cache
from pyvmm.boot.image_file import ImageFile
from pyvmm.errors import ImageError
from tests.fakes import images

Save = Callable[..., str]
DATA = b"kernel" * 50_000 + bytes(1 << 20) + b"end"


class Unpacking:
    """How often something was really unpacked."""

    count = 0

    def __call__(self, text: str) -> None:
        self.count += 1


def fetch(path: str, offset: int = 0, progress: Unpacking | None = None) -> bytes:
    with ImageFile.open(path) as source:
        length = source.size - offset
        with cache.unpacked(source, "gzip", offset, length, progress) as file:
            return file.read(0, file.size)


def entries(home: Path) -> list[Path]:
    return sorted((home / "pyvmm" / "kernels").iterdir())


@pytest.fixture
def packed(save: Save) -> str:
    return save(images.compress("gzip", DATA), "kernel.gz")


def test_the_second_start_does_not_unpack_again(packed: str) -> None:
    first, second = Unpacking(), Unpacking()
    assert fetch(packed, progress=first) == DATA
    assert fetch(packed, progress=second) == DATA
    assert first.count > 0
    assert second.count == 0


def test_a_copy_elsewhere_is_found_by_content(packed: str, save: Save) -> None:
    fetch(packed)
    copy, progress = save(Path(packed).read_bytes(), "copy"), Unpacking()
    assert fetch(copy, progress=progress) == DATA
    assert progress.count == 0


def test_an_old_file_is_found_without_reading_it(
    packed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SETTLED_NS", 0)
    fetch(packed)
    monkeypatch.setattr(ImageFile, "read", None)
    with ImageFile.open(packed) as source:
        cache.unpacked(source, "gzip", 0, source.size).close()


def test_a_file_written_just_now_is_not_trusted_by_its_time_stamps(
    packed: str, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SETTLED_NS", 1 << 62)
    fetch(packed)
    assert not any(path.is_symlink() for path in entries(cache_home))


def test_a_changed_file_is_unpacked_anew(packed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_SETTLED_NS", 0)
    fetch(packed)
    Path(packed).write_bytes(images.compress("gzip", b"another"))
    assert fetch(packed) == b"another"


def test_zeros_are_kept_as_holes(packed: str, cache_home: Path) -> None:
    fetch(packed)
    (stored,) = (path for path in entries(cache_home) if not path.is_symlink())
    assert stored.stat().st_size == len(DATA)
    assert stored.stat().st_blocks * 512 < len(DATA) - (1 << 19)


def test_damaged_data_leaves_nothing_behind(save: Save, cache_home: Path) -> None:
    data = images.compress("gzip", os.urandom(3 << 20))
    with pytest.raises(ImageError, match="damaged"):
        fetch(save(data[:-100]))
    assert entries(cache_home) == []


def test_an_interrupted_unpacking_leaves_nothing_behind(packed: str, cache_home: Path) -> None:
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with ImageFile.open(packed) as source, pytest.raises(KeyboardInterrupt):
        cache.unpacked(source, "gzip", 0, source.size, interrupt)
    assert entries(cache_home) == []


def test_the_least_recently_used_are_deleted_above_the_limit(
    save: Save, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SETTLED_NS", 0)
    monkeypatch.setattr(cache, "LIMIT", 1_000_000)  # three of them
    contents = [os.urandom(300_000) for _ in range(4)]
    paths = [save(images.compress("gzip", data), str(index)) for index, data in enumerate(contents)]
    for index in (0, 1):
        fetch(paths[index])
    for stored in entries(cache_home):
        os.utime(stored, ns=(0, contents.index(stored.read_bytes())))
    fetch(paths[0])  # the older of the two is now the one used last
    for index in (2, 3):
        fetch(paths[index])
    kept = {path.read_bytes() for path in entries(cache_home)}
    assert kept == {contents[index] for index in (0, 2, 3)}
    assert not any(path.is_symlink() and not path.exists() for path in entries(cache_home))


@pytest.mark.parametrize(
    "environment",
    [
        {"XDG_CACHE_HOME": "/proc/nowhere"},
        {"XDG_CACHE_HOME": "relative", "HOME": "/proc/nowhere"},
        {"XDG_CACHE_HOME": "", "HOME": ""},
    ],
)
def test_without_a_usable_directory_it_unpacks_every_time(
    environment: dict[str, str], packed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = sorted(path.name for path in tmp_path.iterdir())
    first, second = Unpacking(), Unpacking()
    assert fetch(packed, progress=first) == DATA
    assert fetch(packed, progress=second) == DATA
    assert second.count > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_full_disk_is_no_error(
    packed: str, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fail)
    assert fetch(packed) == DATA
    assert entries(cache_home) == []


def test_a_relative_cache_home_is_ignored_for_the_one_in_home(
    packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    fetch(packed)
    assert entries(tmp_path / ".cache")
