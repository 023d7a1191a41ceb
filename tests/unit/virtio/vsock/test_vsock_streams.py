"""The socket device: how streams between guest and host begin and end."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from pyvmm.backends.vsock_sockets import UnixSockets
from pyvmm.virtio import vsock as device_module
from pyvmm.virtio import vsock_spec as spec
from pyvmm.virtio.vsock import Vsock
from tests.fakes.driver import PATIENCE, Guest
from tests.fakes.vsock import VsockDriver
from tests.fakes.vsock_host import CID, PORTS, Open, accept, dial, fill, line, no_streams, read_all
from tests.unit.virtio.conftest import MakeGuest
from tests.unit.virtio.vsock.conftest import Start

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
