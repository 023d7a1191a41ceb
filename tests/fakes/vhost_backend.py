"""A vhost-user back end in a thread: it answers every request with the request's own bytes.

    fake = FakeBackEnd()                      # the `back_end` of a VhostUserDevice
    fake.die()                                # as a process does that is killed
    fake.answers[spec.GET_FEATURES] = ...     # bytes to answer with, or None to say nothing

A request HOLD is not answered until `release`; those that come after it are.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress

from pyvmm.errors import HostError
from pyvmm.memory import GuestMemory, Region
from pyvmm.virtio import vhost_user_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.split_queue import SplitQueue
from pyvmm.virtio.virtqueue import Ring
from tests.fakes.driver import PATIENCE

HOLD = b"hold"
FEATURES = (
    virtio_spec.F_VERSION_1
    | virtio_spec.F_INDIRECT_DESC
    | virtio_spec.F_EVENT_IDX
    | spec.F_PROTOCOL_FEATURES
)
PROTOCOL = (
    spec.PROTOCOL_F_MQ
    | spec.PROTOCOL_F_REPLY_ACK
    | spec.PROTOCOL_F_CONFIG
    | spec.PROTOCOL_F_BACKEND_REQ
)
RECORD = b"what is in flight"


class SharedMemory(GuestMemory):
    """What a memory table describes, mapped as another process would."""

    def __init__(self, table: bytes, fds: Sequence[int]) -> None:
        self.fd, self.size = -1, 0
        self.regions, self._mappings, self.users = [], [], []
        (count,) = spec.REGIONS.unpack_from(table)
        assert count == len(fds)
        for place, fd in enumerate(fds):
            at = spec.REGIONS.size + place * spec.REGION.size
            base, size, user, offset = spec.REGION.unpack_from(table, at)
            mapping = mmap.mmap(fd, size, offset=offset)
            os.close(fd)
            self._mappings.append(mapping)
            self.regions.append(Region(base, size, -1, offset, memoryview(mapping)))
            self.users.append(user)

    def guest_address(self, user: int) -> int:
        for region, start in zip(self.regions, self.users, strict=True):
            if start <= user < start + region.size:
                return region.base + user - start
        raise AssertionError(f"user address {user:#x} is in no region")


class Vring:
    def __init__(self) -> None:
        self.size = self.base = self.kick = self.call = 0
        self.areas = (0, 0, 0)
        self.queue: SplitQueue | None = None
        self.held: list[Chain] = []


class Connection(threading.Thread):
    """One connection, served until either side hangs up."""

    def __init__(self, fake: FakeBackEnd, connection: socket.socket) -> None:
        super().__init__(name="fake back end")
        self.fake = fake
        self.socket = connection
        self.features = 0
        self.memory: SharedMemory | None = None
        self.vrings: dict[int, Vring] = {}
        self.channel: socket.socket | None = None
        self.record = b""  # of what is in flight, as it came from the front end
        self.stopped: list[Vring] = []
        self.fds: list[int] = []
        self.error = -1
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.dying = False

    def run(self) -> None:
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                while not self.dying and self._step():
                    pass
        finally:
            for fd in self.fds:
                os.close(fd)
            if self.channel is not None:
                self.channel.close()
            self.socket.close()

    def _step(self) -> bool:
        kicks = {vring.kick: vring for vring in self.vrings.values() if vring.queue}
        ready, _, _ = select.select([self.socket, self.wake, *kicks], [], [], PATIENCE)
        assert ready, "nobody needs the fake back end any more"
        if self.dying:
            return False
        if self.wake in ready:
            os.eventfd_read(self.wake)
            self._release()
        for fd in ready:
            if fd in kicks:
                self._serve(kicks[fd])
        return self.socket not in ready or self._message()

    # ---- requests ----

    def _serve(self, vring: Vring) -> None:
        os.eventfd_read(vring.kick)
        assert vring.queue is not None
        while (chain := vring.queue.pop()) is not None:
            data = chain.read(1 << 16)
            self.fake.served.append(data)
            if data == HOLD and self.fake.hold:
                vring.held.append(chain)
                self.fake.holding.release()
            else:
                self._answer(vring, chain, data)
        if vring.queue.allow():
            os.eventfd_write(vring.kick, 1)

    def _answer(self, vring: Vring, chain: Chain, data: bytes) -> None:
        assert vring.queue is not None
        chain.write(data)
        vring.queue.push(chain)
        if vring.queue.publish():
            os.eventfd_write(vring.call, 1)

    def _release(self) -> None:
        for vring in [*self.vrings.values(), *self.stopped]:
            while vring.held:
                self._answer(vring, vring.held.pop(0), HOLD)

    # ---- messages ----

    def _message(self) -> bool:
        header, fds, _, _ = socket.recv_fds(self.socket, spec.HEADER.size, spec.REGIONS_MAX)
        if not header:
            return False
        request, flags, size = spec.HEADER.unpack(header)
        assert flags & spec.VERSION_MASK == spec.VERSION
        payload = self.socket.recv(size, socket.MSG_WAITALL) if size else b""
        self.fake.requests.append(request)
        answer, given = self._handle(request, payload, fds)
        if answer is None and flags & spec.FLAG_NEED_REPLY:
            answer = spec.U64.pack(0)
        if request in self.fake.answers:
            answer = self.fake.answers[request]
        if answer is not None:
            head = spec.HEADER.pack(request, spec.VERSION | spec.FLAG_REPLY, len(answer))
            socket.send_fds(self.socket, [self.fake.heads.get(request, head) + answer], given)
        return True

    def _handle(self, request: int, payload: bytes, fds: list[int]) -> tuple[bytes | None, list]:
        fake = self.fake
        match request:
            case spec.GET_FEATURES:
                return spec.U64.pack(fake.features), []
            case spec.GET_PROTOCOL_FEATURES:
                return spec.U64.pack(fake.protocol), []
            case spec.SET_FEATURES:
                (self.features,) = spec.U64.unpack(payload)
                fake.features_set.append(self.features)
            case spec.SET_VRING_ENABLE:
                fake.enabled.append(payload)
            case spec.GET_QUEUE_NUM:
                return spec.U64.pack(fake.queues), []
            case spec.GET_CONFIG:
                _, size, _ = spec.CONFIG.unpack_from(payload)
                return payload[: spec.CONFIG.size] + bytes(fake.config[:size]), []
            case spec.SET_CONFIG:
                offset, size, _ = spec.CONFIG.unpack_from(payload)
                fake.config[offset : offset + size] = payload[spec.CONFIG.size :]
            case spec.SET_BACKEND_REQ_FD:
                self.channel = socket.socket(fileno=fds[0])
            case spec.SET_MEM_TABLE:
                self.memory = SharedMemory(payload, fds)
            case spec.GET_INFLIGHT_FD:
                fd = os.memfd_create("in flight")
                os.write(fd, RECORD)
                queues, size = spec.INFLIGHT.unpack(payload)[2:]
                return spec.INFLIGHT.pack(len(RECORD), 0, queues, size), [fd]
            case spec.SET_INFLIGHT_FD:
                length, offset, _, _ = spec.INFLIGHT.unpack(payload)
                self.record = os.pread(fds[0], length, offset)
                os.close(fds[0])
            case spec.GET_VRING_BASE:
                return self._stop_ring(*spec.VRING_STATE.unpack(payload)), []
            case _:
                self._set_ring(request, payload, fds)
        return None, []

    def _set_ring(self, request: int, payload: bytes, fds: list[int]) -> None:
        if not payload:
            return
        self.fds += fds
        (index,) = struct.unpack_from("=I", payload)
        vring = self.vrings.setdefault(index, Vring())
        match request:
            case spec.SET_VRING_NUM:
                vring.size = spec.VRING_STATE.unpack(payload)[1]
            case spec.SET_VRING_BASE:
                vring.base = spec.VRING_STATE.unpack(payload)[1]
            case spec.SET_VRING_ADDR:
                vring.areas = spec.VRING_ADDR.unpack(payload)[2:5]
            case spec.SET_VRING_ERR:
                self.error = fds[0]
            case spec.SET_VRING_CALL:
                vring.call = fds[0]
            case spec.SET_VRING_KICK:
                vring.kick = fds[0]
                self._start_ring(index, vring)

    def _start_ring(self, index: int, vring: Vring) -> None:
        assert self.memory is not None
        descriptors, used, available = map(self.memory.guest_address, vring.areas)
        ring = Ring(
            *(index, vring.size, descriptors, available, used),
            *(self.features, vring.kick, vring.call),
        )
        queue = vring.queue = SplitQueue(self.memory, ring)
        queue._next_avail = vring.base
        queue._next_used = queue._published = self.memory.u16(used + 2)

    def _stop_ring(self, index: int, _: int) -> bytes:
        """Say so at once, also with requests held: qemu-storage-daemon 7.2 does."""
        vring = self.vrings.pop(index)
        self.stopped.append(vring)
        assert vring.queue is not None
        if vring.held:
            self.fake.stopping.set()
        return spec.VRING_STATE.pack(index, vring.queue._next_avail)


class FakeBackEnd:
    """What may be set applies from the next message or connection on."""

    def __init__(self) -> None:
        self.features = FEATURES
        self.protocol = PROTOCOL
        self.queues = 4
        self.config = bytearray(range(64))
        self.answers: dict[int, bytes | None] = {}
        self.features_set: list[int] = []
        self.enabled: list[bytes] = []  # the payloads of SET_VRING_ENABLE
        self.heads: dict[int, bytes] = {}
        self.refusing = False  # connections
        self.hold = True  # what says HOLD
        self.served: list[bytes] = []
        self.requests: list[int] = []
        self.holding = threading.Semaphore(0)
        self.connections: list[Connection] = []
        self.closed = False
        self.stopping = threading.Event()  # a ring, with requests held
        self.called = threading.Condition()  # by the front end, for a connection

    # ---- BackEnd ----

    def connect(self) -> socket.socket:
        if self.refusing:
            raise HostError("Nobody is there")
        ours, theirs = socket.socketpair()
        with self.called:
            self.connections.append(Connection(self, theirs))
            self.connections[-1].start()
            self.called.notify_all()
        return ours

    def explain(self, clause: str) -> str:
        return f"The fake failed: {clause}"

    def disconnect(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        for connection in self.connections:
            connection.join(PATIENCE)
            assert not connection.is_alive()
            os.close(connection.wake)

    # ---- tests ----

    @property
    def now(self) -> Connection:
        """The connection that is served."""
        return self.connections[-1]

    def die(self) -> None:
        """Go without an answer; the requests that are held are lost."""
        connection = self.now
        connection.dying = True
        os.eventfd_write(connection.wake, 1)
        connection.join(PATIENCE)

    def be_replaced(self) -> None:
        """Die, and wait for the front end to notice and to find the next."""
        count = len(self.connections)
        self.die()
        with self.called:
            assert self.called.wait_for(lambda: len(self.connections) > count, PATIENCE)

    def release(self) -> None:
        """Answer what is held."""
        os.eventfd_write(self.now.wake, 1)

    def say(self, message: bytes) -> None:
        """Use the channel for requests of its own."""
        assert self.now.channel is not None
        self.now.channel.sendall(message)
