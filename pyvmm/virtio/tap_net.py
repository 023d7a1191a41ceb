"""A network device on a tap, whose frames somebody faster than Net moves, if there is anybody.

That is vhost-net in the host's kernel, or csrc/net.c. The control queue is Net's all the same. What
the driver wants to receive is left to the tap, which does not know VLANs: too much is received then
rather than too little (VIRTIO 1.2 §5.1.6.5.1 asks for no more).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from pyvmm import fastpath
from pyvmm.errors import HostError
from pyvmm.events import Event
from pyvmm.typed import Protocol
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.device import ring_doorbell
from pyvmm.virtio.net import Link, Net
from pyvmm.virtio.statistics import NetStatistics
from pyvmm.virtio.vhost import Vhost
from pyvmm.virtio.virtqueue import Virtqueue

# Of what is negotiated, what concerns those who serve the queues.
QUEUE_FEATURES = (
    virtio_spec.F_INDIRECT_DESC
    | virtio_spec.F_EVENT_IDX
    | virtio_spec.F_RING_PACKED
    | spec.F_MRG_RXBUF
)


class TapLink(Link, Protocol):
    """A link whose frames pass through descriptors of the kernel's."""

    up: bool

    @property
    def fds(self) -> Sequence[int]:
        """One for each pair of queues."""

    def attach(self, pairs: int) -> None:
        """Receive by the first `pairs` descriptors only."""

    def set_filter(self, addresses: Sequence[bytes], all_multicast: bool) -> None:
        """Receive only what is sent to one of `addresses`; if there are none, everything."""

    def set_carrier(self, carrier: bool) -> None:
        """Whether the host is to see a link."""


class Mover(Protocol):
    """Who moves the frames while a driver has the device. It is made at rest."""

    def start(self) -> None:
        """Serve the queues from where they are."""

    def stop(self) -> None:
        """Leave the guest's memory alone until `start`."""

    def close(self) -> None:
        """Stop, and give the queues up."""

    def inspect(self) -> dict[str, int]:
        """What was done since it was made, under the names of NetStatistics among others."""

    def positions(self) -> dict[int, int]:
        """See VirtioDevice."""


class TapNet(Net):
    """A virtio-net device, and the owner of its tap and of the kernel's part of it."""

    link: TapLink

    def __init__(
        self,
        name: str,
        link: TapLink,
        mac: bytes,
        *,
        pairs: int = 1,
        mtu: int | None = None,
        vhosts: Sequence[Vhost] = (),
        tell: Callable[[Event], object] = lambda event: None,
    ) -> None:
        """`vhosts` is a vhost-net device for each pair of queues, if the kernel is to serve them.

        See Net for the others.
        """
        self._mover: Mover | None = None
        self._counting = threading.Lock()  # held while `_mover` and what it counted change
        super().__init__(name, link, mac, pairs=pairs, mtu=mtu, tell=tell)
        self.vhosts = tuple(vhosts)
        for vhost in self.vhosts:
            self.features &= ~QUEUE_FEATURES | vhost.features
        self._moved = bool(self.vhosts) or fastpath.enabled()
        self._moving = False

    def _open(self) -> None:
        if self._moved:
            self.control.link_up = self.link.up
        else:
            super()._open()

    def _release(self) -> None:
        super()._release()
        for vhost in self.vhosts:
            vhost.close()

    def statistics(self) -> NetStatistics | None:
        """See VirtioDevice; vhost-net does not count. Any thread."""
        if self.vhosts:
            return None
        with self._counting:
            return NetStatistics(**self._totals())

    def _totals(self) -> dict[str, int]:
        """What Python and the mover have done, with `_counting` held."""
        moved = {} if self._mover is None else self._mover.inspect()
        return {name: count + moved.get(name, 0) for name, count in self._counts.items()}

    def positions(self) -> dict[int, int]:
        """See VirtioDevice."""
        positions = super().positions()
        if self._mover is None:
            return positions
        control = self.control.index
        return {i: at for i, at in positions.items() if i == control} | self._mover.positions()

    @property
    def data_path(self) -> str:
        """See VirtioDevice. Any thread."""
        if not self._moved:
            return super().data_path
        return "vhost-net" if self.vhosts else "C"

    # ---- life ----

    def _serve(self) -> None:
        if not self._moved:
            super()._serve()
            return
        if self._mover is None:
            self._mover = self._make_mover()
            self.link.attach(self.control.pairs)
            self._set_filter()
        index = self.control.index
        if index is not None and index in self.queues:
            control = self.queues[index]
            self.worker.loop.watch(control.ring.doorbell, partial(self._rung, control))
            ring_doorbell(control)
        self._move(self.control.link_up)

    def _make_mover(self) -> Mover:
        count = 2 * (self.control.max_pairs if self.negotiated & spec.F_MQ else 1)
        rings = {index: queue.ring for index, queue in self.queues.items() if index < count}
        if self.vhosts:
            from pyvmm.virtio.vhost_net import VhostNet

            return VhostNet(self, rings)
        from pyvmm.virtio.native_net import NativeNet

        return NativeNet(self, rings)

    def _ignore_doorbells(self) -> None:
        super()._ignore_doorbells()
        self._move(False)

    def _stop(self) -> None:
        super()._stop()
        if self._mover is not None:
            mover = self._mover  # at rest
            with self._counting:
                self._counts, self._mover = self._totals(), None
            mover.close()

    def _move(self, wanted: bool) -> None:
        """Have the frames moved or not."""
        if self._mover is None or wanted == self._moving:
            return
        self._moving = wanted
        try:
            if wanted:
                self._mover.start()
            else:
                self._mover.stop()
        except HostError as error:
            self.log.warning("%s: %s", self.name, error)
            self.transport.needs_reset()

    # ---- what the host and the driver ask for meanwhile ----

    def gone(self) -> None:
        """The tap does not exist any more."""
        self.link.up = False
        self._changed()

    def _changed(self) -> None:
        super()._changed()
        self.link.set_carrier(self.control.link_up)
        self._move(self.control.link_up and bool(self.queues))

    def set_pairs(self, pairs: int) -> None:
        """See net_control.Owner."""
        super().set_pairs(pairs)
        if self._moved:
            self.link.attach(pairs)

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        """See Net."""
        super().handle(queue, chain)
        if self._moved:
            self._set_filter()
        return True

    def _set_filter(self) -> None:
        """Have the tap pass what the driver wants, and no less."""
        wanted = self.control.filter
        modes = wanted.modes
        everything = modes[spec.CTRL_RX_PROMISC] or modes[spec.CTRL_RX_ALLUNI]
        if everything or wanted.unicast is None:
            self.link.set_filter((), False)
            return
        all_multicast = modes[spec.CTRL_RX_ALLMULTI] or wanted.multicast is None
        addresses = [wanted.mac, spec.BROADCAST, *wanted.unicast, *(wanted.multicast or ())]
        self.link.set_filter(addresses, all_multicast)
