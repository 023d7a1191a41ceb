"""A network device whose frames somebody faster than Net moves.

The control queue is Net's all the same. What the driver wants to receive the link filters, if
anybody: too much is received then rather than too little (VIRTIO 1.2 §5.1.6.5.1 asks for no more).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial

from pyvmm.errors import HostError
from pyvmm.typed import TYPE_CHECKING, Any, Protocol
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio.device import ring_doorbell
from pyvmm.virtio.net import Link, Net
from pyvmm.virtio.statistics import NetStatistics
from pyvmm.virtio.virtqueue import Ring

if TYPE_CHECKING:
    from pyvmm.hooks import Tracer


class Mover(Protocol):
    """Who moves the frames while a driver has the device. It is made at rest."""

    def start(self) -> None:
        """Serve the queues from where they are."""

    def stop(self) -> None:
        """Leave the guest's memory alone until `start`."""

    def close(self) -> None:
        """Stop, and give the queues up."""

    def trace(self, tracer: Tracer | None) -> None:
        """Tell `tracer` of what is done. Any thread."""

    def inspect(self) -> dict[str, int]:
        """What was done since it was made, under the names of NetStatistics among others."""

    def positions(self) -> dict[int, int]:
        """See VirtioDevice."""


class MovedNet(Net):
    """A virtio-net device with a Mover while a driver has it. Subclasses say which."""

    _moved = True  # or Net does it all

    def __init__(self, name: str, link: Link, mac: bytes, **settings: Any) -> None:
        """See Net."""
        self._mover: Mover | None = None
        self._counting = threading.Lock()  # held while `_mover` and what it counted change
        self._moving = False
        super().__init__(name, link, mac, **settings)

    @property
    def _carries(self) -> bool:
        """Whether frames are to be moved, as far as the link is concerned."""
        return True

    def make_mover(self, rings: Mapping[int, Ring]) -> Mover:
        """Who moves the frames of `rings`, by their index. Raises HostError or QueueError."""
        raise NotImplementedError

    def statistics(self) -> NetStatistics | None:
        """See VirtioDevice. Any thread."""
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
    def interrupts(self) -> int | None:
        """See VirtioDevice. Any thread."""
        with self._counting:
            moved = {} if self._mover is None else self._mover.inspect()
            return self._interrupts + moved.get("interrupts", 0)

    @property
    def data_path(self) -> str:
        """See VirtioDevice. Any thread."""
        return "C" if self._moved else super().data_path

    def trace(self, tracer: Tracer | None) -> None:
        """See VirtioDevice."""
        super().trace(tracer)
        mover = self._mover  # the worker may end it now
        if mover is not None:
            mover.trace(tracer)

    # ---- life ----

    def _serve(self) -> None:
        if not self._moved:
            super()._serve()
            return
        if self._mover is None:
            count = 2 * (self.control.max_pairs if self.negotiated & spec.F_MQ else 1)
            rings = {index: queue.ring for index, queue in self.queues.items() if index < count}
            self._mover = self.make_mover(rings)
            self._mover.trace(self.tracer)
        index = self.control.index
        if index is not None and index in self.queues:
            control = self.queues[index]
            self.worker.loop.watch(control.ring.doorbell, partial(self._rung, control))
            ring_doorbell(control)
        self._move(self._carries)

    def _ignore_doorbells(self) -> None:
        super()._ignore_doorbells()
        self._move(False)

    def _stop(self) -> None:
        super()._stop()
        if self._mover is not None:
            mover = self._mover  # at rest
            with self._counting:
                self._counts, self._mover = self._totals(), None
                self._interrupts += mover.inspect().get("interrupts", 0)
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
