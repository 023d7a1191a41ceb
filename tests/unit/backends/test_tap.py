"""Taps, in a network namespace of each test's own."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pyvmm.backends import interface, tap_spec
from pyvmm.backends.tap import Tap
from pyvmm.errors import HostError, UsageError
from pyvmm.loop import Loop
from tests.fakes.netns import ip, network_namespace

ETH_P_ALL = 3  # <linux/if_ether.h>
HEADER = bytes(tap_spec.HEADER_SIZE)
MAC = bytes.fromhex("525400000001")
FRAME = tap_spec.BROADCAST + MAC + b"\x88\xb5" + bytes(range(100))  # local experimental, IEEE 802


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def packets(name: str) -> socket.socket:
    """All that passes the host's side of an interface."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind((name, ETH_P_ALL))
    sock.settimeout(20)
    return sock


class Receiver:
    """Takes the frames of a tap on its loop, or has no room."""

    def __init__(self, tap: Tap) -> None:
        self.frames: list[bytes] = []
        self.room = True
        self.changes = 0
        self.loop = Loop()
        self.calls = 0
        tap.open(self.loop, self.receive, self.change)

    def receive(self, frame: Sequence[bytes | bytearray | memoryview]) -> bool:
        self.calls += 1
        if self.room:
            self.frames.append(b"".join(frame))
        self.loop.stop()
        return self.room

    def change(self) -> None:
        self.changes += 1
        self.loop.stop()


def test_a_created_tap_is_up_and_vanishes_with_close() -> None:
    tap = Tap("tap7", mtu=9000)
    assert tap.mtu == 9000
    assert "UP" in ip("link show tap7")
    tap.close()
    assert not interface.exists("tap7")


def test_the_host_chooses_a_name() -> None:
    tap = Tap()
    assert interface.exists(tap.name)
    tap.close()


@pytest.mark.parametrize("kind", ["", "multi_queue"])
def test_an_existing_tap_stays(kind: str) -> None:
    ip(f"tuntap add tap0 mode tap {kind}")
    Tap("tap0").close()
    assert interface.exists("tap0")


def test_a_frame_sent_reaches_the_host() -> None:
    tap = Tap("tap0")
    with packets("tap0") as host:
        tap.send([memoryview(HEADER), memoryview(FRAME)])
        assert host.recv(2048) == FRAME
    tap.close()


def test_a_frame_of_the_host_is_received_with_a_header() -> None:
    tap = Tap("tap0")
    receiver = Receiver(tap)
    with packets("tap0") as host:
        host.send(FRAME)
        receiver.loop.run()
    assert receiver.frames == [HEADER + FRAME]
    tap.close()


def test_frames_wait_until_there_is_room() -> None:
    tap = Tap("tap0")
    receiver = Receiver(tap)
    receiver.room = False
    with packets("tap0") as host:
        for number in range(3):
            host.send(FRAME + bytes([number]))
        receiver.loop.run()
        assert receiver.calls == 1
        tap.wake()
        assert receiver.calls == 2
        receiver.room = True
        tap.wake()
        while len(receiver.frames) < 3:
            receiver.loop.run()
    assert [frame[-1] for frame in receiver.frames] == [0, 1, 2]
    tap.close()


def test_a_tap_that_is_deleted_is_a_link_that_is_down() -> None:
    ip("tuntap add tap0 mode tap")
    tap = Tap("tap0")
    receiver = Receiver(tap)
    ip("link del tap0")
    receiver.loop.run()
    assert not tap.up
    assert receiver.changes == 1
    tap.set_offloads(tap.offloads)  # and none of this raises
    tap.set_filter([], False)
    tap.set_carrier(False)
    tap.attach(1)
    tap.close()


def test_the_filter_is_the_kernels() -> None:
    tap = Tap("tap0")
    receiver = Receiver(tap)
    tap.set_filter([MAC], False)
    with packets("tap0") as host:
        host.send(FRAME)
        host.send(MAC + FRAME[6:])
        receiver.loop.run()
    assert [frame[12:18] for frame in receiver.frames] == [MAC]
    tap.close()


def test_a_tap_is_left_as_others_expect_it() -> None:
    ip("tuntap add tap0 mode tap")
    tap = Tap("tap0")
    tap.set_filter([MAC], False)
    tap.set_offloads(tap.offloads)
    tap.close()
    tap = Tap("tap0")
    assert not checksum_is_left(tap)
    with packets("tap0") as host:
        host.send(FRAME)
    assert os.readv(tap.fds[0], [bytearray(2048)]) == len(HEADER + FRAME)
    tap.close()


def test_the_carrier_is_what_the_host_sees() -> None:
    tap = Tap("tap0")
    tap.set_carrier(False)
    assert "NO-CARRIER" in ip("link show tap0")
    tap.set_carrier(True)
    assert "NO-CARRIER" not in ip("link show tap0")
    tap.close()


def checksum_is_left(tap: Tap) -> bool:
    """Whether the host leaves the checksum of a UDP datagram to the guest."""
    receiver = Receiver(tap)
    ip("address replace 192.0.2.1/24 dev tap0")
    ip("neighbour replace 192.0.2.2 lladdr 52:54:00:00:00:01 dev tap0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x" * 100, ("192.0.2.2", 9))
    receiver.loop.run()
    return bool(receiver.frames[0][0] & 1)  # VIRTIO_NET_HDR_F_NEEDS_CSUM, §5.1.6


def test_only_negotiated_offloads_are_used() -> None:
    tap = Tap("tap0")
    assert not checksum_is_left(tap)
    tap.set_offloads(tap.offloads)
    assert checksum_is_left(tap)
    tap.set_offloads(0)
    assert not checksum_is_left(tap)
    tap.set_offloads(tap.offloads & ~tap_spec.F_GUEST_USO6)
    assert checksum_is_left(tap)
    tap.close()


def test_only_attached_queues_receive() -> None:
    tap = Tap("tap0", queues=4)
    tap.attach(1)
    with packets("tap0") as host:
        for number in range(64):
            host.send(FRAME[:6] + MAC[:5] + bytes([number]) + FRAME[12:])
    assert os.readv(tap.fds[0], [bytearray(2048)]) > 0
    for fd in tap.fds[1:]:
        with pytest.raises(OSError, match=r"unavailable|bad state"):
            os.readv(fd, [bytearray(2048)])
    tap.attach(4)
    tap.close()


def test_a_bridge_is_joined_and_left() -> None:
    ip("link add br0 type bridge")
    ip("tuntap add tap0 mode tap")
    tap = Tap("tap0", bridge="br0")
    assert "master br0" in ip("link show tap0")
    tap.close()
    assert "master br0" not in ip("link show tap0")


def test_the_script_is_told_the_name(tmp_path: Path) -> None:
    script = tmp_path / "up"
    script.write_text(f"#!/bin/sh\necho $1 >{tmp_path}/name\n")
    script.chmod(0o755)
    Tap("tap3", script=str(script)).close()
    assert (tmp_path / "name").read_text() == "tap3\n"


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "up"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    with pytest.raises(HostError, match="must succeed for tap3, not end with 3"):
        Tap("tap3", script=str(script))
    assert not interface.exists("tap3")
    with pytest.raises(HostError, match="cannot be run: No such file"):
        Tap("tap3", script=str(tmp_path / "none"))


@pytest.mark.parametrize("name", ["a" * 16, "a/b", "a b", "..", "tap%d"])
def test_a_name_that_cannot_be(name: str) -> None:
    with pytest.raises(UsageError, match="must have 1 to 15 bytes"):
        Tap(name)


def test_a_name_in_use_by_another_kind_of_interface() -> None:
    ip("link add br0 type bridge")
    with pytest.raises(HostError, match="br0 must be a tap; it is another kind"):
        Tap("br0")


def test_a_tap_in_use() -> None:
    tap = Tap("tap0")
    with pytest.raises(HostError, match="tap0 must not be in use by another program"):
        Tap("tap0")
    tap.close()


def test_more_queues_than_the_tap_was_created_for() -> None:
    ip("tuntap add tap0 mode tap")
    with pytest.raises(HostError, match="tap0 must be a tap with multi_queue"):
        Tap("tap0", queues=2)


def test_no_such_bridge() -> None:
    with pytest.raises(HostError, match="cannot join the bridge br9: there is none"):
        Tap("tap0", bridge="br9")
    assert not interface.exists("tap0")


def test_a_bridge_of_another_kind() -> None:
    with pytest.raises(HostError, match="cannot join the bridge lo: it is another kind"):
        Tap("tap0", bridge="lo")


def test_a_port_of_another_bridge() -> None:
    ip("link add br0 type bridge")
    ip("tuntap add tap0 mode tap")
    ip("link set tap0 master br0")
    with pytest.raises(HostError, match="tap0 is a port of a bridge already"):
        Tap("tap0", bridge="br0")


def without_rights(function: str) -> str:
    """What an unprivileged child is told, of the tap tap0 in this namespace."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        try:
            Tap(function)
        except HostError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def _open_device() -> Iterator[None]:
    mode = os.stat(tap_spec.DEVICE).st_mode
    os.chmod(tap_spec.DEVICE, 0o666)
    yield
    os.chmod(tap_spec.DEVICE, mode)


@pytest.mark.usefixtures("_open_device")
def test_no_right_says_what_to_do() -> None:
    assert "CAP_NET_ADMIN: run pyvmm as root, or name one" in without_rights("")
    ip("tuntap add tap0 mode tap user 1")
    assert without_rights("tap0") == (
        "The tap tap0 must belong to you: root can recreate it with user $USER"
    )
    ip("tuntap add tap1 mode tap user 65534")
    assert "root can: ip link set tap1 up" in without_rights("tap1")
    ip("link set tap1 up")
    assert without_rights("tap1") == ""


def test_the_header_is_of_twelve_bytes() -> None:
    tap = Tap("tap0")
    request = 0x800454D7  # TUNGETVNETHDRSZ
    assert fcntl.ioctl(tap.fds[0], request, struct.pack("=i", 0)) == struct.pack("=i", 12)
    tap.close()
