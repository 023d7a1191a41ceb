"""A network device's queues served by the threads of csrc/net.c, one for each pair."""

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
    from pyvmm.virtio.tap_net import TapNet

NAME_LENGTH = 11  # bytes of a thread's name that are left for the device's
LARGE = spec.F_GUEST_TSO4 | spec.F_GUEST_TSO6 | spec.F_GUEST_UFO
LARGE |= spec.F_GUEST_USO4 | spec.F_GUEST_USO6


class NativeNet:
    """See Mover in pyvmm/virtio/tap_net.py. The device's worker's thread."""

    def __init__(self, net: TapNet, rings: Mapping[int, Ring]) -> None:
        """Serve `rings`, by their index. Raises QueueError, HostError for too many threads."""
        self._net = net
        self._attention = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pairs: list[Any] = []  # struct pv_net, opened
        self._rings: dict[int, Any] = {}  # struct pv_queue, by index
        try:
            for pair, fd in enumerate(net.link.fds):
                both = [rings.get(index) for index in spec.queue_indices(pair)]
                if any(both):
                    self._open(fd, *both)
        except BaseException:
            self._close_pairs()
            os.close(self._attention)
            raise
        net.worker.loop.watch(self._attention, self._attend)

    def _open(self, fd: int, receive: Ring | None, transmit: Ring | None) -> None:
        """Make the thread of one pair. Raises QueueError or HostError."""
        net = self._net
        payload = spec.GSO_MAX if net.negotiated & LARGE else net.control.mtu
        native = ffi.new(
            "struct pv_net *",
            {
                "name": net.name.encode()[:NAME_LENGTH],
                "fd": fd,
                "attention": self._attention,
                "mergeable": bool(net.negotiated & spec.F_MRG_RXBUF),
                "checksums": bool(net.negotiated & spec.F_GUEST_CSUM),
                "largest": spec.HEADER.size + OVERHEAD + payload,
                "receive": self._queue(receive),
                "transmit": self._queue(transmit),
            },
        )
        error = lib.pv_net_open(native)
        if error:
            raise HostError(f"The host allows no threads for {net.name}: {os.strerror(-error)}")
        self._pairs.append(native)

    def _queue(self, ring: Ring | None) -> dict[str, Any]:
        if ring is None:
            return {}
        native = native_ring(self._net.memory, ring)
        self._rings[ring.index] = native
        return {"ring": native, "doorbell": ring.doorbell, "call": ring.call}

    def start(self) -> None:
        """See Mover."""
        for pair in self._pairs:
            lib.pv_net_start(pair)

    def stop(self) -> None:
        """See Mover."""
        for pair in self._pairs:
            lib.pv_net_stop(pair)

    def close(self) -> None:
        """See Mover."""
        self._close_pairs()
        self._net.worker.loop.unwatch(self._attention)
        os.close(self._attention)

    def _close_pairs(self) -> None:
        while self._pairs:
            lib.pv_net_close(self._pairs.pop())

    def inspect(self) -> dict[str, int]:
        """See Mover. Any thread."""
        fields = [name for name, _ in ffi.typeof("struct pv_net_counters").fields]
        pairs = tuple(self._pairs)
        return {name: sum(getattr(pair.counters, name) for pair in pairs) for name in fields}

    def positions(self) -> dict[int, int]:
        """See Mover."""
        return {index: int(native.next_avail) for index, native in self._rings.items()}

    def _attend(self) -> None:
        """The driver has broken a rule, or the tap is gone."""
        os.eventfd_read(self._attention)
        for pair in tuple(self._pairs):
            if pair.broken:
                self._net.fail(queue_error(pair.broken))
                return
            if pair.gone and self._net.link.up:
                self._net.gone()
