"""Networks as values and as options."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import pyvmm
from pyvmm.backends.slirp_options import Forward
from pyvmm.backends.stream import Stream
from pyvmm.cli import _parser, config_of
from pyvmm.config import MachineConfig
from pyvmm.errors import HostError, UsageError
from pyvmm.loop import Loop
from pyvmm.net_config import (
    Net,
    StreamNet,
    TapNet,
    UserNet,
    VhostUserNet,
    parse_mac,
)
from pyvmm.net_options import parse_net, parse_nets
from pyvmm.peripherals import Host
from pyvmm.virtio.net import Net as Device


class Hole:
    """A network from which nothing comes back."""

    def attach(self, receive: Callable[[bytes], bool]) -> None:
        pass

    def send(self, frame: bytes) -> None:
        pass


def make_host(name: str = "pyvmm") -> Host:
    return Host(2, Loop(), lambda reason: lambda: None, print, lambda *_: None, ExitStack(), name)


@pytest.fixture
def host() -> Host:
    return make_host()


def device(net: Net, host: Host) -> Device:
    made = net.open(host)
    assert isinstance(made, Device)
    made.close()
    return made


# ---- options ----


def test_networks_are_eth0_eth1_in_their_order() -> None:
    nets = parse_nets(["user", "none", "tap", "stream,path=/s"])
    assert [(type(net), net.name) for net in nets] == [
        (UserNet, "eth0"),
        (TapNet, "eth1"),
        (StreamNet, "eth2"),
    ]
    assert parse_nets(["none"]) == []


def test_every_option_has_its_field() -> None:
    common = "mac=52:54:00:12:34:56,queues=2,mtu=1400,pcap=a.pcap"
    fields = {"mac": "52:54:00:12:34:56", "queues": 2, "mtu": 1400, "pcap": "a.pcap"}
    user = "forward=tcp:2222:22,forward=udp:0.0.0.0:53:53,restrict=on,subnet=10.1.0.0/16"
    assert parse_net(f"user,{user},hostname=guest,{common}", "eth0") == UserNet(
        "eth0",
        forward=("tcp:2222:22", "udp:0.0.0.0:53:53"),
        restrict=True,
        subnet="10.1.0.0/16",
        hostname="guest",
        **fields,
    )
    tap = "ifname=tap0,bridge=br0,script=./up,vhost=off"
    assert parse_net(f"tap,{tap},{common}", "eth0") == TapNet(
        "eth0", ifname="tap0", bridge="br0", script="./up", vhost="off", **fields
    )
    assert parse_net(f"stream,path=/s,server=on,reconnect=5,{common}", "eth0") == StreamNet(
        "eth0", path="/s", server=True, reconnect=5, **fields
    )
    del fields["pcap"]
    text = "vhost-user:/run/s,mac=52:54:00:12:34:56,queues=2,mtu=1400"
    assert parse_net(text, "eth0") == VhostUserNet("eth0", path="/run/s", **fields)


def test_two_commas_are_one_of_a_value() -> None:
    assert parse_net("vhost-user:/a,,b,queues=2", "eth0") == VhostUserNet(
        "eth0", path="/a,b", queues=2
    )


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "A network must be none, user, tap, stream, vhost-user:SOCKET, not ''"),
        ("slirp", "A network must be none, user"),
        ("vhost-user", "A network must be none, user"),
        ("vhost-user:", "path must be given as path=SOCKET"),
        ("none,mac=52:54:00:12:34:56", "A network must be none, user, tap"),
        ("user,ifname=tap0", "A user network has no option 'ifname'; there are forward, restrict,"),
        ("tap,ifname=a,ifname=b", "A tap network has the option ifname twice"),
        ("stream", "A stream must have a path=SOCKET"),
        ("stream,path=/s,server=yes", "server must be on or off, not 'yes'"),
        ("stream,path=/s,reconnect=soon", "reconnect must be a number from 0 to 3600"),
        ("user,mac=53:54:00:12:34:56", "its first byte even, not '53:54:00:12:34:56'"),
        ("user,mac=00:00:00:00:00:00", "A MAC must be one device's"),
        ("user,mac=52:54:00:12:34", "A MAC must be six bytes, as 52:54:00:12:34:56, not"),
        ("user,mac=52:54:00:12:34:5", "A MAC must be six bytes"),
        ("user,mac=52:54:00:12:34:-1", "A MAC must be six bytes"),
        ("user,mac=52-54-00-12-34-56", "A MAC must be six bytes"),
        ("user,queues=0", "queues must be a number from 1 to 8, not 0"),
        ("user,queues=9", "queues must be a number from 1 to 8, not 9"),
        ("user,mtu=67", "mtu must be a number from 68 to 65535, not 67"),
        ("user,mtu=65536", "mtu must be a number"),
        ("user,pcap=", "pcap must be given as pcap=FILE"),
        ("user,forward=2222:22", "forward must be tcp|udp:[HOST:]PORT:PORT with"),
        ("user,forward=tcp:0:22", "ports from 1 to 65535, not 'tcp:0:22'"),
        ("user,subnet=10.0.2.0", "subnet must be ADDRESS/BITS"),
        ("user,hostname=my_guest", "hostname must be up to 32 letters"),
        ("tap,ifname=interface-of-16c", "ifname must be a name of at most 15 bytes"),
        ("tap,bridge=a/b", "bridge must be a name"),
        ("tap,vhost=maybe", "vhost must be auto or on or off, not 'maybe'"),
        ("tap,vhost=on,pcap=a", "pcap must not be set with vhost=on"),
        ("vhost-user:/s,pcap=a", "pcap must not be set for vhost-user"),
    ],
)
def test_wrong_options_are_refused(text: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=re.escape(wrong)):
        parse_net(text, "eth0")


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"queues": True}, "queues must be a number"),
        ({"mtu": "1500"}, "mtu must be a number"),
        ({"mac": 7}, "A MAC must be six bytes"),
        ({"pcap": 3}, "pcap must be a file name"),
        ({"restrict": "on"}, "restrict must be True or False"),
        ({"name": ""}, "A device must have a name"),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        UserNet(**{"name": "lan"} | fields).check()


# ---- values ----


def test_forwards_may_be_a_mapping() -> None:
    net = UserNet("lan", forward={2222: 22, "udp:0.0.0.0:5353": 53})
    net.check()
    assert net.forwards == [
        Forward("tcp", "127.0.0.1", 2222, 22),
        Forward("udp", "0.0.0.0", 5353, 53),
    ]


def test_the_mac_is_always_the_same_for_the_same_names() -> None:
    macs = [
        device(Net(net, backend=Hole()), make_host(machine)).read_config()[:6]
        for machine in ("a", "b")
        for net in ("eth0", "eth1")
        for _ in range(2)
    ]
    assert macs[::2] == macs[1::2]
    assert len(set(macs)) == 4
    assert all(mac[0] == 2 for mac in macs)  # locally administered, of one device


def test_options_reach_the_device(host: Host, tmp_path: Path) -> None:
    pcap = tmp_path / "a.pcap"
    net = Net("lan", mac="52:54:00:AB:CD:EF", queues=3, mtu=1280, pcap=str(pcap), backend=Hole())
    made = device(net, host)
    assert made.read_config() == bytes.fromhex("525400abcdef 0100 0300 0005")
    assert len(made.queue_sizes) == 7
    assert pcap.stat().st_size == 24


def test_an_mtu_beyond_the_network_is_refused(host: Host) -> None:
    backend = Hole()
    with pytest.raises(UsageError, match="mtu must be at most 65520 for lan, not 65535"):
        UserNet("lan", mtu=65535).open(host)
    device(Net("lan", mtu=65535, backend=backend), host)


@pytest.mark.parametrize(
    ("nets", "wrong"),
    [
        (["52:54:00:ab:cd:ef", "52:54:00:AB:CD:EF"], "The MAC 52:54:00:ab:cd:ef must be one"),
        (["52:54:00:00:00:01", "52:54:00:00:00:02"], None),
    ],
)
def test_a_mac_belongs_to_one_device(nets: list[str], wrong: str | None) -> None:
    devices = tuple(Net(f"eth{index}", mac=mac, backend=Hole()) for index, mac in enumerate(nets))
    config = MachineConfig(devices=devices)
    if wrong is None:
        config.check()
    else:
        with pytest.raises(UsageError, match=wrong):
            config.check()


def test_a_port_is_forwarded_once() -> None:
    devices = UserNet("a", forward={2222: 22}), UserNet("b", forward={2222: 80})
    with pytest.raises(UsageError, match=r"Port 2222 of 127.0.0.1 .tcp. must be one device's"):
        MachineConfig(devices=devices).check()
    MachineConfig(devices=(devices[0], UserNet("b", forward={"udp:2222": 80}))).check()


def test_a_stream_that_cannot_be_recorded_leaves_nothing_open(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    net = StreamNet("lan", path=path, server=True, pcap=str(tmp_path / "none" / "a.pcap"))
    with pytest.raises(HostError, match="cannot be written: No such file"):
        net.open(host)
    assert not path.exists()


def test_a_stream_is_opened_as_it_is_told(host: Host, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"must listen at .*missing: No such file"):
        StreamNet("lan", path=tmp_path / "missing", reconnect=0).open(host)
    made = StreamNet("lan", path=tmp_path / "socket", server=True).open(host)
    assert isinstance(made, Device)
    assert isinstance(made.link, Stream)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(tmp_path / "socket"))
    made.close()
    assert not (tmp_path / "socket").exists()


# ---- the command line ----


def config(*words: str) -> MachineConfig:
    return config_of(_parser().parse_args(["run", *words]))


def test_a_plain_run_has_no_network() -> None:
    assert config().devices == ()
    assert config("--net", "none").devices == ()


def test_networks_disks_and_consoles_go_together() -> None:
    words = ("--net", "user", "--disk", "a.img", "--rng", "--net", "tap")
    assert [device.name for device in config(*words).devices] == ["vda", "eth0", "eth1", "rng"]


def test_a_file_may_have_networks(tmp_path: Path) -> None:
    file = tmp_path / "vm.toml"
    file.write_text('net = ["user,forward=tcp:2222:22", "tap"]\n')
    assert [device.name for device in config("--config", str(file)).devices] == ["eth0", "eth1"]
    assert config("--config", str(file), "--net", "none").devices == ()
    file.write_text('net = "user"\n')
    assert config("--config", str(file)).devices == (UserNet("eth0"),)


def test_they_are_public() -> None:
    for kind in (Net, StreamNet, TapNet, UserNet, VhostUserNet):
        assert getattr(pyvmm, kind.__name__) is kind


def test_a_mac_is_six_bytes() -> None:
    assert parse_mac("52:54:00:Ab:cd:eF") == bytes.fromhex("525400abcdef")
