"""The socket device: streams both ways, their credit, their ends, and a guest that lies."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.backends.vsock_sockets import UnixSockets
from pyvmm.virtio import vsock as device_module
from pyvmm.virtio import vsock_spec as spec
from pyvmm.virtio import vsock_stream as stream_module
from pyvmm.virtio.vsock import Vsock
from tests.fakes.driver import PATIENCE, Guest
from tests.fakes.vsock import VsockDriver
from tests.unit.virtio.conftest import MakeGuest

CID = 7
PORTS = (52, 1000)  # the host's and the guest's
MANY = 1000
LARGE = 100 << 20

Start = Callable[..., VsockDriver]


peers: list[socket.socket] = []  # of the host's programs in this test


@pytest.fixture(autouse=True)
def no_mistake(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No exception leaves a callback."""
    yield
    while peers:
        peers.pop().close()
    assert not [record for record in caplog.records if record.exc_info]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "v")


@pytest.fixture
def start(path: str, make_guest: MakeGuest) -> Start:
    def start(**settings: int) -> VsockDriver:
        return VsockDriver(make_guest(Vsock("vsock", CID, UnixSockets(path))), **settings)

    return start


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    """What listens at the host's port of PORTS."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(f"{path}_{PORTS[0]}")
        listener.listen(MANY)
        yield listener


def accept(listener: socket.socket) -> socket.socket:
    peers.append(listener.accept()[0])
    peers[-1].settimeout(PATIENCE)
    return peers[-1]


def dial(path: str, port: int, more: bytes = b"") -> socket.socket:
    """Ask for the guest's `port`."""
    peers.append(socket.socket(socket.AF_UNIX))
    peers[-1].settimeout(PATIENCE)
    peers[-1].connect(path)
    peers[-1].sendall(b"CONNECT %d\n" % port + more)
    return peers[-1]


def line(peer: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and (byte := peer.recv(1)):
        data += byte
    return data


def read_all(peer: socket.socket) -> bytes:
    return b"".join(iter(lambda: peer.recv(1 << 16), b""))


@pytest.fixture
def open_stream(start: Start, listener: socket.socket) -> tuple[VsockDriver, socket.socket]:
    """A stream that the guest has opened."""
    driver = start()
    driver.connect(PORTS)
    return driver, accept(listener)


Open = tuple[VsockDriver, socket.socket]


def fill(driver: VsockDriver, ports: tuple[int, int] = PORTS) -> bytes:
    """Use all the credit of a stream whose other end does not read; what was sent."""
    end, data = driver.ends[ports], b""
    while end.credit > 0:
        data += (part := os.urandom(min(end.credit, 1 << 16)))
        driver.send(spec.OP_RW, ports, part)
    return data


def no_streams(driver: VsockDriver) -> bool:
    """Whether the device has forgotten all."""
    device = driver.device
    assert isinstance(device, Vsock)
    device.worker.call(lambda: None)
    return not (device._streams or device._orphans or device._turns or device._timers)


# ---- opening ----


def test_the_guest_learns_its_cid(start: Start) -> None:
    driver = start()
    assert driver.device.read_config() == spec.CONFIG.pack(CID)
    assert len(driver.device.queue_sizes) == 3


def test_the_guest_reaches_what_listens_at_its_port(open_stream: Open) -> None:
    driver, peer = open_stream
    driver.send_data(PORTS, b"from the guest")
    assert peer.recv(99) == b"from the guest"
    peer.sendall(b"from the host")
    assert driver.receive_data(PORTS, 13) == b"from the host"


def test_a_port_at_which_nobody_listens_is_refused(start: Start) -> None:
    driver = start()
    driver.send(spec.OP_REQUEST, PORTS)
    packet = driver.expect(spec.OP_RST, PORTS)
    assert packet.type == spec.TYPE_STREAM


@pytest.fixture
def busy(path: str) -> Iterator[socket.socket]:
    """What listens at the host's port 9 and has no room."""
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as other:
        busy.settimeout(PATIENCE)
        busy.bind(f"{path}_9")
        busy.listen(0)
        other.connect(f"{path}_9")
        yield busy


def test_a_listener_without_room_is_tried_again(start: Start, busy: socket.socket) -> None:
    driver = start()
    driver.send(spec.OP_REQUEST, (9, 1))
    assert not driver.pending()
    accept(busy)
    driver.expect(spec.OP_RESPONSE, (9, 1))


def test_a_listener_that_never_has_room_refuses(
    start: Start, busy: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "CONNECT_SECONDS", 0.05)
    driver = start()
    driver.send(spec.OP_REQUEST, (9, 1))
    driver.expect(spec.OP_RST, (9, 1))
    assert no_streams(driver)


def test_a_lie_is_found_before_a_listener_is_tried_again(start: Start, busy: socket.socket) -> None:
    driver = start()
    driver.send(spec.OP_REQUEST, (9, 1), fwd_cnt=1)
    accept(busy)
    driver.expect(spec.OP_RST, (9, 1))


@pytest.mark.parametrize("how", ["reset", "taken back", "asked twice"])
def test_a_request_that_is_over_is_not_tried_again(
    start: Start, busy: socket.socket, how: str
) -> None:
    driver = start()
    driver.send(spec.OP_REQUEST, (9, 1))
    if how == "reset":
        driver.guest.reset()
    else:
        driver.send(spec.OP_RST if how == "taken back" else spec.OP_REQUEST, (9, 1))
    accept(busy)
    loop, later = driver.device.worker.loop, threading.Event()
    loop.call_at(loop.now() + 2 * device_module.RETRY_SECONDS, later.set)
    assert later.wait(PATIENCE)
    assert no_streams(driver)


def test_the_host_reaches_what_listens_in_the_guest(start: Start, path: str) -> None:
    driver = start()
    peer = dial(path, 80)
    ports = driver.accept()
    assert ports[1] == 80
    assert line(peer) == b"OK %d\n" % ports[0]
    peer.sendall(b"ping")
    assert driver.receive_data(ports, 4) == b"ping"
    driver.send_data(ports, b"pong")
    assert peer.recv(99) == b"pong"


def test_what_follows_the_request_at_once_is_the_guests(start: Start, path: str) -> None:
    driver = start()
    dial(path, 80, b"more\nlines\n")
    assert driver.receive_data(driver.accept(), 11) == b"more\nlines\n"


def test_a_request_that_the_guest_refuses_ends(start: Start, path: str) -> None:
    driver = start()
    peer = dial(path, 81)
    ports = driver.expect(spec.OP_REQUEST).ports
    driver.send(spec.OP_RST, ports)
    assert peer.recv(1) == b""
    assert not driver.pending()


def test_a_request_that_the_guest_does_not_answer_ends(
    start: Start, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "ANSWER_SECONDS", 0.05)
    driver = start()
    peer = dial(path, 81)
    ports = driver.expect(spec.OP_REQUEST).ports
    assert peer.recv(1) == b""
    driver.expect(spec.OP_RST, ports)
    driver.send(spec.OP_RESPONSE, ports)
    driver.expect(spec.OP_RST, ports)


def test_who_asks_while_there_is_no_driver_waits_for_one(path: str, make_guest: MakeGuest) -> None:
    guest = make_guest(Vsock("vsock", CID, UnixSockets(path)))
    early = dial(path, 5)
    driver = VsockDriver(guest)
    ports = driver.accept()
    assert line(early) == b"OK %d\n" % ports[0]
    guest.reset()
    assert early.recv(1) == b""
    late = dial(path, 5)
    ports = VsockDriver(guest).accept()
    assert line(late) == b"OK %d\n" % ports[0]


# ---- credit ----


def test_a_guest_without_room_gets_nothing_until_it_has_some(
    start: Start, listener: socket.socket
) -> None:
    driver = start()
    driver.send(spec.OP_REQUEST, PORTS, buf_alloc=10)
    driver.expect(spec.OP_RESPONSE)
    accept(listener).sendall(b"0123456789abcdefghij")
    assert driver.expect(spec.OP_RW).data == b"0123456789"
    assert not driver.pending()
    driver.send(spec.OP_CREDIT_UPDATE, PORTS, buf_alloc=10, fwd_cnt=4)
    assert driver.expect(spec.OP_RW).data == b"abcd"
    driver.send(spec.OP_CREDIT_UPDATE, PORTS, buf_alloc=12, fwd_cnt=2)  # overtaken
    assert driver.expect(spec.OP_RW).data == b"ef"
    driver.send(spec.OP_CREDIT_UPDATE, PORTS, buf_alloc=4, fwd_cnt=4)  # it may shrink
    assert not driver.pending()
    driver.send(spec.OP_CREDIT_UPDATE, PORTS, buf_alloc=100, fwd_cnt=14)
    assert driver.expect(spec.OP_RW).data == b"ghij"


def test_a_host_that_stalls_is_sent_no_more_than_the_credit_and_loses_nothing(
    open_stream: Open,
) -> None:
    driver, peer = open_stream
    end = driver.ends[PORTS]
    sent = hashlib.sha256()
    total = 0
    while end.credit > 0:
        part = os.urandom(min(end.credit, 32 << 10))
        driver.send(spec.OP_RW, PORTS, part)
        driver.pending()
        sent.update(part)
        total += len(part)
        driver.send(spec.OP_CREDIT_REQUEST, PORTS)
        assert driver.expect(spec.OP_CREDIT_UPDATE).buf_alloc == stream_module.BUF_ALLOC
    assert total >= stream_module.BUF_ALLOC
    received = hashlib.sha256()
    while total:
        data = peer.recv(1 << 16)
        received.update(data)
        total -= len(data)
    assert received.digest() == sent.digest()
    assert driver.expect(spec.OP_CREDIT_UPDATE).op == spec.OP_CREDIT_UPDATE
    driver.send_data(PORTS, b"on")
    assert peer.recv(99) == b"on"


def test_more_than_the_credit_ends_the_stream(open_stream: Open) -> None:
    driver, peer = open_stream
    for _ in range(2 * stream_module.BUF_ALLOC >> 14):
        driver.send(spec.OP_RW, PORTS, bytes(1 << 14))
    driver.send(spec.OP_CREDIT_REQUEST, PORTS)
    assert driver.expect(spec.OP_RST, PORTS)
    assert driver.device.faults == 1
    assert len(read_all(peer)) <= 2 * stream_module.BUF_ALLOC


def test_taking_more_than_was_sent_ends_the_stream(open_stream: Open) -> None:
    driver, peer = open_stream
    driver.send(spec.OP_CREDIT_UPDATE, PORTS, fwd_cnt=1)
    driver.expect(spec.OP_RST, PORTS)
    assert peer.recv(1) == b""


def test_without_buffers_nothing_is_lost(start: Start, listener: socket.socket) -> None:
    driver = start(buffers=0)
    driver.send(spec.OP_REQUEST, PORTS)
    peer = accept(listener)
    data = os.urandom(100_000)
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
    driver.give(0, 1)
    driver.expect(spec.OP_RESPONSE)
    assert driver.receive_data(PORTS, len(data)) == data
    assert driver.expect(spec.OP_SHUTDOWN).flags == spec.SHUTDOWN_SEND


def test_a_guest_that_takes_no_answers_is_not_listened_to(start: Start) -> None:
    driver = start(buffers=0)
    for port in range(device_module.REPLIES_MAX):
        driver.send(spec.OP_RW, (1, port))
    driver.send(spec.OP_RW, (2, 2), wait=False)
    assert not driver.pending()
    assert not driver.tx.collect()
    driver.give(0)
    for port in range(device_module.REPLIES_MAX):
        driver.expect(spec.OP_RST, (1, port))
    driver.expect(spec.OP_RST, (2, 2))


def test_requests_taken_back_while_the_guest_has_no_buffers_leave_nothing(
    start: Start, listener: socket.socket
) -> None:
    driver = start(buffers=0)
    for _ in range(50):
        driver.send(spec.OP_REQUEST, PORTS)
        driver.send(spec.OP_RST, PORTS)
        accept(listener).close()
    assert no_streams(driver)


# ---- ends ----


def test_the_host_may_end_its_half_first(open_stream: Open) -> None:
    driver, peer = open_stream
    peer.sendall(b"last")
    peer.shutdown(socket.SHUT_WR)
    assert driver.receive_data(PORTS, 4) == b"last"
    assert driver.expect(spec.OP_SHUTDOWN, PORTS).flags == spec.SHUTDOWN_SEND
    driver.send_data(PORTS, b"answer")
    driver.send(spec.OP_SHUTDOWN, PORTS, flags=spec.SHUTDOWN_BOTH)
    driver.expect(spec.OP_RST, PORTS)
    assert read_all(peer) == b"answer"


def test_the_guest_may_end_its_half_first(open_stream: Open) -> None:
    driver, peer = open_stream
    driver.send_data(PORTS, b"question")
    driver.send(spec.OP_SHUTDOWN, PORTS, flags=spec.SHUTDOWN_SEND)
    assert read_all(peer) == b"question"
    peer.sendall(b"answer")
    assert driver.receive_data(PORTS, 6) == b"answer"
    peer.close()
    assert driver.expect(spec.OP_SHUTDOWN).flags == spec.SHUTDOWN_BOTH
    driver.send(spec.OP_SHUTDOWN, PORTS, flags=spec.SHUTDOWN_BOTH)
    driver.expect(spec.OP_RST, PORTS)


def test_a_host_that_ends_its_half_and_then_goes_is_told_twice(open_stream: Open) -> None:
    driver, peer = open_stream
    peer.shutdown(socket.SHUT_WR)
    assert driver.expect(spec.OP_SHUTDOWN).flags == spec.SHUTDOWN_SEND
    peer.close()
    assert driver.expect(spec.OP_SHUTDOWN).flags == spec.SHUTDOWN_BOTH
    driver.send(spec.OP_RST, PORTS)
    assert not driver.pending()


def test_what_the_host_sent_before_it_went_arrives_before_the_end(open_stream: Open) -> None:
    driver, peer = open_stream
    peer.sendall(b"legacy")
    peer.close()
    driver.send(spec.OP_RW, PORTS, b"too late")
    data = b""
    while (packet := driver.receive()).op == spec.OP_RW or packet.flags != spec.SHUTDOWN_BOTH:
        data += packet.data
    assert data == b"legacy"
    driver.send(spec.OP_RW, PORTS, b"still too late")
    driver.send(spec.OP_RST, PORTS)
    assert not driver.pending()
    assert no_streams(driver)


def test_a_guest_that_receives_no_more_may_go_on_sending(open_stream: Open) -> None:
    driver, peer = open_stream
    driver.send(spec.OP_SHUTDOWN, PORTS, flags=spec.SHUTDOWN_RCV)
    with pytest.raises(BrokenPipeError):
        peer.sendall(b"in vain")
    driver.send_data(PORTS, b"only this way")
    assert peer.recv(99) == b"only this way"
    assert not driver.pending()


def test_the_end_of_the_guests_half_follows_what_a_slow_host_has_yet_to_read(
    open_stream: Open,
) -> None:
    driver, peer = open_stream
    data = fill(driver)
    driver.send(spec.OP_SHUTDOWN, PORTS, flags=spec.SHUTDOWN_SEND)
    assert read_all(peer) == data
    peer.sendall(b"answer")
    assert driver.receive_data(PORTS, 6) == b"answer"


@pytest.mark.parametrize("how", ["shutdown", "reset"])
def test_what_the_guest_sent_before_it_went_reaches_a_slow_host(
    open_stream: Open, how: str
) -> None:
    driver, peer = open_stream
    data = fill(driver)
    op = spec.OP_SHUTDOWN if how == "shutdown" else spec.OP_RST
    driver.send(op, PORTS, flags=spec.SHUTDOWN_BOTH)
    assert {packet.op for packet in driver.pending()} <= {spec.OP_CREDIT_UPDATE}
    assert read_all(peer) == data
    if how == "shutdown":
        driver.expect(spec.OP_RST, PORTS)
    assert not driver.pending()


def test_a_reset_by_the_driver_ends_all_and_the_next_driver_starts_anew(
    open_stream: Open, listener: socket.socket
) -> None:
    driver, peer = open_stream
    driver.guest.reset()
    assert peer.recv(1) == b""
    again = VsockDriver(driver.guest)
    again.connect(PORTS)
    again.send_data(PORTS, b"again")
    assert accept(listener).recv(99) == b"again"


def test_when_the_streams_are_forgotten_the_driver_is_told(open_stream: Open) -> None:
    driver, peer = open_stream
    events = driver.guest.queues[spec.EVENT]
    driver.device.reset_streams()
    assert peer.recv(1) == b""
    events.add(writable=[4])
    events.kick()
    assert events.wait()[0].data == spec.EVENT_PACKET.pack(spec.EVENT_TRANSPORT_RESET)
    driver.send(spec.OP_RW, PORTS, b"?")
    driver.expect(spec.OP_RST, PORTS)


def test_a_quiesced_device_loses_nothing(open_stream: Open) -> None:
    driver, peer = open_stream
    device = driver.device
    device.worker.call(device.quiesce)
    peer.sendall(b"for later")
    driver.send(spec.OP_RW, PORTS, b"later", wait=False)
    assert not driver.pending()
    device.worker.call(device.resume)
    assert driver.receive_data(PORTS, 9) == b"for later"
    assert peer.recv(99) == b"later"


def test_closing_the_device_ends_the_streams_and_frees_the_path(
    path: str, listener: socket.socket
) -> None:
    guest = Guest(Vsock("vsock", CID, UnixSockets(path)))
    driver = VsockDriver(guest)
    driver.connect(PORTS)
    peer = accept(listener)
    dial(path, 1)
    guest.close()
    assert peer.recv(1) == b""
    assert not os.path.exists(path)


# ---- many, and much ----


def test_a_thousand_streams_each_carry_their_own(
    start: Start, path: str, listener: socket.socket
) -> None:
    driver = start()
    streams = []
    for number in range(MANY // 2):
        driver.connect((PORTS[0], number))
        streams.append(((PORTS[0], number), accept(listener)))
    for number in range(MANY // 2):
        peer = dial(path, number)
        ports = driver.accept()
        assert line(peer) == b"OK %d\n" % ports[0]
        streams.append((ports, peer))
    for ports, peer in streams:
        driver.send_data(ports, b"%d %d" % ports)
        peer.sendall(b"%d %d!" % ports)
    heard = {}
    while len(heard) < MANY:
        packet = driver.expect(spec.OP_RW)
        heard[packet.ports] = packet.data
    for ports, peer in streams:
        assert heard[ports] == b"%d %d!" % ports
        assert peer.recv(99) == b"%d %d" % ports
        peer.close()
    assert len({driver.expect(spec.OP_SHUTDOWN).ports for _ in streams}) == MANY


def test_streams_beyond_the_limit_are_refused_until_one_ends(
    start: Start, path: str, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "STREAMS_MAX", 3)
    driver = start()
    for number in range(3):
        driver.connect((PORTS[0], number))
        accept(listener)
    driver.send(spec.OP_REQUEST, (PORTS[0], 3))
    driver.expect(spec.OP_RST)
    assert dial(path, 1).recv(1) == b""
    driver.send(spec.OP_RST, (PORTS[0], 1))
    driver.connect((PORTS[0], 3))


def test_streams_that_the_guest_has_left_to_a_slow_host_count_too(
    start: Start, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "STREAMS_MAX", 1)
    driver = start()
    driver.connect(PORTS)
    slow = accept(listener)
    data = fill(driver)
    driver.send(spec.OP_RST, PORTS)
    driver.send(spec.OP_REQUEST, PORTS)
    driver.expect(spec.OP_RST)
    assert read_all(slow) == data
    driver.pending()
    driver.connect(PORTS)


def test_much_arrives_whole_both_ways(open_stream: Open) -> None:
    driver, peer = open_stream
    block = os.urandom(1 << 20)
    expected = hashlib.sha256()
    for number in range(LARGE >> 20):
        expected.update(number.to_bytes(4) + block[4:])
    found = hashlib.sha256()

    def swallow() -> None:
        left = LARGE
        while left:
            data = peer.recv(1 << 18)
            found.update(data)
            left -= len(data)
        for number in range(LARGE >> 20):
            peer.sendall(number.to_bytes(4) + block[4:])

    thread = threading.Thread(target=swallow)
    thread.start()
    for number in range(LARGE >> 20):
        driver.send_data(PORTS, number.to_bytes(4) + block[4:])
    returned = hashlib.sha256()
    left = LARGE
    while left:
        part = min(left, 1 << 17)
        packet = driver.expect(spec.OP_RW)
        returned.update(packet.data)
        left -= packet.length
        if driver.ends[PORTS].received % part < packet.length:
            driver.send(spec.OP_CREDIT_UPDATE, PORTS)
    thread.join()
    assert found.digest() == expected.digest()
    assert returned.digest() == expected.digest()


# ---- a guest that lies ----


@pytest.mark.parametrize(
    "fields", [{"src_cid": CID + 1}, {"dst_cid": 1}, {"dst_cid": CID}, {"src_cid": 0}], ids=str
)
def test_packets_of_others_are_dropped(open_stream: Open, fields: dict[str, int]) -> None:
    driver, peer = open_stream
    driver.send(spec.OP_RW, PORTS, b"forged", **fields)
    assert not driver.pending()
    assert isinstance(driver.device, Vsock)
    assert driver.device.faults == 1
    driver.send(spec.OP_RW, PORTS, b"true")
    assert peer.recv(99) == b"true"


@pytest.mark.parametrize("kind", [0, 2, 3, 0xFFFF])
def test_an_unknown_type_is_reset_with_that_type(start: Start, kind: int) -> None:
    driver = start()
    driver.send(spec.OP_REQUEST, PORTS, type=kind)
    assert driver.expect(spec.OP_RST, PORTS).type == kind


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        (0, {}),
        (8, {}),
        (0xFFFF, {}),
        (spec.OP_REQUEST, {}),
        (spec.OP_RESPONSE, {}),
        (spec.OP_RW, {"len": 7}),
        (spec.OP_RW, {"len": 0xFFFFFFFF}),
    ],
    ids=str,
)
def test_what_an_open_stream_does_not_allow_ends_it(
    open_stream: Open, op: int, fields: dict[str, int]
) -> None:
    driver, peer = open_stream
    driver.send(op, PORTS, **fields)
    driver.expect(spec.OP_RST, PORTS)
    assert peer.recv(1) == b""
    assert isinstance(driver.device, Vsock)
    assert driver.device.faults == 1


def test_data_after_the_end_ends_the_stream(open_stream: Open) -> None:
    driver, peer = open_stream
    driver.send(spec.OP_SHUTDOWN, PORTS, flags=spec.SHUTDOWN_SEND)
    driver.send(spec.OP_RW, PORTS, b"more")
    driver.expect(spec.OP_RST, PORTS)
    assert read_all(peer) == b""


def test_data_before_the_answer_ends_the_request(start: Start, path: str) -> None:
    driver = start()
    peer = dial(path, 80)
    ports = driver.expect(spec.OP_REQUEST).ports
    driver.send(spec.OP_RW, ports, b"hasty")
    driver.expect(spec.OP_RST, ports)
    assert peer.recv(1) == b""


def test_packets_for_no_stream_are_reset_but_resets_are_not_answered(start: Start) -> None:
    driver = start()
    driver.send(spec.OP_RST, PORTS)
    driver.send(spec.OP_RST, PORTS, type=9)
    assert not driver.pending()
    driver.send(spec.OP_SHUTDOWN, PORTS, flags=spec.SHUTDOWN_BOTH)
    driver.expect(spec.OP_RST, PORTS)


def test_what_is_no_packet_is_dropped(start: Start) -> None:
    driver = start()
    driver.post(bytes(spec.HEADER.size - 1))
    driver.tx.request(writable=[100])
    assert not driver.pending()
    assert isinstance(driver.device, Vsock)
    assert driver.device.faults == 2


def test_a_buffer_without_room_for_a_packet_breaks_the_device(start: Start) -> None:
    driver = start(buffers=0)
    driver.rx.add(writable=[spec.HEADER.size])
    driver.rx.kick()
    driver.send(spec.OP_RW, PORTS)
    driver.guest.wait_reset_wanted()


PACKETS = st.lists(
    st.tuples(
        st.sampled_from([*range(9), 0xFFFF]),  # op
        st.sampled_from([0, 1, 2]),  # which stream
        st.sampled_from([0, 1, 2, 3, 0xFFFFFFFF]),  # flags
        st.sampled_from([0, 1, 100, 1 << 18, 0xFFFFFFFF]),  # buf_alloc
        st.sampled_from([0, 0, 0, 1, 1 << 31, 0xFFFFFFFF]),  # fwd_cnt
        st.sampled_from([1, 1, 1, 1, 2]),  # type
        st.sampled_from([0, 0, 0, 1, 0xFFFFFFFF]),  # beyond the payload's length
        st.sampled_from([0, 1, 40_000]),  # payload
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(packets=PACKETS)
def test_no_packets_do_harm(packets: list[tuple[int, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/v"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{path}_52")
            listener.listen(MANY)
            listener.setblocking(False)
            device = Vsock("vsock", CID, UnixSockets(path))
            guest = Guest(device)
            driver = VsockDriver(guest)
            dial(path, 80)
            streams = [(52, 1), (52, 2), driver.expect(spec.OP_REQUEST).ports]
            for op, which, flags, room, taken, kind, beyond, count in packets:
                driver.send(
                    op,
                    streams[which],
                    bytes(count),
                    flags=flags,
                    buf_alloc=room,
                    fwd_cnt=taken,
                    type=kind,
                    len=min(count + beyond, 0xFFFFFFFF),
                )
                if select.select([listener], [], [], 0)[0]:
                    with suppress(BrokenPipeError):
                        accept(listener).sendall(b"hello")
                driver.pending()
            assert not guest.reset_wanted.is_set()
            assert len(device._streams) + len(device._orphans) <= len(packets) + 1
            assert len(device._turns) <= len(device._streams)
            guest.close()


REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 2),  # queue
        st.lists(st.binary(max_size=60), max_size=3),
        st.lists(st.integers(0, 90), max_size=3),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(requests=REQUESTS)
def test_no_requests_do_harm(requests: list[tuple[int, list[bytes], list[int]]]) -> None:
    """Each comes back, or the device says that it needs a reset, and works after one."""
    with tempfile.TemporaryDirectory() as folder:
        guest = Guest(Vsock("vsock", CID, UnixSockets(f"{folder}/v")))
        guest.start()
        for queue, readable, writable in requests:
            if readable or writable:
                guest.queues[queue].add(readable, writable)
                guest.queues[queue].kick()
        guest.device.worker.call(guest.device.reset_streams)  # type: ignore[attr-defined]
        guest.device.worker.call(lambda: None)
        sent = sum(queue == spec.TX and bool(r or w) for queue, r, w in requests)
        if not guest.reset_wanted.is_set():
            assert len(guest.queues[spec.TX].collect()) == sent
        guest.reset()
        driver = VsockDriver(guest)
        driver.send(spec.OP_REQUEST, PORTS)
        driver.expect(spec.OP_RST, PORTS)
        guest.close()
