"""A network device on a tap, whose frames vhost-net or csrc/net.c moves, if there is either.

That is somebody in the host's kernel, or a thread of C's for each pair of queues. What the driver
wants to receive is left to the tap, which does not know VLANs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyvmm import fastpath
from pyvmm.typed import Any, Protocol
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.moved_net import MovedNet, Mover
from pyvmm.virtio.net import Link
from pyvmm.virtio.statistics import NetStatistics
from pyvmm.virtio.vhost import Vhost
from pyvmm.virtio.virtqueue import Ring, Virtqueue

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


class TapNet(MovedNet):
    """A virtio-net device, and the owner of its tap and of the kernel's part of it."""

    link: TapLink

    def __init__(
        self,
        name: str,
        link: TapLink,
        mac: bytes,
        *,
        vhosts: Sequence[Vhost] = (),
        **settings: Any,
    ) -> None:
        """`vhosts` is a vhost-net device for each pair of queues, if the kernel is to serve them.

        See Net for the others.
        """
        super().__init__(name, link, mac, **settings)
        self.vhosts = tuple(vhosts)
        for vhost in self.vhosts:
            self.features &= ~QUEUE_FEATURES | vhost.features
        self._moved = bool(self.vhosts) or fastpath.enabled()

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
        return None if self.vhosts else super().statistics()

    @property
    def interrupts(self) -> int | None:
        """See VirtioDevice. Any thread."""
        return None if self.vhosts else super().interrupts

    @property
    def data_path(self) -> str:
        """See VirtioDevice. Any thread."""
        return "vhost-net" if self.vhosts else super().data_path

    def make_mover(self, rings: Mapping[int, Ring]) -> Mover:
        """See MovedNet."""
        if self.vhosts:
            from pyvmm.virtio.vhost_net import VhostNet

            mover: Mover = VhostNet(self, rings)
        else:
            from pyvmm.virtio.native_net import NativeNet

            mover = NativeNet(self, rings)
        self.link.attach(self.control.pairs)
        self._set_filter()
        return mover

    @property
    def _carries(self) -> bool:
        return self.control.link_up

    # ---- what the host and the driver ask for meanwhile ----

    def gone(self) -> None:
        """The tap does not exist any more."""
        self.link.up = False
        self._changed()

    def _changed(self) -> None:
        super()._changed()
        self.link.set_carrier(self.control.link_up)
        self._move(self._carries and bool(self.queues))

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
