"""User networking's two ends: a libslirp of the test's, and a guest with rings for the real one."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

from pyvmm.layout import MIB
from pyvmm.loop import Loop
from pyvmm.native import ffi, lib
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.user_net import UserLink, UserNet
from tests.fakes.driver import SPLIT, Guest
from tests.fakes.ethernet import HEADER, MAC, EthernetGuest, ip4

KEPT_MAX = 4000


class Peer:
    """A UserLink whose libslirp is this: `sent` is what came, each answered by `answers`."""

    offloads = 0
    up = True
    mtu = 65520

    def __init__(self) -> None:
        self.sent: queue.Queue[bytes] = queue.Queue()
        self.answers: list[bytes] = []
        self.native = ffi.new("struct pv_user *", {"up": True, "kept_max": KEPT_MAX, "epoll": -1})
        assert lib.pv_user_open(self.native) == 0
        functions = {"input": self._input, "fill": lambda *_: None, "poll": lambda *_: None}
        self._kept_alive = []
        for name, function in functions.items():
            pointer = ffi.callback(ffi.typeof(getattr(self.native, name)), function)
            self._kept_alive.append(pointer)
            setattr(self.native, name, pointer)

    def _input(self, _: object, frame: Any, length: int) -> None:
        self.sent.put(bytes(ffi.buffer(frame, length)))
        for answer in self.answers:
            self.take(answer)

    def take(self, frame: bytes) -> None:
        """As libslirp's send_packet."""
        assert lib.pv_user_take(frame, len(frame), self.native) == len(frame)

    def open(self, loop: Loop, receive: object, changed: object) -> None:
        pass

    def set_offloads(self, offloads: int) -> None:
        pass

    def send(self, frame: Sequence[memoryview]) -> None:
        raise AssertionError("C sends")

    def wake(self) -> None:
        pass

    def turn(self) -> None:
        lib.pv_user_turn(self.native)

    def close(self) -> None:
        lib.pv_user_close(self.native)


class Arrived:
    """The frames that a driver has received, in order."""

    def __init__(self, guest: RingGuest) -> None:
        self._guest = guest
        self._frames: list[bytes] = []

    def get(self, timeout: float) -> bytes:
        while not self._frames:
            self._collect()
            if not self._frames:
                assert self._guest.driver.interrupted(timeout), "no frame comes"
        return self._frames.pop(0)

    def empty(self) -> bool:
        self._collect()
        return not self._frames

    def _collect(self) -> None:
        driver = self._guest.driver
        driver.enable_interrupts()
        used = driver.collect()
        while used:
            count = spec.HEADER.unpack(used[0].data[: spec.HEADER.size])[-1]
            assert used[0].data[: spec.HEADER.size - 2] == HEADER[:-2]
            while len(used) < count:
                used += driver.collect()
            data = b"".join(one.data for one in used[:count])
            self._frames.append(data[spec.HEADER.size :])
            self._guest.post([one.token for one in used[:count]])
            del used[:count]


class RingGuest(EthernetGuest):
    """An EthernetGuest whose frames pass through a device's rings."""

    BUFFERS = 60

    def __init__(self, link: UserLink, address: bytes = ip4("10.0.2.15")) -> None:
        self.link, self.address = link, address
        self.early = []
        self.device = UserNet("eth0", link, MAC)
        self.worker = self.device.worker
        self.guest = Guest(self.device, memory=16 * MIB)
        self.arrived = Arrived(self)  # type: ignore[assignment]
        self.make_room(None)

    @property
    def driver(self) -> Any:
        return self.guest.queues[0]

    def make_room(self, frames: int | None) -> None:
        """With none the driver begins anew, without a buffer."""
        if frames == 0:
            self.guest.reset()
        if not self.guest.queues:
            self.guest.start(SPLIT | spec.F_MRG_RXBUF, size=64)
            self.buffers = [self.driver.place(2048) for _ in range(self.BUFFERS)]
            self.places: dict[int, tuple[int, int]] = {}
            self.room: int | None = self.BUFFERS
        self._add(self.BUFFERS - len(self.places) if frames is None else frames)

    def post(self, tokens: Sequence[int]) -> None:
        """Give buffers again that were used."""
        self.buffers += [self.places.pop(token) for token in tokens]
        if self.room is None:
            self._add(len(self.buffers))

    def _add(self, count: int) -> None:
        for _ in range(count):
            at, length = self.buffers.pop(0)
            parts = [(at, length, virtio_spec.DESC_F_WRITE)]
            self.places[self.driver.add_descriptors(parts, [(at, length)])] = (at, length)
        self.room = None if not self.buffers else len(self.places)
        self.driver.kick()

    def send(self, *frames: bytes) -> None:
        """Send frames in one go, each in three buffers."""
        sender = self.guest.queues[1]
        for start in range(0, len(frames), 20):
            part = frames[start : start + 20]
            for frame in part:
                sender.add([piece for piece in (HEADER, frame[:14], frame[14:]) if piece])
            sender.kick()
            sender.wait(len(part))

    def close(self) -> None:
        self.guest.close()
