"""The socket device, VIRTIO 1.2 §5.10: streams between programs of the guest and of the host.

    VsockDevice   what is common: the guest's CID and the event queue
    Vsock         the streams are served here, each by a socket of the host (vsock_stream.py)

Where the kernel serves them it is VhostVsock (vhost_vsock.py). How a program of the host is found,
or finds the guest, is the back end's affair.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count

from pyvmm.loop import Loop, Timer
from pyvmm.typed import Protocol
from pyvmm.virtio import virtio_spec
from pyvmm.virtio import vsock_spec as spec
from pyvmm.virtio.chain import Chain, take
from pyvmm.virtio.device import VirtioDevice, ring_doorbell
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue
from pyvmm.virtio.vsock_stream import Header, Stream, Violation

QUEUE_SIZE = 128
STREAMS_MAX = 1024  # open, requested, or with bytes left for the host
REPLIES_MAX = QUEUE_SIZE  # resets that wait for a buffer; then packets wait too (§5.10.6.1)
FIRST_PORT = 1 << 30  # of the host's ends that it does not choose
ANSWER_SECONDS = 20.0  # for the guest, to a request
CONNECT_SECONDS, RETRY_SECONDS = 2.0, 0.02  # for a host's program whose backlog is full


class HostSide(Protocol):
    """The host's programs. The worker's thread, but for `attach`."""

    def attach(self, loop: Loop, arrived: Callable[[socket.socket, int], object]) -> None:
        """Learn the worker's loop, and whom to tell `arrived(connection, port)`.

        `port` is the guest's. Before anything else is called.
        """

    def listen(self, wanted: bool) -> None:
        """Let programs that want the guest arrive, or have them wait."""

    def connect(self, port: int) -> socket.socket:
        """A connection to what listens at the host's `port`.

        Raises BlockingIOError if it has no time now, another OSError if nothing listens.
        """

    def accepted(self, connection: socket.socket, port: int) -> None:
        """The guest has accepted what arrived; `port` is the host's. Raises OSError."""

    def close(self) -> None:
        """Release everything."""


class VsockDevice(VirtioDevice):
    """See VirtioDevice. `cid` is the guest's, CID_MIN to CID_MAX."""

    ID = virtio_spec.ID_VSOCK

    def __init__(self, name: str, cid: int, features: int = 0) -> None:
        super().__init__(name, [QUEUE_SIZE] * spec.QUEUES, features)
        self.cid = cid
        self._events: deque[int] = deque(maxlen=1)

    def read_config(self) -> bytes:
        """See VirtioDevice."""
        return spec.CONFIG.pack(self.cid)

    def reset_streams(self) -> None:
        """Forget every stream, and tell the driver so (§5.10.6.7). Any thread."""
        self.worker.call(self._reset_streams)

    def _reset_streams(self) -> None:
        self._events.append(spec.EVENT_TRANSPORT_RESET)
        if spec.EVENT in self.queues:
            ring_doorbell(self.queues[spec.EVENT])

    def pump_events(self, queue: Virtqueue) -> None:
        """Give the driver the event that waits, if one does."""
        queue.suppress()
        chain = queue.pop() if self._events else None
        if chain is not None:
            chain.write(spec.EVENT_PACKET.pack(self._events.popleft()))
            queue.push(chain)
            self.publish(queue)
        elif self._events and queue.allow():
            ring_doorbell(queue)

    def _stop(self) -> None:
        super()._stop()
        self._events.clear()


class _Buffer:
    """A buffer of the driver's for one packet: what its header, and what its payload, goes into."""

    __slots__ = ("chain", "header", "payload")

    def __init__(self, chain: Chain) -> None:
        """Raises QueueError if there is no room for a header and a byte."""
        self.chain = chain
        self.header = Chain(chain.head, chain.count, (), take(chain.writable, spec.HEADER.size))
        self.payload = chain.writable
        if not self.payload:
            raise QueueError("a buffer has no room for a packet (§5.10.6.4)")

    def finish(self, header: bytes, length: int) -> Chain:
        """The request, with its header and `length` bytes of payload written."""
        self.chain.written = self.header.write(header) + length
        return self.chain


class Vsock(VsockDevice):
    """Serves the streams itself. Unless a method says otherwise: the worker's thread."""

    def __init__(self, name: str, cid: int, host: HostSide) -> None:
        """`host` is the device's from here on."""
        super().__init__(name, cid, spec.F_STREAM)
        self.faults = 0  # packets of the guest's that made no sense
        self._host = host
        self._streams: dict[tuple[int, int], Stream] = {}  # by the host's and the guest's port
        self._orphans: set[Stream] = set()  # the guest has forgotten them
        self._timers: dict[tuple[int, int], Timer] = {}  # of those that wait for the other side
        self._turns: deque[Stream] = deque()  # who may have something to send
        self._replies: deque[bytes] = deque()
        self._stalled = False  # the guest's packets wait until there is room for replies
        self._buffer: _Buffer | None = None  # taken from the driver and not used
        # None soon again, or late packets of one stream would be taken for another's.
        self._ports = (FIRST_PORT + number % FIRST_PORT for number in count())
        host.attach(self.worker.loop, self._arrived)

    def close(self) -> None:
        """See VirtioDevice."""
        self.worker.call(self._host.close)
        super().close()

    def activate(self, features: int, rings: Sequence[Ring]) -> None:
        """See VirtioDevice."""
        self._host.listen(True)
        super().activate(features, rings)

    def _reset_streams(self) -> None:
        self._drop_streams()
        super()._reset_streams()

    def _stop(self) -> None:
        super()._stop()
        self._host.listen(False)
        self._drop_streams()
        self._replies.clear()
        self._stalled = False
        self._buffer = None

    def _drop_streams(self) -> None:
        for stream in (*self._streams.values(), *self._orphans):
            stream.close()
        for timer in self._timers.values():
            timer.cancel()
        for kept in (self._streams, self._orphans, self._timers, self._turns):
            kept.clear()

    # ---- queues ----

    def pump(self, queue: Virtqueue) -> None:
        """See VirtioDevice."""
        if queue.ring.index == spec.EVENT:
            self.pump_events(queue)
            return
        if queue.ring.index == spec.TX:
            self._pump_packets(queue)
        self._feed()

    def _pump_packets(self, queue: Virtqueue) -> None:
        queue.suppress()
        for _ in range(queue.ring.size):
            self._stalled = len(self._replies) >= REPLIES_MAX
            chain = None if self._stalled else queue.pop()
            if chain is None:
                break
            self._take_packet(chain)
            queue.push(chain)
        self.publish(queue)
        if not self._stalled and queue.allow():
            ring_doorbell(queue)

    def _feed(self) -> None:
        """Give the guest packets, from the streams in turn, for as long as it has buffers."""
        queue = self.queues.get(spec.RX)
        if queue is None:
            return
        queue.suppress()
        for _ in range(queue.ring.size):
            if not self._waiting or not self._take_buffer(queue):
                break
            self._send_packet(queue)
        self.publish(queue)
        if self._waiting and (self._buffer is not None or queue.allow()):
            ring_doorbell(queue)
        if self._stalled and len(self._replies) < REPLIES_MAX and spec.TX in self.queues:
            ring_doorbell(self.queues[spec.TX])

    @property
    def _waiting(self) -> bool:
        return bool(self._replies or self._turns)

    def _take_buffer(self, queue: Virtqueue) -> bool:
        if self._buffer is None and (chain := queue.pop()) is not None:
            self._buffer = _Buffer(chain)
        return self._buffer is not None

    def _send_packet(self, queue: Virtqueue) -> None:
        """Send a reply, or what the next stream has; it may turn out to have nothing."""
        assert self._buffer is not None
        if self._replies:
            queue.push(self._buffer.finish(self._replies.popleft(), 0))
            self._buffer = None
            return
        stream = self._turns.popleft()
        stream.queued = False
        filled = stream.fill(self._buffer.payload)
        if filled is not None:
            queue.push(self._buffer.finish(self._header(stream, *filled), filled[2]))
            self._buffer = None
        self._settle(stream)

    def _header(self, stream: Stream, op: int, flags: int, length: int) -> bytes:
        return spec.HEADER.pack(
            *(spec.CID_HOST, self.cid, *stream.ports),
            *(length, spec.TYPE_STREAM, op, flags, *stream.tell_credit()),
        )

    # ---- packets from the guest ----

    def _take_packet(self, chain: Chain) -> None:
        data = chain.read(spec.HEADER.size)
        if len(data) < spec.HEADER.size:
            self._fault("sent a packet without a header (§5.10.6)")
            return
        packet = Header(*spec.HEADER.unpack(data))
        if (packet.src_cid, packet.dst_cid) != (self.cid, spec.CID_HOST):
            self._fault(f"sent a packet from CID {packet.src_cid} to {packet.dst_cid} (§5.10.6)")
            return
        payload = take(chain.readable, packet.len)
        try:
            if packet.type != spec.TYPE_STREAM:
                raise Violation(f"sent a packet of type {packet.type} (§5.10.6.2)")
            if sum(map(len, payload)) != packet.len:
                raise Violation(f"sent a packet of {packet.len} bytes without them (§5.10.6)")
            self._dispatch(packet, payload)
        except Violation as error:
            self._fault(str(error))
            self._refuse(packet)

    def _dispatch(self, packet: Header, payload: Sequence[memoryview]) -> None:
        """Do as a whole packet says. Raises Violation."""
        ports = packet.dst_port, packet.src_port
        stream = self._streams.get(ports)
        if packet.op == spec.OP_RST:
            self._forget(ports)
        elif packet.op == spec.OP_REQUEST and stream is None and ports not in self._timers:
            if packet.fwd_cnt:
                raise Violation("received bytes before a stream was open (§5.10.6.3)")
            self._connect(packet, self.worker.loop.now() + CONNECT_SECONDS)
        elif stream is None:
            self._refuse(packet)  # it may not know yet that the stream has ended
        elif stream.opened:
            stream.take(packet, payload)
            self._settle(stream)
        elif packet.op == spec.OP_RESPONSE:
            self._accepted(stream, packet)
        else:
            raise Violation(f"sent operation {packet.op} before a stream was open")

    def _fault(self, what: str) -> None:
        self.faults += 1
        self.complain(what)

    def _refuse(self, packet: Header) -> None:
        """Forget the stream that a packet is about, and answer with a reset."""
        self._forget((packet.dst_port, packet.src_port))
        if packet.op != spec.OP_RST:
            self._reply_reset((packet.dst_port, packet.src_port), packet.type)

    def _reply_reset(self, ports: tuple[int, int], kind: int = spec.TYPE_STREAM) -> None:
        self._replies.append(
            spec.HEADER.pack(spec.CID_HOST, self.cid, *ports, 0, kind, spec.OP_RST, 0, 0, 0)
        )

    # ---- streams ----

    def _settle(self, stream: Stream) -> None:
        """See what is next for a stream after something has happened to it."""
        if stream in self._orphans:
            if stream.finished:
                self._orphans.remove(stream)
                stream.close()
        elif stream.finished:  # §5.10.6.5: it is the one who has all that confirms the end
            self._forget(stream.ports)
            self._reply_reset(stream.ports)
        elif stream.eager and not stream.queued:
            stream.queued = True
            self._turns.append(stream)

    def _looked(self, stream: Stream) -> None:
        """Something has happened to a stream's socket."""
        self._guarded(lambda: self._settle(stream))

    def _guarded(self, function: Callable[[], object]) -> None:
        """Call it, when it was not the driver who rang, and then send what there is."""
        try:
            function()
            self._feed()
        except QueueError as error:
            self.fail(error)

    def _full(self) -> bool:
        ports = self._streams.keys() | self._timers.keys()
        return len(ports) + len(self._orphans) >= STREAMS_MAX

    def _add(self, connection: socket.socket, ports: tuple[int, int]) -> Stream:
        stream = Stream(connection, ports, self.worker.loop, self._looked)
        self._streams[ports] = stream
        return stream

    def _forget(self, ports: tuple[int, int]) -> None:
        """The guest has no such stream any more."""
        if (timer := self._timers.pop(ports, None)) is not None:
            timer.cancel()
        if (stream := self._streams.pop(ports, None)) is not None:
            if stream.queued:
                self._turns.remove(stream)
            stream.abandon()
            self._orphans.add(stream)
            self._settle(stream)

    def _connect(self, packet: Header, deadline: float) -> None:
        """The guest wants a port of the host; try until `deadline` if nobody has time for it."""
        ports, loop = (packet.dst_port, packet.src_port), self.worker.loop
        self._timers.pop(ports, None)
        try:
            if self._full():
                raise ConnectionRefusedError
            connection = self._host.connect(packet.dst_port)
        except BlockingIOError:
            if loop.now() < deadline:
                again = partial(self._guarded, lambda: self._connect(packet, deadline))
                self._timers[ports] = loop.call_at(loop.now() + RETRY_SECONDS, again)
            else:
                self._refuse(packet)
        except OSError:
            self._refuse(packet)
        else:
            stream = self._add(connection, ports)
            stream.take_credit(packet)
            stream.announce(spec.OP_RESPONSE)
            stream.open()
            self._settle(stream)

    def _arrived(self, connection: socket.socket, port: int) -> None:
        """A program of the host wants a port of the guest."""
        if not (self.queues or self._held) or self._full():
            connection.close()
            return
        ports = self._free_port(), port
        stream = self._add(connection, ports)
        stream.announce(spec.OP_REQUEST)
        loop = self.worker.loop
        late = partial(self._guarded, lambda: self._unanswered(stream))
        self._timers[ports] = loop.call_at(loop.now() + ANSWER_SECONDS, late)
        self._looked(stream)

    def _free_port(self) -> int:
        """A port of the host that no stream has; there are more ports than streams."""
        taken = {port for port, _ in (*self._streams, *self._timers)}
        return next(port for port in self._ports if port not in taken)

    def _accepted(self, stream: Stream, packet: Header) -> None:
        stream.take_credit(packet)
        self._timers.pop(stream.ports).cancel()
        with suppress(OSError):  # it has gone; the stream's socket says so too
            self._host.accepted(stream.socket, stream.ports[0])
        stream.open()
        self._settle(stream)

    def _unanswered(self, stream: Stream) -> None:
        self._forget(stream.ports)
        self._reply_reset(stream.ports)
