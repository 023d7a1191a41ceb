"""The console device, VIRTIO 1.2 §5.3: a console of its own, or ports with names.

    Console   one port, hvcN in the guest; its size is in configuration space
    Ports     any number of ports over control queues, /dev/virtio-ports/NAME in the guest

A console is not made a port among others, although §5.3.6.2 has a message for that: those ports
learn their size by RESIZE, whose two fields Linux had the other way round than the specification
and in later versions has not, while all agree on configuration space.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from pyvmm.layout import KIB
from pyvmm.typed import Protocol
from pyvmm.virtio import console_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.device import VirtioDevice, ring_doorbell
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue

QUEUE_SIZE = 64
CHUNK = 4 * KIB  # bytes of output that are handed on at once
INPUT_KEPT = 4 * KIB  # bytes of input taken from the back end before the guest has room
TELL_SIZE = 0.0, 1.0  # seconds after the driver is ready
LAST_PIECES = 1024  # of CHUNK bytes: twice what Linux's driver has under way at most
UNSENT_STALLS = 64 * KIB  # output waits in the guest while the back end holds more than this


class CharBackend(Protocol):
    """The host's end of a port. Any thread may call it; it neither waits nor calls back.

    Input comes the other way, by `Port.receive`.
    """

    @property
    def size(self) -> tuple[int, int]:
        """The terminal's columns and rows, (0, 0) if it is none."""

    def attach(self, port: Port) -> None:
        """Learn whose `receive` takes input and whose `drained` is told that all is sent."""

    def transmit(self, data: bytes) -> None:
        """Take all of `data`; what cannot be sent now is kept."""

    @property
    def unsent(self) -> int:
        """How many bytes are kept."""

    def resume(self) -> None:
        """There is room again: offer the input that `receive` did not take."""


class Port:
    """One port: a pair of queues, and input on its way. The worker's thread, but for what says so.

    `opened` is whether the guest listens: Linux throws away what comes to a port that nobody has
    opened.
    """

    def __init__(self, device: VirtioDevice, index: int, backend: CharBackend) -> None:
        self._device = device
        self._receive_queue = spec.receive_queue(index)
        self.backend = backend
        self.opened = False
        self.added = False  # to the guest's ports, by DEVICE_ADD
        self._sending: Chain | None = None  # a request whose output is not all handed on
        self._input = bytearray()
        self._refused = False
        self._ended = False  # there will be no more input
        self._closed = False  # and the guest has been told
        self._lock = threading.Lock()  # the input
        backend.attach(self)

    def reset(self) -> None:
        """The driver has gone; input waits for the next."""
        self.opened = self.added = self._closed = False
        self._sending = None

    # ---- the back end's side; its thread ----

    def receive(self, data: bytes) -> int:
        """Take what there is room for, and return how many bytes that was.

        If it was not all, the back end's `resume` is called once there is room.
        """
        with self._lock:
            taken = min(len(data), INPUT_KEPT - len(self._input))
            self._input += data[:taken]
            self._refused = taken < len(data)
        if taken:
            self._device.worker.loop.call_soon(self.look_for_input)
        return taken

    def drained(self) -> None:
        """The back end has sent all that it held."""
        self._device.worker.loop.call_soon(lambda: self._ring(self._receive_queue + 1))

    def ended(self) -> None:
        """The back end has no more input."""
        with self._lock:
            self._ended = True
        self._device.worker.loop.call_soon(self.look_for_input)

    def resized(self) -> None:
        """The terminal has another size. Any thread."""
        self._device.transport.config_changed()

    # ---- the guest's side ----

    def look_for_input(self) -> None:
        """Give the guest what waits for it."""
        self._ring(self._receive_queue)

    def _ring(self, index: int) -> None:
        if index in self._device.queues:
            ring_doorbell(self._device.queues[index])

    def has_input(self) -> bool:
        """Whether the guest should get some now."""
        return self.opened and bool(self._input)

    def has_closed(self) -> bool:
        """Whether the guest is to be told, once, that it has got all the input that there is."""
        with self._lock:
            now = self.opened and self._ended and not self._input and not self._closed
            self._closed |= now
        return now

    def take_input(self, room: int) -> bytes:
        """The next input, at most `room` bytes."""
        with self._lock:
            data = bytes(self._input[:room])
            del self._input[:room]
            resume, self._refused = self._refused, False
        if resume:
            self.backend.resume()
        return data

    def transmit(self, queue: Virtqueue) -> None:
        """Hand on the guest's output, a piece at a time, for as long as the back end takes it."""
        queue.suppress()
        for _ in range(queue.ring.size):
            if self.backend.unsent > UNSENT_STALLS or not self.transmit_piece(queue):
                break
        self._device.publish(queue)
        stalled = self.backend.unsent > UNSENT_STALLS  # then `drained` goes on
        if not stalled and (queue.allow() or self._sending is not None):
            ring_doorbell(queue)

    def transmit_piece(self, queue: Virtqueue) -> bool:
        """Hand on up to CHUNK bytes of output, if there is any."""
        chain = self._sending or queue.pop()
        if chain is None:
            return False
        self.backend.transmit(chain.read(CHUNK))
        self._sending = chain if chain.readable else None
        if self._sending is None:
            queue.push(chain)
        return True


class _ConsoleDevice(VirtioDevice):
    """What both have: ports, and their queues. `backends` are the ports' other ends."""

    ID = virtio_spec.ID_CONSOLE

    def __init__(self, name: str, backends: Sequence[CharBackend], features: int) -> None:
        last = spec.receive_queue(len(backends) - 1) + 1
        queues = max(last, spec.CONTROL_TRANSMIT) + 1 if features & spec.F_MULTIPORT else last + 1
        super().__init__(name, [QUEUE_SIZE] * queues, features | spec.F_EMERG_WRITE)
        self.ports = [Port(self, index, backend) for index, backend in enumerate(backends)]

    def read_config(self) -> bytes:
        """See VirtioDevice."""
        return spec.CONFIG.pack(*self.ports[0].backend.size, len(self.ports), 0)

    def write_config(self, offset: int, data: bytes) -> None:
        """Emergency output, one character at a time, to port 0 (§5.3.5.1)."""
        backend = self.ports[0].backend
        if offset == spec.EMERG_WRITE and backend.unsent <= UNSENT_STALLS:
            backend.transmit(data[:1])

    def _stop(self) -> None:
        super()._stop()
        for port in self.ports:
            port.reset()

    def finish(self) -> None:
        """See VirtioDevice. What the guest wrote last is often what it was run for."""
        self.worker.call(self._transmit_rest)

    def _transmit_rest(self) -> None:
        for index, port in enumerate(self.ports):
            queue = self.queues.get(spec.receive_queue(index) + 1)
            if queue is None:
                continue
            with suppress(QueueError):
                for _ in range(LAST_PIECES):
                    if not port.transmit_piece(queue):
                        break

    def pump(self, queue: Virtqueue) -> None:
        """Move what goes through a port's queue; input waits for buffers, output for the host."""
        for index, port in enumerate(self.ports):
            first = spec.receive_queue(index)
            if queue.ring.index == first:
                self.feed(queue, port.has_input, port.take_input)
                self.fed(index)
            elif queue.ring.index == first + 1:
                port.transmit(queue)

    def fed(self, index: int) -> None:
        """The guest has got what input there is for a port."""

    def feed(
        self, queue: Virtqueue, waiting: Callable[[], bool], take: Callable[[int], bytes]
    ) -> None:
        """Fill the driver's buffers with what `take` gives, one each, while `waiting`."""
        queue.suppress()
        for _ in range(queue.ring.size):
            chain = queue.pop() if waiting() else None
            if chain is None:
                break
            chain.write(take(sum(map(len, chain.writable))))
            queue.push(chain)
        self.publish(queue)
        if waiting() and queue.allow():
            ring_doorbell(queue)


class Console(_ConsoleDevice):
    """One console, whose size is what the back end says."""

    def __init__(self, name: str, backend: CharBackend) -> None:
        super().__init__(name, [backend], spec.F_SIZE)

    def activate(self, features: int, rings: Sequence[Ring]) -> None:
        """See VirtioDevice."""
        port, loop = self.ports[0], self.worker.loop
        port.opened = True
        super().activate(features, rings)
        # Linux looks at the size when it is told of a new one, not before; what it is told while it
        # still makes its port is lost, and nothing says when that is done.
        if port.backend.size != (0, 0):
            for delay in TELL_SIZE:
                loop.call_at(loop.now() + delay, port.resized)


class Ports(_ConsoleDevice):
    """Ports with names, of which the guest learns by control messages (§5.3.6.2).

    A driver that knows no such messages sees the first one only.
    """

    def __init__(self, name: str, ports: Sequence[tuple[str, CharBackend]]) -> None:
        """`ports` are names and back ends, at least one."""
        super().__init__(name, [backend for _, backend in ports], spec.F_MULTIPORT)
        self._names = [name.encode() for name, _ in ports]
        self._messages: dict[tuple[int, int], bytes] = {}  # by port and event: bounded

    def activate(self, features: int, rings: Sequence[Ring]) -> None:
        """See VirtioDevice."""
        self.ports[0].opened = not features & spec.F_MULTIPORT
        super().activate(features, rings)

    def _stop(self) -> None:
        super()._stop()
        self._messages.clear()

    def pump(self, queue: Virtqueue) -> None:
        """See VirtioDevice."""
        if not self.negotiated & spec.F_MULTIPORT or queue.ring.index not in (
            spec.CONTROL_RECEIVE,
            spec.CONTROL_TRANSMIT,
        ):
            super().pump(queue)
        elif queue.ring.index == spec.CONTROL_TRANSMIT:
            VirtioDevice.pump(self, queue)
        else:
            self.feed(queue, lambda: bool(self._messages), self._take_message)

    def fed(self, index: int) -> None:
        """Close a port whose input has ended: then Linux's readers see the end."""
        if self.ports[index].has_closed():
            self._send(index, spec.PORT_OPEN, value=0)

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        """Take one control message; what makes no sense is ignored."""
        message = chain.read(spec.CONTROL.size)
        if len(message) < spec.CONTROL.size:
            return True
        index, event, value = spec.CONTROL.unpack(message)
        if event == spec.DEVICE_READY and value:
            for index, port in enumerate(self.ports):
                if not port.added:
                    port.added = True
                    self._send(index, spec.DEVICE_ADD)
        elif index < len(self.ports) and self.ports[index].added:
            if event == spec.PORT_READY and value:
                self._send(index, spec.PORT_NAME, self._names[index])
                self._send(index, spec.PORT_OPEN)
            elif event == spec.PORT_OPEN:
                self.ports[index].opened = bool(value)
                self.ports[index].look_for_input()
        return True

    def _send(self, index: int, event: int, more: bytes = b"", value: int = 1) -> None:
        self._messages[index, event] = spec.CONTROL.pack(index, event, value) + more
        if spec.CONTROL_RECEIVE in self.queues:
            ring_doorbell(self.queues[spec.CONTROL_RECEIVE])

    def _take_message(self, room: int) -> bytes:
        return self._messages.pop(next(iter(self._messages)))[:room]
