"""The guest's socket driver, packet by packet.

driver = VsockDriver(guest)               # starts the guest and gives the device buffers
driver.send(spec.OP_REQUEST, ports)       # ports are the host's and the guest's
packet = driver.receive()                 # the next of the device's, whatever it is
driver.send_data(ports, data); driver.receive_data(ports, count)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pyvmm.virtio import virtio_spec
from pyvmm.virtio import vsock_spec as spec
from pyvmm.virtio.vsock import VsockDevice
from tests.fakes.driver import AREA, Guest, Used

MASK = spec.COUNTER_MASK
ROOM = 256 << 10  # buf_alloc
BUFFERS_AT = 2 << 20  # where the buffers for the device's packets are


@dataclass
class Packet:
    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    length: int
    type: int
    op: int
    flags: int
    buf_alloc: int
    fwd_cnt: int
    data: bytes

    @property
    def ports(self) -> tuple[int, int]:
        return self.src_port, self.dst_port


@dataclass
class End:
    """What the driver counts of one stream."""

    sent: int = 0
    taken: int = 0  # by the host
    host_room: int = 0
    received: int = 0
    room: int = ROOM

    @property
    def credit(self) -> int:
        return self.host_room - (self.sent - self.taken & MASK)


class VsockDriver:
    def __init__(self, guest: Guest, *, buffers: int = 16, size: int = 16 << 10) -> None:
        device = guest.device
        assert isinstance(device, VsockDevice)
        self.guest, self.device = guest, device
        self.size = size
        self.ends: dict[tuple[int, int], End] = {}
        self.inbox: deque[Packet] = deque()
        guest.start(size=128)
        self.rx, self.tx = guest.queues[spec.RX], guest.queues[spec.TX]
        self._places: dict[int, int] = {}  # of buffers that the device has, by token
        assert self.rx.ring.descriptor_area + 2 * AREA < BUFFERS_AT
        self.give(*range(buffers))

    def give(self, *numbers: int) -> None:
        """Give the device buffers, each number once."""
        for number in numbers:
            at = BUFFERS_AT + number * self.size
            writable = [(at, spec.HEADER.size), (at + spec.HEADER.size, self.size - 64)]
            descriptors = [(*part, virtio_spec.DESC_F_WRITE) for part in writable]
            self._places[self.rx.add_descriptors(descriptors, writable)] = number
        self.rx.kick()

    # ---- packets ----

    def post(self, header: bytes, payload: bytes = b"") -> None:
        """Send what may be no packet; until the device has taken it."""
        self.tx.request([header, payload] if payload else [header])

    def send(
        self,
        op: int,
        ports: tuple[int, int],
        payload: bytes = b"",
        *,
        flags: int = 0,
        wait: bool = True,
        **fields: int,
    ) -> None:
        """Send a packet; `fields` replace those that it should have."""
        end = self.ends.setdefault(ports, End())
        values = {
            "src_cid": self.device.cid,
            "dst_cid": spec.CID_HOST,
            "src_port": ports[1],
            "dst_port": ports[0],
            "len": len(payload),
            "type": spec.TYPE_STREAM,
            "op": op,
            "flags": flags,
            "buf_alloc": end.room,
            "fwd_cnt": end.received,
        }
        packet = [spec.HEADER.pack(*(values | fields).values()), *([payload] if payload else [])]
        if op == spec.OP_RW:
            end.sent = end.sent + len(payload) & MASK
        if wait:
            self.tx.request(packet)
        else:
            self.tx.add(packet)
            self.tx.kick()

    def receive(self) -> Packet:
        """The next packet; its buffer goes back to the device."""
        while not self.inbox:
            self._take(self.rx.wait())
        return self.inbox.popleft()

    def _take(self, given: list[Used]) -> None:
        for used in given:
            header = spec.HEADER.unpack(used.data[: spec.HEADER.size])
            packet = Packet(*header, data=used.data[spec.HEADER.size :])
            assert packet.length == len(packet.data)
            assert (packet.src_cid, packet.dst_cid) == (spec.CID_HOST, self.device.cid)
            self._count(packet)
            self.inbox.append(packet)
            self.give(self._places.pop(used.token))

    def _count(self, packet: Packet) -> None:
        end = self.ends.setdefault(packet.ports, End())
        if packet.op != spec.OP_RST:
            end.host_room, end.taken = packet.buf_alloc, packet.fwd_cnt
        if packet.op == spec.OP_RW:
            end.received = end.received + packet.length & MASK
            assert packet.length

    def expect(self, op: int, ports: tuple[int, int] | None = None) -> Packet:
        """The next packet but credit updates, which must be this."""
        while (packet := self.receive()).op == spec.OP_CREDIT_UPDATE != op:
            pass
        assert packet.op == op, packet
        assert ports in (None, packet.ports)
        return packet

    def pending(self) -> list[Packet]:
        """What the device has to say now."""
        for _ in range(3):
            self.device.worker.call(lambda: None)
        self._take(self.rx.collect())
        packets = list(self.inbox)
        self.inbox.clear()
        return packets

    # ---- streams ----

    def connect(self, ports: tuple[int, int]) -> None:
        """Open a stream to the host's port `ports[0]`."""
        self.send(spec.OP_REQUEST, ports)
        self.expect(spec.OP_RESPONSE, ports)

    def accept(self) -> tuple[int, int]:
        """Accept a stream that the host asks for; its ports."""
        ports = self.expect(spec.OP_REQUEST).ports
        self.send(spec.OP_RESPONSE, ports)
        return ports

    def send_data(self, ports: tuple[int, int], data: bytes) -> None:
        """Send all of it, as credit allows."""
        end, view = self.ends[ports], memoryview(data)
        while view:
            while end.credit <= 0:
                assert self.receive().op == spec.OP_CREDIT_UPDATE
            part = bytes(view[: min(end.credit, 64 << 10)])
            self.send(spec.OP_RW, ports, part)
            view = view[len(part) :]

    def receive_data(self, ports: tuple[int, int], count: int) -> bytes:
        """The next `count` bytes, with the host told when half of the room has been used."""
        data, told = [], self.ends[ports].received
        while count > 0:
            packet = self.expect(spec.OP_RW, ports)
            data.append(packet.data)
            count -= packet.length
            if (self.ends[ports].received - told & MASK) >= self.ends[ports].room // 2:
                told = self.ends[ports].received
                self.send(spec.OP_CREDIT_UPDATE, ports)
        assert count == 0
        return b"".join(data)
