"""Taps under a guest that drives its own queues, by every way that frames may go."""

from __future__ import annotations

import os
import random
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import TIMEOUT, machine

from pyvmm import Machine
from pyvmm.ends import DebugExit
from pyvmm.net_config import TapNet
from pyvmm.virtio.net import Net
from tests.fakes.netns import ip, network_namespace

ETH_P_ALL = 3  # <linux/if_ether.h>
ECHO, END = b"\x88\xb5", b"\x88\xb6"
GUEST, HOST = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
WAYS = ("vhost", "C", "Python")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Who moves the frames."""
    if request.param == "vhost" and not os.path.exists("/dev/vhost-net"):
        pytest.skip("the host has no /dev/vhost-net")
    with network_namespace():
        monkeypatch.setenv("PYVMM_NO_FASTPATH", str(int(request.param == "Python")))
        yield request.param


@contextmanager
def guest(test: str, way: str, tap: str = "tap0", **settings: Any) -> Iterator[Machine]:
    """A machine whose guest runs `test` on a tap."""
    net = TapNet("eth0", ifname=tap, vhost="on" if way == "vhost" else "off", **settings)
    with machine("virtio_net", test, devices=(net,)) as vm:
        yield vm


def packets(interface: str = "tap0") -> socket.socket:
    """All that passes the host's side of an interface."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind((interface, ETH_P_ALL))
    sock.settimeout(TIMEOUT)
    return sock


def take(wire: socket.socket, want: bytes) -> bytes:
    """The next frame of the guest's of a type."""
    while True:
        frame, (_, _, direction, *_) = wire.recvfrom(1 << 16)
        if direction != socket.PACKET_OUTGOING and frame[12:14] == want:
            return frame


def passed(vm: Machine) -> None:
    end = vm.wait(TIMEOUT)
    output = vm.serial.output.decode()
    assert isinstance(end, DebugExit), (end, output)
    assert end.status == 33, output


@pytest.mark.parametrize("test", ["echo", "merged"])
def test_frames_of_every_length_come_back_as_they_went(test: str, way: str) -> None:
    rng = random.Random(4)
    with guest(test, way) as vm, packets() as wire:
        vm.serial.expect(b"ready", timeout=TIMEOUT)
        for length in [14, 15, 60, 1514, *(rng.randrange(14, 1514) for _ in range(60))]:
            payload = rng.randbytes(length - 14)
            wire.send(GUEST + HOST + ECHO + payload)
            assert take(wire, ECHO) == HOST + GUEST + ECHO + payload
        wire.send(GUEST + HOST + END)
        passed(vm)


def test_a_burst_comes_back_in_order(way: str) -> None:
    with guest("merged", way) as vm, packets() as wire:
        vm.serial.expect(b"ready", timeout=TIMEOUT)
        frames = [number.to_bytes(2, "big") * 300 for number in range(40)]
        for payload in frames:
            wire.send(GUEST + HOST + ECHO + payload)
        assert [take(wire, ECHO)[14:] for _ in frames] == frames
        wire.send(GUEST + HOST + END)
        passed(vm)


def test_jumbo_frames(way: str) -> None:
    with guest("merged", way, mtu=9000) as vm, packets() as wire:
        vm.serial.expect(b"ready", timeout=TIMEOUT)
        payload = random.Random(5).randbytes(9000)
        wire.send(GUEST + HOST + ECHO + payload)
        assert take(wire, ECHO)[14:] == payload
        wire.send(GUEST + HOST + END)
        passed(vm)


def test_checksums_are_left_to_each_other(way: str) -> None:
    with guest("checksum", way) as vm, packets() as wire:
        vm.serial.expect(b"ready", timeout=TIMEOUT)
        ip("address add 192.0.2.1/24 dev tap0")
        ip(f"neighbour add 192.0.2.2 lladdr {GUEST.hex(':')} dev tap0")
        wire.send(bytes(12) + b"\0\0")  # of no protocol: it is not answered
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(TIMEOUT)
            for number in range(20):
                sock.sendto(bytes([number]) * 500, ("192.0.2.2", 9))
                assert sock.recv(1000) == bytes([number]) * 500
        wire.send(GUEST + HOST + END)
        passed(vm)


def test_a_reset_device_touches_nothing(way: str) -> None:
    with guest("reset", way) as vm, packets() as wire:
        wire.setblocking(False)
        deadline = time.monotonic() + TIMEOUT
        while vm.state == "running" and time.monotonic() < deadline:
            select.select([], [wire], [], TIMEOUT)
            try:
                wire.send(GUEST + HOST + ECHO + bytes(500))
            except OSError:  # the queue of the tap is full, or the machine has ended
                time.sleep(0)
        passed(vm)


def test_the_cable_is_pulled_and_plugged_in(way: str) -> None:
    with guest("link", way) as vm:
        vm.serial.expect(b"ready\n", timeout=TIMEOUT)
        net = vm.device("eth0")
        assert isinstance(net, Net)
        net.set_link(False)
        vm.serial.expect(b"down\n", timeout=TIMEOUT)
        if way != "Python":
            assert "NO-CARRIER" in ip("link show tap0")
        net.set_link(True)
        passed(vm)
        assert b"up\n" in vm.serial.output


def test_a_broken_ring_needs_a_reset_and_no_more(way: str) -> None:
    with guest("mistake", way) as vm:
        passed(vm)


def test_two_machines_on_one_bridge(way: str) -> None:
    ip("link add br0 type bridge")
    ip("link set br0 up promisc on")
    with guest("echo", way, bridge="br0") as one, guest("echo", way, "tap1", bridge="br0") as other:
        for vm in (one, other):
            vm.serial.expect(b"ready", timeout=TIMEOUT)
        with packets("br0") as wire:
            wire.send(GUEST + HOST + ECHO + b"to both")  # nobody knows yet where that is
            answers = [take(wire, ECHO) for _ in range(2)]
            assert answers == [HOST + GUEST + ECHO + b"to both"] * 2
            wire.send(b"\xff" * 6 + HOST + END)
            passed(one)
            passed(other)
