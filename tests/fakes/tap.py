"""A tap without rights: a socket is its other end."""

from __future__ import annotations

import os
import select
import socket
from contextlib import ExitStack

from pyvmm.backends import tap_spec
from pyvmm.backends.tap import Tap
from pyvmm.virtio import net_spec as spec
from tests.fakes.driver import PATIENCE

HELD_BACK = 0.05  # seconds in which what must not happen would have happened


class SocketTap(Tap):
    """A tap whose other end is a socket: `wires` has one for each queue."""

    def __init__(self, queues: int = 1) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(queues)]
        for ours, theirs in pairs:
            ours.setblocking(False)
            theirs.settimeout(PATIENCE)
        self.wires = [theirs for _, theirs in pairs]
        self.name, self.mtu, self.up = "tap0", 1500, True
        self.offloads = spec.GUEST_OFFLOADS | spec.HOST_OFFLOADS
        self.fds = [ours.detach() for ours, _ in pairs]
        self._attached, self._loop, self._waiting = queues, None, None
        self._checksums = False
        self._buffer = memoryview(bytearray(tap_spec.FRAME_MAX))
        self._resources = ExitStack()
        for fd in self.fds:
            self._resources.callback(os.close, fd)
        self.asked: list[tuple[str, object]] = []

    def set_filter(self, addresses: object, all_multicast: bool) -> None:  # type: ignore[override]
        self.asked.append(("filter", (addresses, all_multicast)))

    def attach(self, pairs: int) -> None:
        self.asked.append(("attach", pairs))

    def set_carrier(self, carrier: bool) -> None:
        self.asked.append(("carrier", carrier))

    def arrives(self, queue: int = 0) -> bytes:
        """The next frame that was sent."""
        wire = self.wires[queue]
        assert select.select([wire], [], [], PATIENCE)[0], "no frame comes"
        return wire.recv(1 << 18)

    def silent(self, queue: int = 0) -> bool:
        """Whether nothing is sent."""
        return not select.select([self.wires[queue]], [], [], HELD_BACK)[0]
