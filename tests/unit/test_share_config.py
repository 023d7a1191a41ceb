"""Shared directories, roots and commands as values and as options."""

from __future__ import annotations

import os

import pytest

from pyvmm import Console, MachineConfig, Rootfs, Share, StandardFiles
from pyvmm.cli import _parser, config_of
from pyvmm.errors import UsageError
from pyvmm.share_config import ENVIRONMENT, parse_rootfs, parse_share


def config(*words: str) -> MachineConfig:
    return config_of(_parser().parse_args(["run", "vmlinuz", *words]))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("dir:tag", Share("tag", "dir")),
        ("dir:tag,ro", Share("tag", "dir", ro=True)),
        ("a:b:tag", Share("tag", "a:b")),
        ("a,,b:tag,ro", Share("tag", "a,b", ro=True)),
    ],
)
def test_a_share_is_a_directory_and_a_tag(text: str, share: Share) -> None:
    assert parse_share(text) == share
    assert share.shares_memory


@pytest.mark.parametrize(
    "text", ["", "dir", ":tag", "dir:", "dir:tag,rw", "dir:tag,ro,ro", "a\0:t"]
)
def test_a_share_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"must be (DIR:TAG\[,ro\]|a file name)"):
        parse_share(text)


@pytest.mark.parametrize("tag", ["t" * 37, "ü" * 19, "a\n"])
def test_a_tag_must_fit(tag: str) -> None:
    with pytest.raises(UsageError, match="up to 36 bytes"):
        Share(tag, "dir").check()
    Share("ü" * 18, "dir").check()


@pytest.mark.parametrize(("text", "mode"), [("dir", "overlay"), ("dir,ro", "ro"), ("dir,rw", "rw")])
def test_a_root_directory_has_a_mode(text: str, mode: str) -> None:
    assert parse_rootfs(text) == Rootfs(path="dir", mode=mode)


@pytest.mark.parametrize("text", ["", ",ro", "dir,overlay", "dir,ro,rw"])
def test_a_root_directory_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"must be DIR\[,ro\|,rw\]"):
        parse_rootfs(text)


def test_a_root_must_be_given_a_kernel() -> None:
    with pytest.raises(UsageError, match="must have a KERNEL"):
        Rootfs(path="/").initramfs(None)


def test_a_machine_has_the_shares_that_it_was_given() -> None:
    machine = config("--share", "a:one", "--share", "b:two,ro", "--rootfs", "c")
    assert machine.devices == (Share("one", "a"), Share("two", "b", ro=True), Rootfs(path="c"))
    assert machine.serial == ("stdio",)
    assert machine.boot.cmdline is None


def test_two_shares_must_not_have_the_same_tag() -> None:
    with pytest.raises(UsageError, match="there are two 'root'"):
        config("--share", "a:root", "--rootfs", "c").check()


def test_a_command_without_a_terminal_has_our_standard_files() -> None:
    machine = config("--rootfs", "c,ro", "--", "ls", "-l", "--", "x")
    rootfs = Rootfs(path="c", mode="ro", command=["ls", "-l", "--", "x"])
    assert machine.devices == (rootfs, StandardFiles())
    assert machine.serial == ("none",)
    assert machine.boot.cmdline == "console=ttyS0 quiet"


def test_a_command_on_a_terminal_has_one_of_that_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setattr(os, "get_terminal_size", lambda: os.terminal_size((100, 30)))
    monkeypatch.setenv("TERM", "vt100")
    machine = config("--rootfs", "c", "--append", "x", "--", "sh")
    environment = ENVIRONMENT | {"TERM": "vt100"}
    rootfs = Rootfs(path="c", command=["sh"], environment=environment, terminal=(100, 30))
    assert machine.devices == (rootfs, Console("hvc0", "stdio"))
    assert machine.boot.cmdline == "x"


def test_one_standard_file_that_is_no_terminal_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: fd != 2)
    assert config("--rootfs", "c", "--", "sh").devices[-1] == StandardFiles()


def test_a_command_needs_a_root() -> None:
    with pytest.raises(UsageError, match="must have the --rootfs DIR"):
        config("--", "ls")


def test_disks_consoles_and_shares_go_together() -> None:
    machine = config("--disk", "a.img", "--console", "hvc0=none", "--share", "a:one")
    assert [device.name for device in machine.devices] == ["vda", "hvc0", "one"]
