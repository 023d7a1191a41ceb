"""Disks as values and as options."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import pyvmm
from pyvmm.backends.overlay import Clone, Overlay
from pyvmm.disk_config import Disk, drive_name, parse_disk, parse_disks
from pyvmm.errors import HostError, UsageError
from pyvmm.loop import Loop
from pyvmm.peripherals import Host
from pyvmm.virtio.blk import Blk


@pytest.fixture
def host() -> Host:
    return Host(3, Loop(), lambda reason: lambda: None, print, lambda *_: None, ExitStack())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    return path


def test_disks_are_named_as_linux_names_them() -> None:
    names = [drive_name(index) for index in (0, 1, 25, 26, 27, 701, 702)]
    assert names == ["vda", "vdb", "vdz", "vdaa", "vdab", "vdzz", "vdaaa"]
    assert [disk.name for disk in parse_disks(["b.img", "a.img"])] == ["vda", "vdb"]


def test_a_path_alone_is_a_disk() -> None:
    assert parse_disk("a.img", "vda") == Disk("vda", "a.img")


def test_every_option_has_its_field() -> None:
    text = (
        "a.img,format=raw,ro,cache=writethrough,serial=S1,queues=2,discard=off,werror=stop,"
        "iops=100,bps=10M,packed=on"
    )
    assert parse_disk(text, "vda") == Disk(
        "vda",
        "a.img",
        format="raw",
        ro=True,
        cache="writethrough",
        serial="S1",
        queues=2,
        discard=False,
        werror="stop",
        iops=100,
        bps="10M",
        packed=True,
    )
    assert parse_disk("a.img,snapshot", "vda").snapshot


@pytest.mark.parametrize(
    ("text", "path", "ro"),
    [("a,,b.img", "a,b.img", False), ("a,,,ro", "a,", True), ("a,,,,b,ro", "a,,b", True)],
)
def test_two_commas_are_one_of_the_path(text: str, path: str, ro: bool) -> None:
    assert parse_disk(text, "vda") == Disk("vda", path, ro=ro)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "must be PATH[,format=raw|qcow2][,ro]"),
        (",ro", "must be PATH"),
        ("a\0b", "must be a file name"),
        ("a,", "no option ''; there are format, ro, snapshot, cache"),
        ("a,readonly", "no option 'readonly'; there are format, ro,"),
        ("a,ro,ro", "the option ro twice"),
        ("a,cache=none,cache=none", "the option cache twice"),
        ("a,ro=on", "ro must be given without a value, not with 'on'"),
        ("a,cache", "cache must be given as cache=writeback|none|writethrough"),
        ("a,cache=", "cache must be given as"),
        ("a,cache=unsafe", "cache must be writeback or none or writethrough, not 'unsafe'"),
        ("a,format=vmdk", "format must be raw or qcow2, not 'vmdk'"),
        ("a,discard=maybe", "discard must be on or off, not 'maybe'"),
        ("a,queues=many", "queues must be a number from 0 to 64, not 'many'"),
        ("a,queues=65", "queues must be a number from 0 to 64, not 65"),
        ("a,iops=-1", "iops must be a number"),
        ("a,iops=" + "9" * 5000, "iops must be a number"),
        ("a,bps=fast", "bps must be a number with K, M, G or T"),
        ("a,serial=" + "x" * 21, "serial must be at most 20 ASCII characters"),
        ("a,serial=\u00fc", "serial must be at most 20 ASCII characters"),
        ("a,ro,snapshot", "either ro or a snapshot"),
        ("a.qcow2,serial=S", "serial cannot be set for a qcow2 disk"),
        ("vhost-user:/s,cache=none", "cache cannot be set for a vhost-user disk"),
    ],
)
def test_wrong_options_are_refused(text: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=re.escape(wrong)):
        parse_disk(text, "vda")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, "either a path or a backend"),
        ({"path": "a", "backend": object()}, "either a path or a backend"),
        ({"path": 7}, "must be a file name, not 7"),
        ({"path": "a", "ro": "yes"}, "ro must be True or False"),
        ({"path": "a", "queues": True}, "queues must be a number"),
        ({"path": "a", "iops": 1.5}, "iops must be a number"),
        ({"path": "a", "serial": None}, "serial must be"),
        ({"backend": object(), "snapshot": True}, "snapshot cannot be set for a python disk"),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        Disk("data", **fields).check()


@pytest.mark.parametrize(
    ("disk", "kind"),
    [
        (Disk("d", "a.img"), "raw"),
        (Disk("d", "a.qcow2"), "qcow2"),
        (Disk("d", Path("a.qcow")), "qcow2"),
        (Disk("d", "a.qcow2", format="raw"), "raw"),
        (Disk("d", "a", format="qcow2"), "qcow2"),
        (Disk("d", "vhost-user:/run/s"), "vhost-user"),
        (Disk("d", backend=object()), "python"),
    ],
)
def test_the_format_comes_from_the_value_or_the_name(disk: Disk, kind: str) -> None:
    assert disk.kind == kind


def test_the_content_of_an_image_does_not_matter(host: Host, image: Path) -> None:
    image.write_bytes(b"QFI\xfb".ljust(4096, b"\0"))  # a qcow2 header
    device = Disk("vda", image).open(host)
    assert isinstance(device, Blk)
    assert device.storage.size == 4096
    device.close()


def test_a_disk_has_a_queue_for_each_cpu(host: Host, image: Path) -> None:
    for queues, expected in ((0, 3), (5, 5)):
        device = Disk("vda", image, queues=queues).open(host)
        assert len(device.queue_sizes) == expected
        device.close()


def test_options_reach_the_device(host: Host, image: Path) -> None:
    device = Disk("vda", image, ro=True, serial="S1", cache="writethrough").open(host)
    assert isinstance(device, Blk)
    assert device.storage.read_only
    assert device.serial.rstrip(b"\0") == b"S1"
    assert not device.writeback
    device.close()
    snapshot = Disk("vda", image, snapshot=True, packed=True).open(host)
    assert isinstance(snapshot, Blk)
    assert isinstance(snapshot.storage, (Clone, Overlay))
    snapshot.close()


def test_what_cannot_be_opened_leaves_nothing_open(host: Host, image: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no such file"):
        Disk("vda", tmp_path / "missing").open(host)
    with pytest.raises(UnicodeEncodeError):
        Disk("vda", image, serial="\u00fc").open(host)  # which check() would have refused
    Disk("vda", image).open(host).close()  # it is not locked any more


def test_it_is_public() -> None:
    assert pyvmm.Disk is Disk
