"""A network device's queues served by vhost-net: only the kernel is between them and the tap."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pyvmm.typed import TYPE_CHECKING
from pyvmm.virtio import net_spec, vhost_spec
from pyvmm.virtio.vhost import Vhost
from pyvmm.virtio.virtqueue import QueueError, Ring

if TYPE_CHECKING:
    from pyvmm.hooks import Tracer
    from pyvmm.virtio.tap_net import TapNet


class VhostNet:
    """See Mover in pyvmm/virtio/moved_net.py. The device's worker's thread."""

    def __init__(self, net: TapNet, rings: Mapping[int, Ring]) -> None:
        """Serve `rings`, by their index. Raises HostError or QueueError."""
        self._net = net
        self._rings = rings
        self._bases = dict.fromkeys(rings, 0)
        self._broken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        net.worker.loop.watch(self._broken, self._ring_broken)

    def start(self) -> None:
        """See Mover. Raises HostError."""
        net = self._net
        for pair, vhost in enumerate(net.vhosts):
            rings = self._of_pair(pair)
            if not rings:
                continue
            vhost.set_features(net.negotiated)
            vhost.set_memory(net.memory)
            for place, ring in rings.items():
                vhost.set_ring(place, net.memory, ring, self._bases[ring.index], self._broken)
            for place, ring in rings.items():
                self._bind(vhost, place, net.link.fds[pair])
                os.eventfd_write(ring.doorbell, 1)  # the driver may have filled it before

    def stop(self) -> None:
        """See Mover."""
        for pair, vhost in enumerate(self._net.vhosts):
            for place, ring in self._of_pair(pair).items():
                self._bind(vhost, place, vhost_spec.UNBIND)
                self._bases[ring.index] = vhost.ring_base(place)

    def close(self) -> None:
        """See Mover."""
        self._net.worker.loop.unwatch(self._broken)
        os.close(self._broken)

    def trace(self, tracer: Tracer | None) -> None:
        """See Mover: the kernel does not tell."""

    def inspect(self) -> dict[str, int]:
        """See Mover: the kernel does not count."""
        return {}

    def positions(self) -> dict[int, int]:
        """See Mover: the kernel does not tell while it works."""
        return {}

    def _of_pair(self, pair: int) -> dict[int, Ring]:
        """Those of its rings that are in use, by the kernel's index: 0 receives, 1 sends."""
        rings = (self._rings.get(index) for index in net_spec.queue_indices(pair))
        return {place: ring for place, ring in enumerate(rings) if ring is not None}

    @staticmethod
    def _bind(vhost: Vhost, place: int, fd: int) -> None:
        vhost.call(vhost_spec.NET_SET_BACKEND, vhost_spec.VRING_FILE.pack(place, fd))

    def _ring_broken(self) -> None:
        os.eventfd_read(self._broken)
        self._net.fail(QueueError("the kernel finds a ring broken"))
