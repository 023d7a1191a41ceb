"""The socket device under a guest that lies: what it says is reset or dropped, and counted."""

from __future__ import annotations

import select
import socket
import tempfile
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.backends.vsock_sockets import UnixSockets
from pyvmm.virtio import vsock_spec as spec
from pyvmm.virtio.vsock import Vsock
from tests.fakes.driver import Guest
from tests.fakes.vsock import VsockDriver
from tests.fakes.vsock_host import CID, MANY, PORTS, Open, accept, dial, read_all
from tests.unit.virtio.vsock.conftest import Start

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
