"""What a vsock may be, as a value and as an option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyvmm import MachineConfig, UsageError, Vsock, cli, vsock_config
from pyvmm.config import load_toml
from pyvmm.virtio import vhost_spec
from pyvmm.vsock_config import PATH_MAX, parse_vsock


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", Vsock(cid=3)),
        ("4294967294", Vsock(cid=4294967294)),
        ("5,uds=/tmp/a,,b", Vsock(cid=5, uds="/tmp/a,b")),
        ("5,vhost=on", Vsock(cid=5, vhost="on")),
        ("5,vhost=off,uds=v", Vsock(cid=5, vhost="off", uds="v")),
    ],
)
def test_the_option_gives_the_value(text: str, value: Vsock) -> None:
    assert parse_vsock(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be CID"),
        ("three", "must be CID"),
        ("-3", "must be CID"),
        ("9" * 5000, "must be CID"),
        ("2", "from 3 to 4294967294, not 2"),
        ("4294967295", "not 4294967295"),
        ("3,path=x", "no option 'path'"),
        ("3,uds", "uds must be given as uds=PATH"),
        ("3,vhost=maybe", "vhost must be auto, on or off"),
        ("3,vhost=on,uds=v", "either uds or vhost=on"),
        ("3,uds=a,uds=b", "twice"),
        (f"3,uds={'x' * (PATH_MAX + 1)}", "at most"),
    ],
)
def test_what_no_host_could_make_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_vsock(text)


@pytest.mark.parametrize("settings", [{"cid": "3"}, {"uds": 5}, {"uds": "a\0b"}, {"name": ""}])
def test_a_wrong_value_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        MachineConfig(devices=(Vsock(**settings),)).check()


def test_two_devices_cannot_have_one_cid() -> None:
    with pytest.raises(UsageError, match="The CID 9 must be one device's only"):
        MachineConfig(devices=(Vsock("a", 9), Vsock("b", 9))).check()


def test_a_file_may_give_the_cid_as_a_number(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text("vsock = 9\n")
    assert load_toml(str(path)) == {"vsock": 9}
    args = cli._parser().parse_args(["run", "--config", str(path), "--rng"])
    assert Vsock(cid=9) in cli.config_of(args).devices
    args = cli._parser().parse_args(["run", "--config", str(path), "--vsock", "8,uds=v"])
    assert cli.config_of(args).devices == (Vsock(cid=8, uds="v"),)


@pytest.mark.parametrize(
    ("text", "there", "by_kernel"),
    [
        ("3", True, True),
        ("3", False, False),
        ("3,uds=v", True, False),
        ("3,vhost=off", True, False),
        ("3,vhost=on", False, True),
    ],
)
def test_the_kernel_serves_it_where_it_can_and_may(
    text: str, there: bool, by_kernel: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = tmp_path / "vhost-vsock"
    if there:
        device.touch()
    monkeypatch.setattr(vhost_spec, "VSOCK_DEVICE", str(device))
    assert parse_vsock(text).by_kernel == by_kernel


def test_without_a_path_it_is_in_the_working_directory() -> None:
    assert Vsock(cid=12).path == "vsock-12.sock"
    assert vsock_config.SYNTAX == "CID[,uds=PATH][,vhost=auto|on|off]"
