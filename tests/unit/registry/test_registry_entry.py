"""Where machines register, and how their entries are written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import HostError
from pyvmm.registry.entry import directory, json_text, open_directory, socket_path

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.text()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
NOBODY = 65534


@given(JSON)
def test_an_entry_is_json_whatever_is_in_its_strings(value: object) -> None:
    assert json.loads(json_text(value)) == value
    assert json_text(value).isascii()
    assert json_text(value).isprintable()


def test_a_path_that_is_no_text_becomes_json_and_the_same_path_again() -> None:
    path = os.fsdecode(b"/boot/\xff\xfe")
    assert os.fsencode(json.loads(json_text(path))) == b"/boot/\xff\xfe"


def test_the_directory_is_the_users_runtime_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert directory() == f"{tmp_path}/pyvmm"


@pytest.mark.parametrize("setting", [None, "", "relative"])
@pytest.mark.parametrize("there", [True, False])
def test_without_a_usable_setting_it_is_the_one_of_the_system_or_in_tmp(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, there: bool
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    if setting is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", setting)
    monkeypatch.setattr(os.path, "isdir", lambda path: there)
    monkeypatch.setattr(os, "stat", lambda path: os.lstat("/proc/self"))
    user = os.geteuid()
    assert directory() == (f"/run/user/{user}/pyvmm" if there else f"/tmp/pyvmm-{user}")


@needs_root
def test_the_runtime_directory_of_another_user_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.chown(tmp_path, NOBODY, -1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(HostError, match=f"must belong to user 0, not to user {NOBODY}"):
        directory()


@needs_root
def test_a_directory_that_another_user_has_made_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, -1)
    with pytest.raises(HostError, match="must belong to user 0"):
        open_directory(str(tmp_path))


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777])
def test_a_directory_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(HostError, match=r"must belong to user .* and have mode 0700"):
        open_directory(str(tmp_path), make=True)


def test_a_link_to_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(HostError, match="cannot be opened"):
        open_directory(str(tmp_path / "link"), make=True)


def test_it_is_made_for_the_user_alone(tmp_path: Path) -> None:
    os.close(open_directory(str(tmp_path / "new"), make=True))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_missing_place_for_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be opened: No such file"):
        open_directory(str(tmp_path / "missing/new"), make=True)


def test_no_directory_is_too_deep_for_a_socket(tmp_path: Path) -> None:
    import socket

    deep = tmp_path.joinpath(*["d" * 100] * 3)
    deep.mkdir(parents=True)
    deep.chmod(0o700)
    fd = open_directory(str(deep))
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(socket_path(fd, "4194304.10"))
    os.close(fd)
    assert (deep / "4194304.10.sock").is_socket()
