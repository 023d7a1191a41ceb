"""A network device whose frames another process moves (vhost-user-net).

Configuration space and control queue are served here. Which frames the driver wants to receive, it
is free to say; the back end passes them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyvmm.errors import HostError
from pyvmm.events import Event, LinkChanged
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.net_control import Control
from pyvmm.virtio.net_frame import consistent
from pyvmm.virtio.vhost_user import BackEndError, VhostUser
from pyvmm.virtio.vhost_user_device import BackEnd, VhostUserDevice
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue, open_queue


class VhostUserNet(VhostUserDevice):
    """A network device whose frames `back_end` moves."""

    ID = virtio_spec.ID_NET

    def __init__(
        self,
        name: str,
        back_end: BackEnd,
        mac: bytes,
        *,
        pairs: int = 1,
        mtu: int | None = None,
        tell: Callable[[Event], object] = lambda event: None,
    ) -> None:
        """`pairs` of queues are the most that are wanted, `mtu` in bytes. Raises HostError.

        `tell` is told of each LinkChanged.
        """
        self._tell = tell
        self._plugged = self._alive = True
        self.control = Control(self, mac, mtu or spec.MTU_MAX, pairs)
        passed = spec.GUEST_OFFLOADS | spec.HOST_OFFLOADS | spec.F_MRG_RXBUF
        super().__init__(name, back_end, queues=pairs, queue_size=spec.QUEUE_SIZE, features=passed)
        self._passed = self.features  # what the back end has a say in
        pairs = self.control.max_pairs = len(self.queue_sizes)  # a back end counts pairs
        self.queue_sizes = (spec.QUEUE_SIZE,) * (2 * pairs + 1)
        self.features = consistent(self.features | self.control.features)

    def read_config(self) -> bytes:
        """See VirtioDevice."""
        return self.control.config()

    def set_link(self, up: bool) -> None:
        """Plug the cable in, or pull it. Any thread."""
        self._plugged = up
        self.worker.call(self._changed)

    def _changed(self) -> None:
        """Tell the driver and the back end whether there is a link."""
        self.control.set_link(self._plugged and self._alive)
        if self.link is not None:
            try:
                self._enable_pairs(self.link)
            except BackEndError as error:
                self.lost(error)

    # ---- what the control queue asks for ----

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        """Carry out a command of the control queue."""
        self.control.answer(chain)
        return True

    def set_pairs(self, pairs: int) -> None:
        """See net_control.Owner."""
        self._changed()

    def set_offloads(self, offloads: int) -> None:
        """See net_control.Owner: a back end has no way to learn of them once it runs."""

    def config_changed(self) -> None:
        """See net_control.Owner."""
        self.transport.config_changed()

    def link_changed(self) -> None:
        """See net_control.Owner."""
        self.transport.config_changed()
        self._tell(LinkChanged(self.name, self.control.link_up))

    # ---- life ----

    def activate(self, features: int, rings: Sequence[Ring]) -> None:
        """See VirtioDevice."""
        self.control.reset(features)
        own = [ring for ring in rings if ring.index == self.control.index]
        try:
            self.queues = {ring.index: open_queue(self.memory, ring) for ring in own}
        except QueueError as error:
            self.fail(error)
            return
        super().activate(
            features & self._passed, [ring for ring in rings if ring.index != self.control.index]
        )

    def quiesce(self) -> None:
        """See VirtioDevice."""
        VirtioDevice.quiesce(self)
        super().quiesce()

    def resume(self) -> None:
        """See VirtioDevice."""
        if self._held:
            VirtioDevice.resume(self)
        else:
            self._serve()
        super().resume()

    def deactivate(self) -> None:
        """See VirtioDevice."""
        super().deactivate()
        self.control.reset(0)

    def _stop(self) -> None:
        VirtioDevice._stop(self)
        super()._stop()

    # ---- the back end's work ----

    def _start(self) -> None:
        super()._start()
        self._alive = True
        if self.link is not None:
            self._enable_pairs(self.link)
        self.control.set_link(self._plugged)

    def _enable_pairs(self, link: VhostUser) -> None:
        for index in self._rings:
            link.enable_ring(index, self._plugged and index // 2 < self.control.pairs)

    def _keep_record(self, link: VhostUser) -> None:
        """None: what a back end that dies was working on is lost, as frames may be."""

    def _obstacle(self) -> str:
        return ""

    def lost(self, error: HostError) -> None:
        """See VhostUserDevice. The link is down until another back end is found."""
        self._alive = False
        self.control.set_link(False)
        super().lost(error)
