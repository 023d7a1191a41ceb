"""Networks of Python and of Unix sockets under a guest that drives its own queues."""

from __future__ import annotations

import queue
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TIMEOUT, machine

from pyvmm import DebugExit, Machine, Net, StreamNet

GUEST, HOST = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ECHO, END = b"\x88\xb5", b"\x88\xb6"
LENGTHS = [14, 15, 60, 1000, 1514]


class Wire:
    """A network whose other end is the test."""

    def __init__(self) -> None:
        self.frames: queue.Queue[bytes] = queue.Queue()

    def attach(self, receive: Callable[[bytes], bool]) -> None:
        self.give = receive

    def send(self, frame: bytes) -> None:
        self.frames.put(frame)


def frame(kind: bytes, length: int = 60) -> bytes:
    return (GUEST + HOST + kind).ljust(length, b"x")


def answer(length: int) -> bytes:
    return (HOST + GUEST + ECHO).ljust(length, b"x")


def passed(vm: Machine) -> None:
    end = vm.wait(TIMEOUT)
    assert isinstance(end, DebugExit), (end, vm.serial.output)
    assert end.status == 33, vm.serial.output


@pytest.mark.parametrize("test", ["echo", "merged"])
def test_a_network_in_python(test: str, tmp_path: Path) -> None:
    wire, pcap = Wire(), tmp_path / "lan.pcap"
    net = Net("lan", backend=wire, pcap=str(pcap))
    with machine("virtio_net", test, devices=(net,)) as vm:
        vm.serial.expect(b"ready", timeout=TIMEOUT)
        for length in LENGTHS:
            assert wire.give(frame(ECHO, length))
            assert wire.frames.get(timeout=TIMEOUT) == answer(length)
        wire.give(frame(END))
        passed(vm)
    each = 2 * (sum(LENGTHS) + 16 * len(LENGTHS))  # a record's header has 16 bytes
    assert pcap.stat().st_size == 24 + each + 16 + 60


def take(peer: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = peer.recv(length - len(data))
        assert part
        data += part
    return data


def test_a_stream(tmp_path: Path) -> None:
    path = str(tmp_path / "lan")
    net = StreamNet("lan", path=path, server=True)
    with machine("virtio_net", "echo", devices=(net,)) as vm, socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(TIMEOUT)
        peer.connect(path)
        vm.serial.expect(b"ready", timeout=TIMEOUT)
        whole = b"".join(struct.pack(">I", length) + frame(ECHO, length) for length in LENGTHS)
        peer.sendall(whole)
        for length in LENGTHS:
            assert take(peer, 4 + length) == struct.pack(">I", length) + answer(length)
        peer.sendall(struct.pack(">I", 60) + frame(END))
        passed(vm)


def test_the_guest_sees_its_peer_go_and_come(tmp_path: Path) -> None:
    path = str(tmp_path / "lan")
    first, second = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    net = StreamNet("lan", path=path, server=True)
    with first, second, machine("virtio_net", "link", devices=(net,)) as vm:
        first.connect(path)
        vm.serial.expect(b"ready\n", timeout=TIMEOUT)
        first.close()
        vm.serial.expect(b"down\n", timeout=TIMEOUT)
        second.connect(path)
        passed(vm)
        assert b"up\n" in vm.serial.output
