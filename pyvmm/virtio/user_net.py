"""A network device whose peer is libslirp, with queues that csrc/user.c walks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from pyvmm.native import ffi, lib
from pyvmm.typed import Any, Protocol
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio.moved_net import MovedNet
from pyvmm.virtio.native_net import NativePairs
from pyvmm.virtio.net import Link
from pyvmm.virtio.net_frame import OVERHEAD, BadFrame, check
from pyvmm.virtio.statistics import NetStatistics
from pyvmm.virtio.virtqueue import Ring

ANY_LENGTH = 0xFFFFFFFF  # bytes: more than any frame has


class UserLink(Link, Protocol):
    """A link whose frames C moves, when it has its turn on the worker's thread."""

    native: Any  # struct pv_user

    def turn(self) -> None:
        """Move what there is, both ways."""


class UserNet(MovedNet):
    """A virtio-net device with one pair of queues, and the owner of its link."""

    link: UserLink

    def make_mover(self, rings: Mapping[int, Ring]) -> NativeUser:
        """See MovedNet."""
        return NativeUser(self, rings)

    def statistics(self) -> NetStatistics:
        """See VirtioDevice. Any thread."""
        with self._counting:
            totals = self._totals()
        totals["rx_dropped"] += self.link.native.dropped  # while there was no mover
        return NetStatistics(**totals)

    def _changed(self) -> None:
        super()._changed()
        self.link.native.up = self.control.link_up


class NativeUser(NativePairs):
    """See Mover in pyvmm/virtio/moved_net.py. The device's worker's thread."""

    def __init__(self, net: UserNet, rings: Mapping[int, Ring]) -> None:
        """Serve `rings`, by their index. Raises QueueError."""
        super().__init__(net)
        self._net, self._rings = net, rings
        self._native = net.link.native
        self._native.from_driver = net.link.mtu + OVERHEAD
        limited = net.negotiated & spec.F_MTU
        self._native.to_driver = net.control.mtu + OVERHEAD if limited else ANY_LENGTH
        self._invalid = 0  # frames that were complained about
        lib.pv_user_attach(self._native, self.add(0, rings))

    def start(self) -> None:
        """See Mover."""
        for ring in self._rings.values():
            self._net.worker.loop.watch(ring.doorbell, partial(self._rung, ring))
        self._native.running = True
        self._net.link.turn()

    def stop(self) -> None:
        """See Mover."""
        self._native.running = False
        for ring in self._rings.values():
            self._net.worker.loop.unwatch(ring.doorbell)

    def close(self) -> None:
        """See Mover."""
        lib.pv_user_attach(self._native, ffi.NULL)
        self._net.link.turn()  # what waits for room is dropped
        super().close()

    def _rung(self, ring: Ring) -> None:
        os.eventfd_read(ring.doorbell)
        if self._net.tracer is not None:
            self._net.tracer.instant("queue.kick", self._net.name, queue=ring.index)
        self._net.link.turn()

    def _look(self) -> None:
        """Whether the driver has sent what cannot be."""
        invalid = self._pairs[0].counters.tx_invalid
        if invalid == self._invalid:
            return
        self._invalid = invalid
        length = self._native.bad_length
        header = bytes(self._native.bad_header)[:length]
        try:
            check(header, length - len(header), self._net.negotiated, self._net.link.mtu)
        except BadFrame as error:
            self._net.complain(f"sent a frame that {error}")
