"""User networking: the real libslirp, with a guest of hand-made frames and servers on loopback."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.backends import libslirp, slirp_spec
from pyvmm.backends.native_slirp import NativeSlirp
from pyvmm.backends.slirp import Slirp
from pyvmm.backends.slirp_options import Forward, parse_subnet
from pyvmm.errors import HostError
from pyvmm.loop import Timer
from pyvmm.net_config import UserNet
from pyvmm.peripherals import Host
from tests.fakes.driver import Guest
from tests.fakes.ethernet import (
    ARP,
    HEADER,
    ICMPV6,
    MAC,
    PATIENCE,
    TCP,
    UDP,
    Connection,
    EthernetGuest,
    Packet,
    arp,
    ethernet,
    icmpv6,
    ip4,
    ip6,
    ipv4,
    udp,
)
from tests.fakes.user import RingGuest

MIB = 1 << 20
HOST, NAME_SERVER = ip4("10.0.2.2"), ip4("10.0.2.3")
LOOPBACK = "127.0.0.1"
OWN6, HOST6 = ip6("fec0::5054:ff:fe12:3456"), ip6("fec0::2")
SOLICITATION = icmpv6(ip6("fe80::5054:ff:fe12:3456"), ip6("ff02::2"), bytes([133]) + bytes(7))
# RFC 4861 §4.4: a neighbour advertisement, solicited and overriding, with the link-layer address
NEIGHBOUR = bytes([136, 0, 0, 0, 0x60, 0, 0, 0]) + OWN6 + bytes([2, 1]) + MAC


def load() -> bool:
    try:
        libslirp._load()
    except HostError:
        return False
    return True


pytestmark = pytest.mark.skipif(not load(), reason="libslirp is not installed (libslirp0)")


class Guests(ExitStack):
    """Guests of a network whose frames either Python or C moves."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def make(self, subnet: str = slirp_spec.SUBNET, **options: object) -> EthernetGuest:
        if self.way == "C":
            guest: EthernetGuest = RingGuest(NativeSlirp(parse_subnet(subnet), **options))
        else:
            guest = EthernetGuest(Slirp(parse_subnet(subnet), **options))
        self.callback(guest.close)
        return guest


@pytest.fixture(params=["C", "Python"])
def guests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guests]:
    monkeypatch.setenv("PYVMM_NO_FASTPATH", str(int(request.param == "Python")))
    with Guests(request.param) as guests:
        yield guests


@pytest.fixture
def guest(guests: Guests) -> EthernetGuest:
    return guests.make()


def server(kind: socket.SocketKind = socket.SOCK_STREAM, address: str = LOOPBACK) -> socket.socket:
    """Something that listens on a port of the host's loopback."""
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.settimeout(PATIENCE)
    made.bind((address, 0))
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, address: str = LOOPBACK) -> int:
    with server(kind, address) as probe:
        return int(probe.getsockname()[1])


def forward(port: int, guest_port: int, protocol: str = "tcp") -> Forward:
    return Forward(protocol, LOOPBACK, port, guest_port)


# ---- DHCP ----


def dhcp(message: int, options: bytes = b"") -> bytes:
    """RFC 2131, table 1; RFC 2132 §9.6."""
    fixed = struct.pack(">BBBBIHH16s", 1, 1, 6, 0, 0x5EED, 0, 0, b"") + MAC.ljust(16, b"\0")
    body = fixed + bytes(192) + bytes.fromhex("63825363") + bytes([53, 1, message]) + options
    return udp(bytes(4), 68, b"\xff" * 4, 67, body + b"\xff")


def dhcp_answer(packet: Packet) -> tuple[bytes, dict[int, bytes]]:
    """The address that is given, and the options by number."""
    body = packet.payload[8:]
    options, at = {}, 240
    while body[at] != 255:
        options[body[at]] = body[at + 2 : at + 2 + body[at + 1]]
        at += 2 + body[at + 1]
    return body[16:20], options


def is_dhcp(packet: Packet) -> bool:
    return packet.protocol == UDP and packet.port == 68


def test_dhcp_gives_the_first_address_with_router_and_name_server(guest: EthernetGuest) -> None:
    guest.send(dhcp(1))
    address, options = dhcp_answer(guest.expect(is_dhcp))
    assert (address, options[53]) == (ip4("10.0.2.15"), b"\2")
    guest.send(dhcp(3, bytes([50, 4]) + address))
    address, options = dhcp_answer(guest.expect(is_dhcp))
    assert (address, options[53]) == (ip4("10.0.2.15"), b"\5")
    assert (options[3], options[6], options[1]) == (HOST, NAME_SERVER, ip4("255.255.255.0"))


def test_dhcp_tells_the_host_name_and_gives_addresses_of_the_subnet(guests: Guests) -> None:
    guest = guests.make("192.168.64.0/20", hostname="frog.example")
    guest.send(dhcp(1))
    address, options = dhcp_answer(guest.expect(is_dhcp))
    assert address == ip4("192.168.64.15")
    assert options[12] == b"frog.example"
    assert (options[3], options[1]) == (ip4("192.168.64.2"), ip4("255.255.240.0"))


# ---- the local network ----


@pytest.mark.parametrize("address", [HOST, NAME_SERVER])
def test_the_host_and_the_name_server_answer_arp(guest: EthernetGuest, address: bytes) -> None:
    guest.send(arp(1, guest.address, address))
    answer = guest.expect(lambda packet: packet.kind == ARP)
    assert answer.payload[6:8] == b"\0\2"
    assert answer.payload[14:18] == address


def test_a_router_is_advertised_with_its_prefix(guest: EthernetGuest) -> None:
    guest.send(SOLICITATION)
    answer = guest.expect(lambda packet: packet.protocol == ICMPV6 and packet.payload[0] == 134)
    assert bytes([3, 4, 64]) in answer.payload  # RFC 4861 §4.6.2: a prefix of 64 bits
    assert ip6("fec0::") in answer.payload


def test_without_ipv6_no_router_answers(guests: Guests) -> None:
    guest = guests.make(ipv6=False)
    guest.send(SOLICITATION, arp(1, guest.address, HOST))
    assert Packet(guest.arrived.get(timeout=PATIENCE)).kind == ARP


# ---- UDP ----


@pytest.mark.parametrize("size", [1, 1472, 65492])  # the last fills the largest frame
def test_a_datagram_reaches_the_host_and_its_answer_the_guest(
    guest: EthernetGuest, size: int
) -> None:
    question, reply = os.urandom(size), os.urandom(size)
    with server(socket.SOCK_DGRAM) as host:
        port = host.getsockname()[1]
        guest.send(udp(guest.address, 5000, HOST, port, question))
        data, sender = host.recvfrom(1 << 16)
        assert data == question
        host.sendto(reply, sender)
        answer = guest.expect(lambda packet: packet.protocol == UDP)
    assert (answer.source, answer.source_port, answer.port) == (HOST, port, 5000)
    assert answer.payload[8:] == reply


def test_a_forwarded_datagram_reaches_the_guest_and_its_answer_the_host(guests: Guests) -> None:
    port = free_port(socket.SOCK_DGRAM)
    guest = guests.make(forwards=[forward(port, 7, "udp")])
    guest.send(arp(1, guest.address, HOST))
    with server(socket.SOCK_DGRAM) as client:
        client.sendto(b"knock", (LOOPBACK, port))
        asked = guest.expect(lambda packet: packet.protocol == UDP and packet.port == 7)
        assert asked.payload[8:] == b"knock"
        guest.send(udp(guest.address, 7, asked.source, asked.source_port, b"come in"))
        assert client.recvfrom(100) == (b"come in", (LOOPBACK, port))


def test_a_datagram_reaches_the_host_over_ipv6(guest: EthernetGuest) -> None:
    with server(socket.SOCK_DGRAM, "::1") as echo:
        port = echo.getsockname()[1]
        guest.send(icmpv6(OWN6, HOST6, NEIGHBOUR), udp(OWN6, 5000, HOST6, port, b"ping"))
        data, sender = echo.recvfrom(100)
        echo.sendto(data[::-1], sender)
        answer = guest.expect(lambda packet: packet.protocol == UDP)
    assert (answer.source, answer.target, answer.port) == (HOST6, OWN6, 5000)
    assert answer.payload[8:] == b"gnip"


def test_a_port_of_an_ipv6_address_is_forwarded_to_the_guests(guests: Guests) -> None:
    port = free_port(socket.SOCK_DGRAM, "::1")
    guest = guests.make(forwards=[Forward("udp", "::1", port, 7)])
    guest.send(icmpv6(OWN6, HOST6, NEIGHBOUR), arp(1, guest.address, HOST))
    guest.expect(lambda packet: packet.kind == ARP)
    with server(socket.SOCK_DGRAM, "::1") as client:
        client.sendto(b"knock", ("::1", port))
        asked = guest.expect(lambda packet: packet.protocol == UDP and packet.port == 7)
    assert (asked.target, asked.payload[8:]) == (OWN6, b"knock")


# ---- TCP ----


@pytest.mark.parametrize("mss", [1460, 40000])
def test_streams_to_the_host_and_back_arrive_whole(guest: EthernetGuest, mss: int) -> None:
    there, back = os.urandom(3 * MIB), os.urandom(3 * MIB)
    received = []

    def serve() -> None:
        client, _ = listener.accept()
        with client, client.makefile("rb") as file:
            received.append(file.read())
            client.sendall(back)

    with server() as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        connection = Connection.connect(guest, HOST, port, mss=mss)
        connection.send_all(there, mss)
        connection.finish()
        assert connection.receive_all() == back
        thread.join()
    assert received == [there]


def test_a_forwarded_connection_carries_both_ways(guests: Guests) -> None:
    port = free_port()
    guest = guests.make(forwards=[forward(port, 22)])
    there, back = os.urandom(2 * MIB), os.urandom(2 * MIB)
    received = []

    def connect() -> None:
        with socket.create_connection((LOOPBACK, port), PATIENCE) as client:
            client.sendall(there)
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as file:
                received.append(file.read())

    thread = threading.Thread(target=connect)
    thread.start()
    connection = Connection.accept(guest, 22, mss=1460)
    assert connection.receive_all() == there
    connection.send_all(back, 1460)
    connection.finish()
    thread.join()
    assert received == [back]


def test_libslirp_gets_time_earlier_once_there_is_a_connection(guest: EthernetGuest) -> None:
    loop, waits = guest.worker.loop, []
    call_at = loop.call_at

    def record(when: float, callback: Callable[[], object]) -> Timer:
        waits.append(when - loop.now())
        return call_at(when, callback)

    loop.call_at = record
    with server() as listener:
        Connection.connect(guest, HOST, listener.getsockname()[1], mss=1460)
    assert any(0 < wait <= 0.499 for wait in waits)  # src/slirp.c, TIMEOUT_SLOW


def test_a_connection_that_the_host_refuses_is_reset(guest: EthernetGuest) -> None:
    Connection(guest, HOST, free_port(), 40000).transmit(2)
    reset = guest.expect(lambda packet: packet.protocol == TCP)
    assert reset.payload[13] & 4


def test_five_hundred_connections_come_and_go(guest: EthernetGuest) -> None:
    with server() as listener:
        port = listener.getsockname()[1]
        for number in range(500):
            connection = Connection.connect(guest, HOST, port, own_port=20000 + number, mss=1460)
            client, _ = listener.accept()
            with client:
                connection.send_all(b"x" * 10, 1460)
                connection.finish()
                with client.makefile("rb") as file:
                    assert file.read() == b"x" * 10
            connection.receive_all()


# ---- what is not allowed, or goes wrong ----


def test_a_restricted_guest_reaches_no_server_of_the_host(guests: Guests) -> None:
    guest = guests.make(restrict=True)
    with server() as listener, server(socket.SOCK_DGRAM, "::") as datagrams:
        Connection(guest, HOST, listener.getsockname()[1], 40000).transmit(2)
        port = datagrams.getsockname()[1]
        guest.send(udp(guest.address, 5000, HOST, port, b"out"))
        guest.send(udp(guest.address, 5000, NAME_SERVER, 53, b"out of range"))
        guest.send(icmpv6(OWN6, HOST6, NEIGHBOUR), udp(OWN6, 5000, HOST6, port, b"out"))
        guest.send(dhcp(1))  # while that is answered
        guest.expect(is_dhcp)
        listener.setblocking(False)
        datagrams.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        with pytest.raises(BlockingIOError):
            datagrams.recv(100)


def test_a_restricted_guest_can_be_reached_by_a_forwarded_port(guests: Guests) -> None:
    port = free_port()
    guest = guests.make(restrict=True, forwards=[forward(port, 22)])
    with socket.create_connection((LOOPBACK, port), PATIENCE) as client:
        connection = Connection.accept(guest, 22, mss=1460)
        connection.send_all(b"SSH-2.0", 1460)
        assert client.recv(100) == b"SSH-2.0"


@pytest.mark.parametrize(
    ("protocol", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)]
)
def test_a_port_in_use_is_refused_by_name(protocol: str, kind: socket.SocketKind) -> None:
    with server(kind) as user:
        port = user.getsockname()[1]
        with pytest.raises(
            HostError, match=f"{protocol.upper()} port {port} of 127.0.0.1 cannot .* in use"
        ):
            Slirp(parse_subnet(slirp_spec.SUBNET), forwards=[forward(port, 80, protocol)])


def test_a_port_is_free_again_once_the_link_is_closed(guests: Guests) -> None:
    port = free_port()
    for _ in range(2):
        Slirp(parse_subnet(slirp_spec.SUBNET), forwards=[forward(port, 80)]).close()


def test_a_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slirp_spec, "LIBRARY", "libslirp.so.nowhere")
    with pytest.raises(HostError, match="libslirp0"):
        Slirp(parse_subnet(slirp_spec.SUBNET))


# ---- a guest without room ----


def test_what_comes_while_the_guest_has_no_room_waits_in_order(guest: EthernetGuest) -> None:
    guest.send(arp(1, guest.address, HOST))
    guest.expect(lambda packet: packet.kind == ARP)
    guest.make_room(0)
    with server(socket.SOCK_DGRAM) as host:
        guest.send(udp(guest.address, 5000, HOST, host.getsockname()[1], b"ready"))
        _, sender = host.recvfrom(100)
        for number in range(50):
            host.sendto(bytes([number]), sender)
        guest.send(arp(1, guest.address, HOST))
        assert guest.arrived.empty()
        guest.make_room(10)
        guest.make_room(None)
        numbers = [
            guest.expect(lambda packet: packet.protocol == UDP).payload[8] for _ in range(50)
        ]
    assert numbers == list(range(50))


def test_a_guest_that_never_has_room_makes_the_host_keep_only_so_much(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libslirp, "KEPT_MAX", 4096)
    guest = guests.make()
    guest.make_room(0)
    for _ in range(20):
        guest.send(*[arp(1, guest.address, HOST)] * 20)
    kept = guest.link.native.kept if guests.way == "C" else guest.link._kept_size
    assert 4000 < kept <= 4096
    guest.make_room(None)
    guest.expect(lambda packet: packet.kind == ARP)


# ---- hostile frames ----

frames = st.one_of(
    st.binary(max_size=2000),
    st.builds(ethernet, st.sampled_from([ARP, 0x0800, 0x86DD, 0x88F8, 0x8100]), st.binary()),
    st.builds(
        ipv4,
        st.sampled_from([1, TCP, UDP, 2, 41]),
        st.sampled_from([ip4("10.0.2.15"), bytes(4), b"\xff" * 4, HOST]),
        st.sampled_from([HOST, NAME_SERVER, ip4("10.0.2.77"), b"\xff" * 4, ip4("224.0.0.1")]),
        st.binary(max_size=200),
    ),
    st.builds(  # to what libslirp answers itself: DHCP, TFTP
        udp,
        st.sampled_from([ip4("10.0.2.15"), bytes(4), ip4("192.0.2.1")]),
        st.integers(0, 0xFFFF),
        st.sampled_from([HOST, b"\xff" * 4]),
        st.sampled_from([67, 69]),
        st.binary(max_size=600),
    ),
    st.builds(
        lambda payload, port: udp(OWN6, 546, ip6("ff02::1:2"), port, payload),
        st.binary(max_size=200),
        st.sampled_from([69, 547]),  # TFTP, DHCPv6
    ),
    st.builds(
        lambda payload, target: icmpv6(ip6("fec0::15"), ip6(target), payload),
        st.binary(min_size=4, max_size=100),
        st.sampled_from(["fec0::2", "fec0::3", "ff02::1", "ff02::2"]),
    ),
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(frames, max_size=10))
def test_no_frame_does_harm(guest: EthernetGuest, hostile: list[bytes]) -> None:
    guest.send(*hostile)
    guest.send(arp(1, guest.address, HOST))
    answer = guest.expect(lambda packet: packet.kind == ARP and packet.payload[14:18] == HOST)
    assert answer.payload[6:8] in (b"\0\1", b"\0\2")
    guest.early.clear()


# ---- as a device ----


def test_a_device_carries_frames_from_ring_to_ring(guests: Guests) -> None:
    port = free_port()
    host = Host(1, None, lambda _: print, print, None, guests)
    device = Guest(UserNet("eth0", forward={port: 22}, hostname="frog").open(host))
    guests.callback(device.close)
    device.start()
    receive, transmit = device.queues[0], device.queues[1]
    receive.add(writable=[200, 3000])
    receive.kick()
    transmit.request([HEADER + dhcp(1)[:14], dhcp(1)[14:]])
    (used,) = receive.wait()
    address, options = dhcp_answer(Packet(used.data[len(HEADER) :]))
    assert (address, options[12]) == (ip4("10.0.2.15"), b"frog")
    receive.add(writable=[3000])
    receive.kick()
    with socket.create_connection((LOOPBACK, port), PATIENCE):
        (used,) = receive.wait()
    knock = Packet(used.data[len(HEADER) :])
    assert knock.kind == ARP or (knock.protocol, knock.port) == (TCP, 22)
