"""What a transport is wired to: message vectors and doorbells that remember, and a device that
says what it is told."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pyvmm.loop import Loop
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.virtqueue import Ring

PROBE_FEATURE = 1 << 3


class FakeVector:
    """A message vector: what it is to send, and for which eventfds."""

    def __init__(self) -> None:
        self.message: tuple[int, int] | None = None
        self.connected: set[int] = set()

    def route(self, address: int, data: int) -> None:
        self.message = (address, data)

    def connect(self, eventfd: int) -> None:
        assert eventfd not in self.connected
        self.connected.add(eventfd)

    def disconnect(self, eventfd: int) -> None:
        self.connected.remove(eventfd)


class FakeDoorbells:
    """Doorbells by (address, value to match)."""

    def __init__(self) -> None:
        self.connected: dict[tuple[int, int | None], int] = {}

    def connect(self, address: int, eventfd: int, datamatch: int | None = None) -> None:
        assert (address, datamatch) not in self.connected
        self.connected[address, datamatch] = eventfd

    def disconnect(self, address: int, eventfd: int, datamatch: int | None = None) -> None:
        assert self.connected.pop((address, datamatch)) == eventfd


class Probe(VirtioDevice):
    """A device of two queues and eight bytes of configuration that notes what it is told."""

    ID = spec.ID_BLOCK

    def __init__(self, name: str = "probe", *, packed: bool = False) -> None:
        super().__init__(name, [64, 256], PROBE_FEATURE, packed=packed)
        self.told: list[str] = []
        self.config = bytearray(range(8))
        self.rings: Sequence[Ring] = ()

    def read_config(self) -> bytes:
        return bytes(self.config)

    def write_config(self, offset: int, data: bytes) -> None:
        room = max(len(self.config) - offset, 0)
        self.config[offset : offset + len(data)] = data[:room]

    def activate(self, features: int, rings: Sequence[Ring]) -> None:
        self.negotiated, self.rings = features, rings
        self.told.append("activate")

    def quiesce(self) -> None:
        self.told.append("quiesce")

    def resume(self) -> None:
        self.told.append("resume")

    def deactivate(self) -> None:
        self.told.append("deactivate")

    def interrupt(self, queue: int) -> None:
        """Complete something in a queue, by its place in `rings`."""
        os.eventfd_write(self.rings[queue].call, 1)


def turn(loop: Loop) -> None:
    """Let the loop do what is due, on this thread."""
    loop.call_soon(loop.stop)
    loop.run()


def signalled(eventfd: int) -> int:
    """Take what is signalled."""
    try:
        return os.eventfd_read(eventfd)
    except BlockingIOError:
        return 0
