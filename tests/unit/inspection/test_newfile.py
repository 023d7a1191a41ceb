from __future__ import annotations

import os

import pytest

from pyvmm.errors import HostError, UsageError
from pyvmm.inspection.newfile import new_file, write_at


def test_a_file_appears_when_it_is_whole_for_its_owner_alone(tmp_path):
    path = tmp_path / "core"
    path.write_bytes(b"old")
    with new_file(str(path)) as fd:
        write_at(fd, b"new", 2)
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"\0\0new"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UsageError("enough")])
def test_what_is_not_finished_leaves_nothing_behind(tmp_path, error):
    def write():
        with new_file(str(tmp_path / "core")) as fd:
            write_at(fd, b"some", 0)
            raise error

    with pytest.raises(type(error)):
        write()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(HostError, match="core cannot be written: No space"):  # noqa: SIM117
        with new_file(str(tmp_path / "core")):
            raise OSError(28, os.strerror(28))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["folder", "null", "nowhere/core"])
def test_what_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "null").symlink_to("/dev/null")
    with (
        pytest.raises((UsageError, HostError), match=f"{name} (must be a regular|cannot be writ)"),
        new_file(str(tmp_path / name)),
    ):
        pytest.fail("it was opened")


def test_a_link_is_replaced_only_if_it_leads_to_a_file(tmp_path):
    (tmp_path / "dangling").symlink_to("nothing")
    with (
        pytest.raises(HostError, match="dangling cannot be written"),
        new_file(str(tmp_path / "dangling")),
    ):
        pytest.fail("it was opened")
