from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.boot.image_file import ImageFile
from pyvmm.errors import ImageError
from pyvmm.memory import HUGEPAGE, GuestMemory
from pyvmm.native import ffi

Save = Callable[..., str]


def test_a_copy_puts_the_bytes_where_asked_and_nothing_beside(
    memory: GuestMemory, save: Save
) -> None:
    data = bytes(range(1, 256)) * 1000
    with ImageFile.open(save(data)) as file:
        file.copy_into(memory, 0x10_0003, 7, len(data) - 20)
    assert memory.read(0x10_0003, len(data) - 20) == data[7:-13]
    assert memory.read(0x10_0000, 3) == bytes(3)
    assert memory.u8(0x10_0003 + len(data) - 20) == 0


def test_holes_leave_guest_pages_untouched(memory: GuestMemory, tmp_path: Path) -> None:
    path = tmp_path / "image"
    size = 8 * HUGEPAGE
    with path.open("wb") as out:
        for at in (HUGEPAGE, 5 * HUGEPAGE):
            out.seek(at)
            out.write(b"x" * HUGEPAGE)
        out.truncate(size)
    with ImageFile.open(path) as file:
        file.copy_into(memory, 2 * HUGEPAGE, 0, size)
    assert list(memory.touched()) == [(3 * HUGEPAGE, HUGEPAGE), (7 * HUGEPAGE, HUGEPAGE)]
    assert memory.read(7 * HUGEPAGE, HUGEPAGE) == b"x" * HUGEPAGE


@pytest.mark.parametrize(("size", "huge"), [(HUGEPAGE - 1, False), (HUGEPAGE, True)])
def test_only_a_large_image_gets_the_guest_huge_pages(
    memory: GuestMemory, save: Save, size: int, huge: bool
) -> None:
    with ImageFile.open(save(bytes(size))) as file:
        file.copy_into(memory, 0x10_0000, 0, size)
    assert uses_huge_pages(memory) == huge


def uses_huge_pages(memory: GuestMemory) -> bool:
    """Whether the host was told so, proc(5) "VmFlags"."""
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(memory.regions[0].view)))
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(span[1], 16) <= address < int(span[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return " hg" in line
    raise AssertionError("The memory is not mapped")


def test_reading_past_the_end_is_a_truncated_file(memory: GuestMemory, save: Save) -> None:
    with ImageFile.open(save(b"x" * 100)) as file:
        assert file.read(90, 10) == b"x" * 10
        with pytest.raises(ImageError, match="is truncated: it has only 100 bytes"):
            file.read(91, 10)
        with pytest.raises(ImageError, match="is truncated"):
            file.copy_into(memory, 0, 50, 51)


def test_a_file_that_shrinks_while_it_is_read_is_truncated(memory: GuestMemory, save: Save) -> None:
    path = save(b"x" * 100)
    with ImageFile.open(path) as file:
        os.truncate(path, 50)
        with pytest.raises(ImageError, match="is truncated"):
            file.read(0, 100)
        with pytest.raises(ImageError, match="is truncated"):
            file.copy_into(memory, 0, 0, 100)


def test_what_is_no_readable_file_is_refused_with_its_name(tmp_path: Path, save: Save) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, reason in (
        (str(tmp_path / "missing"), "cannot be opened: No such file"),
        (str(tmp_path), "is a directory"),
        (str(tmp_path / "fifo"), "is a device or pipe"),
        ("/dev/null", "is a device or pipe"),
        (save(b"", "nothing"), "is empty"),
        ("a\0b", "cannot be opened"),
    ):
        with pytest.raises(ImageError, match=reason):
            ImageFile.open(path)


def test_the_identity_follows_the_content_not_the_name(save: Save, tmp_path: Path) -> None:
    first = Path(save(b"one"))
    with ImageFile.open(first) as file:
        before = file.identity
    first.rename(tmp_path / "renamed")
    os.utime(tmp_path / "renamed", ns=(0, 0))
    with ImageFile.open(tmp_path / "renamed") as file:
        assert file.identity != before
