"""The socket device: credit both ways, many streams, and much data."""

from __future__ import annotations

import hashlib
import os
import socket
import threading

import pytest

from pyvmm.virtio import vsock as device_module
from pyvmm.virtio import vsock_spec as spec
from pyvmm.virtio import vsock_stream as stream_module
from tests.fakes.vsock_host import MANY, PORTS, Open, accept, dial, fill, line, no_streams, read_all
from tests.unit.virtio.vsock.conftest import Start

LARGE = 100 << 20


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
