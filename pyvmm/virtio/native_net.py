"""A network device's queues served in C: what all have in common, and the threads of csrc/net.c."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pyvmm.errors import HostError
from pyvmm.native import ffi, lib
from pyvmm.typed import TYPE_CHECKING, Any
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio.native_queue import native_ring, queue_error
from pyvmm.virtio.net_frame import OVERHEAD
from pyvmm.virtio.virtqueue import Ring

if TYPE_CHECKING:
    from pyvmm.hooks import Tracer
    from pyvmm.virtio.moved_net import MovedNet
    from pyvmm.virtio.tap_net import TapNet

NAME_LENGTH = 11  # bytes of a thread's name that are left for the device's
LARGE = spec.F_GUEST_TSO4 | spec.F_GUEST_TSO6 | spec.F_GUEST_UFO
LARGE |= spec.F_GUEST_USO4 | spec.F_GUEST_USO6


class NativePairs:
    """Pairs of queues as C knows them. The device's worker's thread; see Mover in moved_net.py."""

    def __init__(self, net: MovedNet) -> None:
        self._device = net
        self._attention = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pairs: dict[int, Any] = {}  # struct pv_pair, by number
        self._queues: dict[int, Any] = {}  # struct pv_queue, by index
        self._traced: dict[int, Any] = {}  # the rings of those who trace, by pair
        net.worker.loop.watch(self._attention, self._attend)

    def close(self) -> None:
        """See Mover."""
        self._device.worker.loop.unwatch(self._attention)
        os.close(self._attention)

    def add(self, number: int, rings: Mapping[int, Ring]) -> Any:
        """The struct pv_pair of those of `rings` that are of a pair. Raises QueueError."""
        receive, transmit = (self._queue(rings.get(index)) for index in spec.queue_indices(number))
        pair = ffi.new(
            "struct pv_pair *",
            {
                "attention": self._attention,
                "mergeable": bool(self._device.negotiated & spec.F_MRG_RXBUF),
                "receive": receive,
                "transmit": transmit,
            },
        )
        self._pairs[number] = pair
        return pair

    def _queue(self, ring: Ring | None) -> dict[str, Any]:
        if ring is None:
            return {}
        native = native_ring(self._device.memory, ring)
        self._queues[ring.index] = native
        return {"ring": native, "doorbell": ring.doorbell, "call": ring.call}

    def trace(self, tracer: Tracer | None) -> None:
        """See Mover. Any thread."""
        for number, pair in tuple(self._pairs.items()):
            if tracer is not None:
                queues = spec.queue_indices(number)
                self._traced[number] = tracer.ring(self._device.name, queues, number)
            pair.tracer = self._traced[number] if tracer is not None else ffi.NULL

    def inspect(self) -> dict[str, int]:
        """See Mover. Any thread."""
        fields = [name for name, _ in ffi.typeof("struct pv_net_counters").fields]
        pairs = tuple(self._pairs.values())
        return {name: sum(getattr(pair.counters, name) for pair in pairs) for name in fields}

    def positions(self) -> dict[int, int]:
        """See Mover."""
        return {index: int(native.next_avail) for index, native in self._queues.items()}

    def _attend(self) -> None:
        """C has something to say: that the driver has broken a rule, or what subclasses know."""
        os.eventfd_read(self._attention)
        for pair in self._pairs.values():
            if pair.broken:
                self._device.fail(queue_error(pair.broken))
                return
        self._look()

    def _look(self) -> None:
        """See what else there is."""


class NativeNet(NativePairs):
    """A thread for each pair. See Mover in pyvmm/virtio/moved_net.py."""

    def __init__(self, net: TapNet, rings: Mapping[int, Ring]) -> None:
        """Serve `rings`, by their index. Raises QueueError, HostError for too many threads."""
        super().__init__(net)
        self._net = net
        self._threads: list[Any] = []  # struct pv_net, opened
        try:
            for number, fd in enumerate(net.link.fds):
                if any(index in rings for index in spec.queue_indices(number)):
                    self._open(fd, self.add(number, rings))
        except BaseException:
            self.close()
            raise

    def _open(self, fd: int, pair: Any) -> None:
        """Make the thread of one pair. Raises HostError."""
        net = self._net
        payload = spec.GSO_MAX if net.negotiated & LARGE else net.control.mtu
        native = ffi.new(
            "struct pv_net *",
            {
                "pair": pair,
                "name": net.name.encode()[:NAME_LENGTH],
                "fd": fd,
                "checksums": bool(net.negotiated & spec.F_GUEST_CSUM),
                "largest": spec.HEADER.size + OVERHEAD + payload,
            },
        )
        error = lib.pv_net_open(native)
        if error:
            raise HostError(f"The host allows no threads for {net.name}: {os.strerror(-error)}")
        self._threads.append(native)

    def start(self) -> None:
        """See Mover."""
        for thread in self._threads:
            lib.pv_net_start(thread)

    def stop(self) -> None:
        """See Mover."""
        for thread in self._threads:
            lib.pv_net_stop(thread)

    def close(self) -> None:
        """See Mover."""
        while self._threads:
            lib.pv_net_close(self._threads.pop())
        super().close()

    def _look(self) -> None:
        """Whether the tap is gone."""
        if any(thread.gone for thread in self._threads) and self._net.link.up:
            self._net.gone()
