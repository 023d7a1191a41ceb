"""The network device, VIRTIO 1.2 §5.1: frames between its driver and a link of the host's.

A frame is a list of buffers here, the first of which is its virtio_net_hdr alone. What the driver
sends is handed on from the guest's own memory, with a copy of its header that is checked. What the
link receives waits there for as long as the driver has no room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyvmm.events import Event, LinkChanged
from pyvmm.loop import Loop
from pyvmm.memory import GuestMemory
from pyvmm.typed import Protocol
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.chain import Chain, take
from pyvmm.virtio.device import Transport, VirtioDevice, ring_doorbell
from pyvmm.virtio.net_control import Control
from pyvmm.virtio.net_frame import OVERHEAD, BadFrame, Buffer, check, consistent, flow
from pyvmm.virtio.statistics import NetStatistics
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue

QUIET_SECONDS = 10.0  # between two log lines about frames that could not be sent


class Link(Protocol):
    """The host's side of a network device. All methods are called on the worker's thread.

    What `open` gets may be called on that thread only, once `open` has returned, by `send` and
    `wake` too.
    """

    offloads: int  # of spec.HOST_OFFLOADS and GUEST_OFFLOADS: 0 if frames must be whole
    mtu: int  # the most bytes that a frame carries after its Ethernet header; 65535: any number

    @property
    def up(self) -> bool:
        """Whether there is somebody at the other end."""

    def open(
        self,
        loop: Loop,
        receive: Callable[[Sequence[Buffer]], bool],
        changed: Callable[[], object],
    ) -> None:
        """Begin, with what has to be waited for on `loop`. Raises HostError.

        `receive` takes a frame: its header of 12 bytes (net_frame.WHOLE for a whole frame), then
        buffers, of which the first holds the Ethernet header and a VLAN's tag. It is False if there
        is no room: then the frame is to be offered again once `wake` is called. `changed` is to be
        called when `up` has changed, and when there is room again after `send` had none.
        """

    def set_offloads(self, offloads: int) -> None:
        """Of its GUEST_OFFLOADS, those that the driver takes. Not called if it has none."""

    def send(self, frame: Sequence[memoryview]) -> None:
        """Send a frame: its header, then the guest's own memory, in pieces of any lengths.

        Raises BlockingIOError if there is no room now: it is sent again after `changed`. With any
        other OSError it is dropped, and counted.
        """

    def wake(self) -> None:
        """The driver has room again for what `receive` did not take."""

    def close(self) -> None:
        """Release everything; also if it was not opened."""


class Net(VirtioDevice):
    """A virtio-net device, and the owner of its link."""

    ID = virtio_spec.ID_NET

    def __init__(
        self,
        name: str,
        link: Link,
        mac: bytes,
        *,
        pairs: int = 1,
        mtu: int | None = None,
        tell: Callable[[Event], object] = lambda event: None,
    ) -> None:
        """`pairs` of queues are the most that the driver may use, `mtu` [the link's] in bytes.

        `tell` is told of each LinkChanged.
        """
        self._tell = tell
        self.control = Control(self, mac, link.mtu if mtu is None else mtu, pairs)
        offloads = consistent(link.offloads)
        features = self.control.features | spec.F_MRG_RXBUF | offloads
        if offloads & spec.F_GUEST_CSUM:
            features |= spec.F_CTRL_GUEST_OFFLOADS
        super().__init__(name, [spec.QUEUE_SIZE] * (2 * pairs + 1), features)
        self.link = link
        self._counts = dict.fromkeys(NetStatistics.fields, 0)
        self._plugged = True
        self._quiet_until = 0.0
        self._refused = False  # the link waits for room
        self._spare: dict[int, list[Chain]] = {}  # popped receive buffers, by queue
        self._unsent: dict[int, Chain] = {}  # what the link had no room for, by queue
        self._flows: dict[int, int] = {}  # the pair of queues that the driver last used for each

    def attach(self, memory: GuestMemory, transport: Transport) -> None:
        """See VirtioDevice. Raises HostError if the link does."""
        super().attach(memory, transport)
        self.worker.call(self._open)

    def _open(self) -> None:
        self.link.open(self.worker.loop, self.receive, self._changed)
        self.control.link_up = self.link.up

    def close(self) -> None:
        """See VirtioDevice."""
        self.worker.call(self._release)
        super().close()

    def _release(self) -> None:
        self.deactivate()
        self.link.close()

    def statistics(self) -> NetStatistics | None:
        """See VirtioDevice. Any thread."""
        return NetStatistics(**self._counts)

    def set_link(self, up: bool) -> None:
        """Plug the cable in, or pull it. Any thread."""
        self._plugged = up
        self.worker.call(self._changed)

    def _changed(self) -> None:
        self.control.set_link(self._plugged and self.link.up)
        for index in self._unsent:
            if index in self.queues:
                ring_doorbell(self.queues[index])

    def read_config(self) -> bytes:
        """See VirtioDevice."""
        return self.control.config()

    # ---- what the control queue asks for ----

    def set_pairs(self, pairs: int) -> None:
        """See net_control.Owner."""
        self._flows.clear()
        self._wake()  # what waits for a queue's room may go to another now

    def set_offloads(self, offloads: int) -> None:
        """See net_control.Owner."""
        if self.link.offloads:
            self.link.set_offloads(offloads)

    def config_changed(self) -> None:
        """See net_control.Owner."""
        self.transport.config_changed()

    def link_changed(self) -> None:
        """See net_control.Owner."""
        self.transport.config_changed()
        self._tell(LinkChanged(self.name, self.control.link_up))

    # ---- life ----

    def activate(self, features: int, rings: Sequence[Ring]) -> None:
        """See VirtioDevice."""
        features = consistent(features)
        self.control.reset(features)
        self.set_offloads(features & spec.GUEST_OFFLOADS & self.link.offloads)
        super().activate(features, rings)

    def deactivate(self) -> None:
        """See VirtioDevice."""
        super().deactivate()
        self.control.reset(0)
        self._wake()  # what waits for room is dropped

    def _stop(self) -> None:
        super()._stop()
        self._spare.clear()
        self._unsent.clear()
        self._flows.clear()

    def pump(self, queue: Virtqueue) -> None:
        """See VirtioDevice."""
        if queue.ring.index == self.control.index:
            super().pump(queue)
        elif queue.ring.index % 2:
            self._transmit(queue)
        else:
            queue.suppress()
            self._wake()

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        """Carry out a command of the control queue."""
        self.control.answer(chain)
        return True

    # ---- to the guest ----

    def receive(self, frame: Sequence[Buffer]) -> bool:
        """Give the driver a frame, as Link.open says."""
        if self._held:  # quiesced
            self._refused = True
            return False
        queue = self._receive_queue(frame[1])
        if queue is None or not self.control.link_up or self._exceeds_mtu(frame):
            self._counts["rx_dropped"] += 1
            return True
        if not self.control.filter.passes(frame[1]):
            self._counts["rx_filtered"] += 1
            return True
        try:
            return self._fill(queue, frame)
        except QueueError as error:
            self.fail(error)
            return True

    def _exceeds_mtu(self, frame: Sequence[Buffer]) -> bool:
        """Whether a frame is longer than the driver may be given (§5.1.4.1)."""
        if not self.negotiated & spec.F_MTU or frame[0][spec.GSO_TYPE] not in spec.GSO_WHOLE:
            return False
        return sum(map(len, frame[1:])) > self.control.mtu + OVERHEAD

    def _receive_queue(self, frame: Buffer) -> Virtqueue | None:
        """The queue of the pair by which the driver sends to this frame's sender (§5.1.6.5.6)."""
        pair = self._flows.get(flow(frame), 0) if self.control.pairs > 1 else 0
        return self.queues.get(spec.queue_indices(pair)[0])

    def _fill(self, queue: Virtqueue, frame: Sequence[Buffer]) -> bool:
        """Put a frame into as many of the driver's buffers as it takes; False if they are too few.

        Buffers that are popped and not used are kept for the next frame.
        """
        length = sum(map(len, frame))
        spare = self._spare.setdefault(queue.ring.index, [])
        room = count = 0
        while room < length and (count == 0 or self.negotiated & spec.F_MRG_RXBUF):
            if count == len(spare) and not self._pop_buffer(queue, spare):
                self._refused = sum(chain.count for chain in spare) < queue.ring.size
                self._counts["rx_dropped"] += not self._refused  # the driver can have no more
                return not self._refused
            room += sum(map(len, spare[count].writable))
            count += 1
        if room < length:
            self._counts["rx_dropped"] += 1
            return True
        self._write(spare[:count], frame)
        for chain in spare[:count]:
            queue.push(chain)
        del spare[:count]
        self.publish(queue)
        self._counts["rx_frames"] += 1
        self._counts["rx_bytes"] += length - spec.HEADER.size
        return True

    @staticmethod
    def _pop_buffer(queue: Virtqueue, spare: list[Chain]) -> bool:
        chain = queue.pop()
        if chain is None and queue.allow():
            chain = queue.pop()
        if chain is None:
            return False
        if sum(map(len, chain.writable)) < spec.HEADER.size:
            raise QueueError("a receive buffer must have room for a header (§5.1.6.3.1)")
        spare.append(chain)
        return True

    @staticmethod
    def _write(chains: Sequence[Chain], frame: Sequence[Buffer]) -> None:
        header = bytearray(frame[0])
        header[spec.NUM_BUFFERS :] = spec.U16.pack(len(chains))
        chains[0].write(header)
        data = memoryview(frame[1] if len(frame) == 2 else b"".join(frame[1:]))
        done = 0
        for chain in chains:
            done += chain.write(data[done:])

    def _wake(self) -> None:
        """Have the link offer again what was refused."""
        if self._refused:
            self._refused = False
            self.link.wake()

    # ---- from the guest ----

    def _transmit(self, queue: Virtqueue) -> None:
        """Send what is available, at most one ring full, for as long as the link has room."""
        index = queue.ring.index
        queue.suppress()
        for _ in range(queue.ring.size):
            chain = self._unsent.pop(index, None) or queue.pop()
            if chain is None:
                break
            try:
                self._send(index, chain)
            except BlockingIOError:
                self._unsent[index] = chain
                break
            if self.queues.get(index) is not queue:  # an answer to it has broken the device
                return
            queue.push(chain)
        self.publish(queue)
        if index not in self._unsent and queue.allow():
            ring_doorbell(queue)

    def _send(self, index: int, chain: Chain) -> None:
        """Send a frame, or count why not. Raises BlockingIOError."""
        data = list(chain.readable)
        header = b"".join(take(data, spec.HEADER.size))
        length = sum(map(len, data))
        try:
            header = check(header, length, self.negotiated, self.link.mtu)
        except BadFrame as error:
            self._counts["tx_invalid"] += 1
            self.complain(f"sent a frame that {error}")
            return
        if index // 2 < self.control.pairs > 1:
            start = b"".join(take(list(data), spec.IPV6_FLOW.stop))
            self._flows[flow(start)] = index // 2
        if not self.control.link_up:
            self._counts["tx_dropped"] += 1
            return
        try:
            self.link.send([memoryview(header), *data])
        except BlockingIOError:
            raise
        except OSError as error:
            self._counts["tx_dropped"] += 1
            self._complain(error)
        else:
            self._counts["tx_frames"] += 1
            self._counts["tx_bytes"] += length

    def _complain(self, error: OSError) -> None:
        now = self.worker.loop.now()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            self.log.warning("%s: a frame was not sent: %s", self.name, error.strerror or error)
