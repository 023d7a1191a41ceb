"""A guest on an Ethernet, of hand-made frames: ARP, DHCP, UDP, ICMPv6 and a TCP without losses."""

from __future__ import annotations

import queue
import socket
import struct
from collections.abc import Callable, Sequence

from pyvmm.worker import Worker

PATIENCE = 30.0  # seconds until a test that waits is called stuck
HEADER = bytes(12)  # struct virtio_net_hdr
MAC = bytes.fromhex("525400123456")
BROADCAST = b"\xff" * 6
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
TCP, UDP, ICMPV6 = 6, 17, 58
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
WINDOW = 65535


def ip4(text: str) -> bytes:
    return socket.inet_aton(text)


def ip6(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(kind: int, payload: bytes, to: bytes = BROADCAST, source: bytes = MAC) -> bytes:
    return to + source + struct.pack(">H", kind) + payload


def arp(operation: int, sender: bytes, target: bytes, target_mac: bytes = bytes(6)) -> bytes:
    header = struct.pack(">HHBBH", 1, IPV4, 6, 4, operation)
    return ethernet(ARP, header + MAC + sender + target_mac + target)


def ipv4(protocol: int, source: bytes, target: bytes, payload: bytes) -> bytes:
    def header(check: int) -> bytes:
        return struct.pack(
            *(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, check),
            *(source, target),
        )

    return ethernet(IPV4, header(checksum(header(0))) + payload)


def ipv6(protocol: int, source: bytes, target: bytes, payload: bytes) -> bytes:
    header = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 255)
    return ethernet(IPV6, header + source + target + payload)


def pseudo_header(source: bytes, target: bytes, protocol: int, length: int) -> bytes:
    if len(source) == 4:
        return source + target + struct.pack(">BBH", 0, protocol, length)
    return source + target + struct.pack(">II", length, protocol)


def udp(source: bytes, source_port: int, target: bytes, port: int, payload: bytes) -> bytes:
    header = struct.pack(">HHHH", source_port, port, 8 + len(payload), 0)
    check = checksum(pseudo_header(source, target, UDP, 8 + len(payload)) + header + payload)
    datagram = header[:6] + struct.pack(">H", check or 0xFFFF) + payload
    return (ipv4 if len(source) == 4 else ipv6)(UDP, source, target, datagram)


def icmpv6(source: bytes, target: bytes, message: bytes) -> bytes:
    check = checksum(pseudo_header(source, target, ICMPV6, len(message)) + message)
    return ipv6(ICMPV6, source, target, message[:2] + struct.pack(">H", check) + message[4:])


class Packet:
    """What a test wants to know of a frame."""

    def __init__(self, frame: bytes) -> None:
        self.kind = struct.unpack_from(">H", frame, 12)[0]
        self.payload = frame[14:]
        self.protocol = 0
        if self.kind == IPV4:
            self.protocol = self.payload[9]
            self.source, self.target = self.payload[12:16], self.payload[16:20]
            length = struct.unpack_from(">H", self.payload, 2)[0]
            assert checksum(self.payload[:20]) == 0
            self.payload = self.payload[20:length]
        elif self.kind == IPV6:
            length, self.protocol = struct.unpack_from(">HB", self.payload, 4)
            self.source, self.target = self.payload[8:24], self.payload[24:40]
            self.payload = self.payload[40 : 40 + length]
        if self.protocol in (TCP, UDP):
            self.source_port, self.port = struct.unpack_from(">HH", self.payload)


class EthernetGuest:
    """A guest at the other end of a Link, whose worker is a thread of its own.

    `room` is how many frames it still takes, None for any number.
    """

    def __init__(self, link: object, address: bytes = ip4("10.0.2.15")) -> None:
        self.link = link
        self.address = address
        self.room: int | None = None
        self.arrived: queue.Queue[bytes] = queue.Queue()
        self.early: list[Packet] = []  # that nobody has asked for yet
        self.worker = Worker("guest")
        self.calling = False
        self.worker.call(lambda: link.open(self.worker.loop, self._receive, lambda: None))

    def _receive(self, frame: Sequence[bytes | memoryview]) -> bool:
        assert not self.calling, "receive must not be called by send or wake"
        assert bytes(frame[0]) == HEADER
        if self.room is not None:
            if self.room == 0:
                return False
            self.room -= 1
        self.arrived.put(b"".join(frame[1:]))
        return True

    def send(self, *frames: bytes) -> None:
        """Send frames in one go, each in two pieces as a driver's may be."""

        def send() -> None:
            self.calling = True
            for frame in frames:
                self.link.send((HEADER, memoryview(frame)[:14], memoryview(frame)[14:]))
            self.calling = False

        self.worker.call(send)

    def make_room(self, frames: int | None) -> None:
        def wake() -> None:
            self.room = frames
            self.calling = True
            self.link.wake()
            self.calling = False

        self.worker.call(wake)

    def expect(self, wanted: Callable[[Packet], bool]) -> Packet:
        """The next packet that is wanted; ARP requests are answered meanwhile."""
        for index, packet in enumerate(self.early):
            if wanted(packet):
                return self.early.pop(index)
        while True:
            packet = Packet(self.arrived.get(timeout=PATIENCE))
            if packet.kind == ARP and packet.payload[7] == 1:
                self._answer_arp(packet)
            if wanted(packet):
                return packet
            self.early.append(packet)

    def _answer_arp(self, packet: Packet) -> None:
        sender_mac, sender, target = (
            packet.payload[8:14],
            packet.payload[14:18],
            packet.payload[24:28],
        )
        if target == self.address:
            self.send(arp(2, self.address, sender, sender_mac))

    def close(self) -> None:
        self.worker.call(self.link.close)
        self.worker.close()


class Connection:
    """One TCP connection of a guest's. What it sends stays inside the other side's window."""

    def __init__(self, guest: EthernetGuest, target: bytes, port: int, own_port: int) -> None:
        self.guest, self.target, self.port, self.own_port = guest, target, port, own_port
        self.sent = 1000  # the next sequence number
        self.acknowledged = self.sent  # by the other side
        self.seen = 0  # the next sequence number of the other side's
        self.window = 0
        self.finished = False  # the other side has
        self.received = bytearray()

    @classmethod
    def connect(
        cls, guest: EthernetGuest, target: bytes, port: int, *, own_port: int = 40000, mss: int
    ) -> Connection:
        connection = cls(guest, target, port, own_port)
        connection.transmit(SYN, options=struct.pack(">BBH", 2, 4, mss))
        connection.handle()
        connection.transmit(ACK)
        return connection

    @classmethod
    def accept(cls, guest: EthernetGuest, own_port: int, *, mss: int) -> Connection:
        syn = guest.expect(lambda packet: packet.protocol == TCP and packet.port == own_port)
        connection = cls(guest, syn.source, syn.source_port, own_port)
        connection.parse(syn)
        connection.transmit(SYN | ACK, options=struct.pack(">BBH", 2, 4, mss))
        connection.handle()
        return connection

    def transmit(self, flags: int, data: bytes = b"", options: bytes = b"") -> None:
        header = struct.pack(
            *(">HHIIBBHHH", self.own_port, self.port, self.sent & 0xFFFFFFFF),
            *(self.seen & 0xFFFFFFFF, (20 + len(options)) // 4 << 4, flags, WINDOW, 0, 0),
        )
        segment = header + options + data
        source = self.guest.address
        check = checksum(pseudo_header(source, self.target, TCP, len(segment)) + segment)
        segment = segment[:16] + struct.pack(">H", check) + segment[18:]
        self.sent += len(data) + bool(flags & (SYN | FIN))
        self.guest.send(ipv4(TCP, source, self.target, segment))

    def handle(self) -> None:
        """Wait for one segment, and take it."""
        self.parse(self.guest.expect(lambda p: p.protocol == TCP and p.port == self.own_port))

    def parse(self, packet: Packet) -> None:
        sequence, acknowledged, offset, flags, window = struct.unpack_from(
            ">IIBBH", packet.payload, 4
        )
        assert not flags & RST, "the connection was reset"
        data = packet.payload[(offset >> 4) * 4 :]
        assert (
            checksum(
                pseudo_header(packet.source, packet.target, TCP, len(packet.payload))
                + packet.payload
            )
            == 0
        )
        if flags & SYN:
            self.seen = sequence + 1
        else:
            assert sequence == self.seen & 0xFFFFFFFF, "a segment was lost"
            self.seen += len(data) + bool(flags & FIN)
            self.finished |= bool(flags & FIN)
        if flags & ACK:
            self.acknowledged += acknowledged - self.acknowledged & 0xFFFFFFFF
            self.window = window
        self.received += data
        if data or flags & FIN:
            self.transmit(ACK)

    def send_all(self, data: bytes, mss: int) -> None:
        at = 0
        while at < len(data) or self.acknowledged < self.sent:
            room = min(self.window - (self.sent - self.acknowledged), mss, len(data) - at)
            if room > 0:
                self.transmit(ACK | PSH, data[at : at + room])
                at += room
            else:
                self.handle()

    def receive_all(self) -> bytes:
        """All that comes until the other side is finished."""
        while not self.finished:
            self.handle()
        return bytes(self.received)

    def finish(self) -> None:
        self.transmit(FIN | ACK)
