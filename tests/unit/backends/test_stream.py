"""Frames on a Unix socket: framing, a peer that is slow, wrong, or goes away and comes back."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.backends import frame_spec as spec
from pyvmm.backends.stream import Stream
from pyvmm.errors import HostError
from pyvmm.virtio.net import Net
from pyvmm.virtio.net_frame import WHOLE
from tests.fakes.driver import PATIENCE, Guest

RX, TX = 0, 1
MACS = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")


def frame(length: int = 60) -> bytes:
    return (b"\xff" * 6 + MACS[0] + b"\x88\xb5").ljust(length, b"x")


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(one)) + one for one in frames)


def take(peer: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length and (part := peer.recv(length - len(data))):
        data += part
    return data


class Station:
    """A guest with a stream for its network."""

    def __init__(self, stream: Stream, mac: bytes = MACS[0]) -> None:
        self.guest = Guest(Net("eth0", stream, mac))
        self.device = self.guest.device
        assert isinstance(self.device, Net)
        self.guest.start()

    @property
    def up(self) -> bool:
        return bool(self.device.read_config()[6] & 1)

    def wait_up(self, up: bool) -> None:
        while self.up != up:
            self.guest.wait_config_changed()

    def offer(self, count: int, size: int = 2048) -> None:
        for _ in range(count):
            self.guest.queues[RX].add(writable=[size])
        self.guest.queues[RX].kick()

    def received(self, count: int) -> list[bytes]:
        return [used.data[12:] for used in self.guest.queues[RX].wait(count)]

    def send(self, data: bytes) -> None:
        self.guest.queues[TX].request([WHOLE, data])


MakeStation = Callable[..., Station]


@pytest.fixture
def make_station(path: str) -> Iterator[MakeStation]:
    stations: list[Station] = []

    def make(server: bool = False, mac: bytes = MACS[0]) -> Station:
        stations.append(Station(Stream(path, server=server, reconnect=0.05 * (not server)), mac))
        return stations[-1]

    yield make
    for station in stations:
        station.guest.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(path)
        listener.listen()
        yield listener


@pytest.fixture
def station(listener: socket.socket, make_station: MakeStation) -> Station:
    return make_station()


@pytest.fixture
def peer(listener: socket.socket, station: Station) -> Iterator[socket.socket]:
    peer, _ = listener.accept()
    peer.settimeout(PATIENCE)
    with peer:
        yield peer


# ---- framing ----


def test_a_frame_goes_after_its_length(station: Station, peer: socket.socket) -> None:
    station.send(frame(60))
    station.send(frame(1514))
    both = framed(frame(60), frame(1514))
    assert take(peer, len(both)) == both


def test_frames_come_whole_however_they_are_cut(station: Station, peer: socket.socket) -> None:
    data = framed(*(frame(length) for length in range(60, 80)))
    station.offer(20)
    for cut in (1, 3, 60, 200):
        peer.sendall(data[:cut])
        data = data[cut:]
    peer.sendall(data)
    assert station.received(20) == [frame(length) for length in range(60, 80)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Station, socket.socket]]:
    path = str(tmp_path_factory.mktemp("stream") / "socket")
    station = Station(Stream(path, server=True))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        station.wait_up(True)
        yield station, peer
        station.guest.close()


@settings(deadline=None)
@given(st.lists(st.integers(14, 1500), min_size=1, max_size=30), st.data())
def test_any_cuts_give_the_same_frames(
    shared: tuple[Station, socket.socket], lengths: list[int], data: st.DataObject
) -> None:
    station, peer = shared
    whole = framed(*map(frame, lengths))
    cuts = data.draw(st.lists(st.integers(1, len(whole)), max_size=10, unique=True))
    station.offer(len(lengths))
    for start, end in itertools.pairwise(sorted({0, *cuts, len(whole)})):
        peer.sendall(whole[start:end])
    assert station.received(len(lengths)) == [frame(length) for length in lengths]


def test_the_longest_frame_passes_both_ways(station: Station, peer: socket.socket) -> None:
    longest = frame(spec.FRAME_MAX)
    thread = threading.Thread(target=station.send, args=(longest,))
    thread.start()
    whole = framed(longest)
    assert take(peer, len(whole)) == whole
    thread.join()
    station.offer(1, spec.FRAME_MAX + 12)
    peer.sendall(whole)
    assert station.received(1) == [longest]


def test_what_is_shorter_than_a_header_is_skipped(station: Station, peer: socket.socket) -> None:
    station.offer(1)
    peer.sendall(framed(b"", frame(14)[:13], frame(61)))
    assert station.received(1) == [frame(61)]


# ---- flow ----


def test_frames_wait_for_a_guest_without_room(station: Station, peer: socket.socket) -> None:
    count = 300  # which is more than is taken in at once
    sender = threading.Thread(target=peer.sendall, args=(framed(*[frame(1500)] * count),))
    sender.start()
    for _ in range(count // 20):
        station.offer(20)
        assert station.received(20) == [frame(1500)] * 20
    sender.join()


def test_a_peer_that_does_not_read_stalls_the_guest_and_loses_nothing(
    station: Station, peer: socket.socket
) -> None:
    tx = station.guest.queues[TX]
    frames = [frame(9000 + number) for number in range(27)]  # more than the socket holds
    for one in frames:
        tx.add([WHOLE, one])
    tx.kick()
    station.device.worker.call(lambda: None)
    sent = len(tx.collect())
    assert sent < len(frames)
    whole = framed(*frames)
    assert take(peer, len(whole)) == whole
    tx.wait(len(frames) - sent)
    assert isinstance(station.device, Net)
    assert station.device.statistics().asdict()["tx_frames"] == len(frames)


# ---- coming and going ----


def test_the_link_is_down_while_there_is_no_peer(
    station: Station, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    peer, _ = listener.accept()
    assert station.up
    peer.close()
    station.wait_up(False)
    assert "the peer has hung up" in caplog.text
    peer, _ = listener.accept()
    station.wait_up(True)
    station.offer(1)
    peer.sendall(framed(frame(60)))
    assert station.received(1) == [frame(60)]
    peer.close()


def test_a_client_may_come_before_its_server(path: str, make_station: MakeStation) -> None:
    station = make_station()
    assert not station.up
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        station.wait_up(True)


def test_without_reconnect_there_must_be_a_server(path: str) -> None:
    with pytest.raises(HostError, match=r"A peer must listen at .*socket: No such file"):
        Stream(path)


def test_peers_of_a_server_come_and_go(path: str, make_station: MakeStation) -> None:
    station = make_station(server=True)
    for length in (60, 61):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE)
            peer.connect(path)
            station.wait_up(True)
            station.send(frame(length))
            assert take(peer, 4 + length) == framed(frame(length))
        station.wait_up(False)


def test_a_second_peer_waits_for_the_first_to_go(path: str, make_station: MakeStation) -> None:
    station = make_station(server=True)
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.connect(path)
        station.wait_up(True)
        second.connect(path)
        station.offer(1)
        second.sendall(framed(frame(60)))
        station.device.worker.call(lambda: None)
        assert not station.guest.queues[RX].collect()
        first.close()
        assert station.received(1) == [frame(60)]


def test_a_frame_that_was_cut_off_by_the_end_is_no_part_of_the_next(
    station: Station, listener: socket.socket
) -> None:
    peer, _ = listener.accept()
    peer.sendall(framed(frame(1000))[:500])
    peer.close()
    station.wait_up(False)
    peer, _ = listener.accept()
    station.wait_up(True)
    station.offer(1)
    peer.sendall(framed(frame(60)))
    assert station.received(1) == [frame(60)]
    peer.close()


def test_a_peer_that_goes_while_the_guest_has_no_room_is_noticed_with_room(
    station: Station, listener: socket.socket
) -> None:
    peer, _ = listener.accept()
    peer.sendall(framed(frame(60), frame(61)))
    peer.close()
    station.offer(2)
    assert station.received(2) == [frame(60), frame(61)]
    station.wait_up(False)


def test_a_peer_that_goes_does_not_keep_a_full_guest_busy(
    station: Station, listener: socket.socket
) -> None:
    peer, _ = listener.accept()
    loop = station.device.worker.loop
    before = dict(loop._watches)
    peer.sendall(framed(frame(60)))
    while loop._watches == before:  # until it is refused
        station.device.worker.call(lambda: None)
    assert len(before.keys() - loop._watches) == 1
    peer.close()


def test_a_length_that_no_frame_has_ends_the_connection(
    station: Station, peer: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    peer.sendall(struct.pack(">I", spec.FRAME_MAX + 1))
    assert peer.recv(1) == b""
    station.wait_up(False)
    assert f"sends a frame of {spec.FRAME_MAX + 1} bytes, more than {spec.FRAME_MAX}" in caplog.text


def test_a_server_leaves_no_socket_behind(path: str) -> None:
    Stream(path, server=True).close()
    assert not Path(path).exists()


def test_two_servers_cannot_have_one_path(path: str) -> None:
    first = Stream(path, server=True)
    with pytest.raises(HostError, match="must not be in use by another program"):
        Stream(path, server=True)
    first.close()


# ---- two guests ----


def test_two_guests_reach_each_other(make_station: MakeStation) -> None:
    one = make_station(server=True, mac=MACS[0])
    other = make_station(mac=MACS[1])
    one.wait_up(True)
    for sender, receiver in ((one, other), (other, one)):
        receiver.offer(20)
        for number in range(20):
            sender.send(frame(100 + number))
        assert receiver.received(20) == [frame(100 + number) for number in range(20)]


def test_a_guest_that_does_not_receive_stalls_the_other_until_it_is_reset(
    make_station: MakeStation,
) -> None:
    one = make_station(server=True, mac=MACS[0])
    other = make_station(mac=MACS[1])
    one.wait_up(True)
    tx = other.guest.queues[TX]
    for _ in range(100):  # more than the sockets and the input hold
        for _ in range(8):
            tx.add([WHOLE, frame(9000)])
        tx.kick()
        other.device.worker.call(lambda: None)
        if not tx.collect():
            break
    one.guest.reset()
    tx.wait(len(tx.requests))
