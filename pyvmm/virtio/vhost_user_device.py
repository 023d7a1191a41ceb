"""A virtio device whose queues another process serves: a vhost-user back end.

The driver's doorbells and the back end's interrupts do not pass through here, with one exception
(vhost_user_journal.py). What is done here is to start the back end's work, to stop it, and to find
another when it dies, which goes on where the first one was.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from pyvmm.errors import HostError
from pyvmm.loop import Timer
from pyvmm.typed import Protocol
from pyvmm.virtio import vhost_user_spec as vhost
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.vhost_user import BackEndError, Channel, Inflight, VhostUser
from pyvmm.virtio.vhost_user_journal import Journal, Journals
from pyvmm.virtio.virtqueue import QueueError, Ring, open_queue

# Packed rings are not among them: their used index is nowhere in memory, to go on from.
QUEUE_FEATURES = spec.F_VERSION_1 | spec.F_INDIRECT_DESC | spec.F_EVENT_IDX
STOP_SECONDS = 20.0  # for what is in flight when the driver resets the device
RETURN_SECONDS = 10.0  # until a back end that died has to be there again
RETRY_SECONDS = 0.2
POLL_SECONDS = 0.001


class BackEnd(Protocol):
    """Where a device's back end is found. The worker's thread."""

    def connect(self) -> socket.socket:
        """A new connection to it, once the last one is closed. Raises HostError."""

    def explain(self, clause: str) -> str:
        """Why it failed, in a sentence: in its own words if it left any, or with `clause`."""

    def disconnect(self) -> None:
        """The connection is closed: end what was started for it. May be called twice."""

    def close(self) -> None:
        """Release what is kept between connections."""


class VhostUserDevice(VirtioDevice):
    """The front end of a vhost-user device. Unless a method says otherwise: the worker's thread."""

    shares_memory = True
    irreplaceable = ""  # what is lost when a back end dies so that no other can go on, if anything

    def __init__(
        self,
        name: str,
        back_end: BackEnd,
        *,
        queues: int,
        queue_size: int,
        features: int,
        config_size: int = 0,
    ) -> None:
        """Connect to `back_end`, which is the device's from here on.

        `features` are the device's own that are understood here, `queues` is how many are wanted,
        `config_size` how much of the configuration space (bytes). Raises HostError.
        """
        super().__init__(name, ())
        self.back_end = back_end
        self.config = b""
        self._config_size = config_size
        self.link: VhostUser | None = None
        self._channel: Channel | None = None
        self._rings: dict[int, Ring] = {}  # those in use, also while it is quiesced
        self._inflight: Inflight | None = None  # the back end's record of what it works on
        self._journals: Journals | None = None  # ours, if it has none
        self._unsafe = 0  # writes of before that may be lost if the back end dies
        self._working = False  # a back end has the rings, or one is looked for
        self._replaced = False  # one has died since the driver set the device up
        self._deadline = 0.0  # for finding another (CLOCK_MONOTONIC)
        self._retry: Timer | None = None
        self._broken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.worker.loop.watch(self._broken, self._ring_broken)
        try:
            self.worker.call(lambda: self._open(queues, queue_size, features))
        except BaseException:
            self.close()
            raise

    def _open(self, queues: int, queue_size: int, features: int) -> None:
        try:
            link = self._connect()
            if not link.features & spec.F_VERSION_1:
                raise BackEndError("it must offer VIRTIO_F_VERSION_1")
            self.features = link.features & (features | QUEUE_FEATURES)
            self.queue_sizes = (queue_size,) * min(queues, link.queue_count())
        except BackEndError as error:
            raise HostError(self._explain(error)) from error

    def close(self) -> None:
        """See VirtioDevice."""
        self.worker.call(self._release)
        super().close()
        os.close(self._broken)

    def _release(self) -> None:
        self.deactivate()
        self._disconnect()
        self.back_end.close()

    @property
    def data_path(self) -> str:
        """See VirtioDevice. Any thread."""
        return "vhost-user"

    def read_config(self) -> bytes:
        """See VirtioDevice."""
        return self.config

    # ---- the connection ----

    def _connect(self) -> VhostUser:
        """Connect to a back end. Raises HostError; `_disconnect` afterwards."""
        connection = self.back_end.connect()
        try:
            link = self.link = VhostUser(connection)
        except BackEndError:
            connection.close()
            raise
        self.worker.loop.watch(connection.fileno(), self._hung_up)
        if link.has(vhost.PROTOCOL_F_BACKEND_REQ) and self._config_size:
            self._channel = link.open_channel()
            self.worker.loop.watch(self._channel.socket.fileno(), self._asked)
        self._read_config(link)
        return link

    def _disconnect(self) -> None:
        if self._channel is not None:
            self.worker.loop.unwatch(self._channel.socket.fileno())
            self._channel.close()
            self._channel = None
        if self.link is not None:
            self.worker.loop.unwatch(self.link.socket.fileno())
            self.link.close()
            self.link = None
        self.back_end.disconnect()

    def _explain(self, error: HostError) -> str:
        return self.back_end.explain(str(error)) if isinstance(error, BackEndError) else str(error)

    def _hung_up(self) -> None:
        """The connection is readable when no answer is due: it has ended, or makes no sense."""
        self.lost(BackEndError("it has hung up"))

    def _asked(self) -> None:
        """The back end asks for something on its own channel."""
        assert self.link is not None
        assert self._channel is not None
        try:
            self._channel.take_config_change()
            self._read_config(self.link)
            self.transport.config_changed()
        except BackEndError as error:
            self.lost(error)

    def _read_config(self, link: VhostUser) -> None:
        if self._config_size:
            self.config = link.get_config(self._config_size)

    # ---- life ----

    def activate(self, features: int, rings: Sequence[Ring]) -> None:
        """See VirtioDevice."""
        self.negotiated = features
        self._replaced = False
        try:
            for ring in rings:
                open_queue(self.memory, ring)  # checks it
        except QueueError as error:
            self.fail(error)
            return
        self._rings = {ring.index: ring for ring in rings}
        self.resume()

    def quiesce(self) -> None:
        """See VirtioDevice."""
        self._halt()

    def resume(self) -> None:
        """See VirtioDevice."""
        self._working = True
        try:
            self._start()
        except QueueError as error:
            self.fail(error)
        except HostError as error:
            self.lost(error)

    def _stop(self) -> None:
        self._halt()
        if self._journals is not None:
            with suppress(QueueError):  # what the driver spoilt there is its own loss
                self._journals.settle()
            self._unsafe = self._journals.unsafe
            self._journals.close()
            self._journals = None
        if self._inflight is not None:
            os.close(self._inflight.fd)
            self._inflight = None
        self._rings.clear()

    # ---- the back end's work ----

    def configure(self, link: VhostUser) -> None:
        """Set what is the device's own, for the features in `negotiated`. Raises BackEndError."""

    def kind(self, ring: Ring, head: int) -> str:
        """Of a request: `"write"` if it may be lost until a `"flush"`. Raises QueueError."""
        return ""

    def _start(self) -> None:
        """Hand the rings to a back end, the first or another. Raises HostError or QueueError."""
        link = self.link or self._connect()
        if missing := self.negotiated & ~link.features:
            raise BackEndError(f"it lacks the features {missing:#x}, which the driver uses")
        self._keep_record(link)
        link.set_features(self.negotiated & ~(spec.F_EVENT_IDX if self._journals else 0))
        self.configure(link)
        own = [self._journals.region] if self._journals is not None else []
        link.set_memory([*self.memory.regions, *own])
        for ring in self._rings.values():
            base = self._used_index(ring)
            if self._journals is None:
                link.start_ring(ring, base, self._broken)
            else:
                journal = self._journals[ring.index]
                journal.rewind()
                link.start_ring(journal.ring, base, self._broken)
                self.worker.loop.watch(ring.doorbell, partial(self._forward, journal))
            os.eventfd_write(ring.doorbell, 1)  # the driver may have filled it before
            if base:  # the last interrupt may be lost, with the last back end
                os.eventfd_write(ring.call, 1)

    def _keep_record(self, link: VhostUser) -> None:
        """See that what is in flight will be known if the back end dies."""
        if self._inflight is None and self._journals is None and not self.irreplaceable:
            if link.has(vhost.PROTOCOL_F_INFLIGHT_SHMFD):
                self._inflight = link.get_inflight(len(self.queue_sizes), max(self.queue_sizes))
            elif self.negotiated & spec.F_EVENT_IDX:
                rings = list(self._rings.values())
                self._journals = Journals(self.memory, rings, self.kind, self._unsafe)
        if self._inflight is not None:
            link.set_inflight(self._inflight)

    def _forward(self, journal: Journal) -> None:
        """The driver has rung."""
        try:
            os.eventfd_read(journal.doorbell)
        except BlockingIOError:  # somebody else took the signal
            return
        try:
            journal.forward()
        except QueueError as error:
            self.fail(error)

    def _used_index(self, ring: Ring) -> int:
        return self.memory.u16(ring.device_area + spec.RING_INDEX_OFFSET)

    def _halt(self) -> None:
        """Have the back end leave the guest's memory alone."""
        working, self._working = self._working, False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._journals is not None:
            for ring in self._rings.values():
                self.worker.loop.unwatch(ring.doorbell)
                self._journals[ring.index].end()
        if not working or self.link is None:
            return
        try:
            self._drain(self.link)
        except BackEndError as error:
            self.lost(error)

    def _drain(self, link: VhostUser) -> None:
        """Stop the rings, and wait until all that the back end has taken from them is answered.

        It should wait itself before it says that a ring is stopped, but not every one does.
        """
        bases = {index: link.stop_ring(index) for index in self._rings}
        deadline = time.monotonic() + STOP_SECONDS
        for index, base in bases.items():
            while self._used_index(self._rings[index]) != base:
                if time.monotonic() > deadline:
                    raise BackEndError(f"it does not finish its requests in {STOP_SECONDS:g} s")
                time.sleep(POLL_SECONDS)
                link.ask_sign_of_life()

    def _ring_broken(self) -> None:
        os.eventfd_read(self._broken)
        self.fail(QueueError("the back end finds a ring broken"))

    # ---- its death ----

    def lost(self, error: HostError) -> None:
        """The connection is of no more use: say so, and find another if there is work."""
        reason = self._explain(error)
        self._disconnect()
        if not self._working:
            self.log.warning("%s: %s%s", self.name, reason, self._loss(self._unsafe))
            self._unsafe = 0
            return
        try:
            obstacle = self._obstacle()
        except QueueError as broken:
            self.fail(broken)
            return
        if obstacle:
            self._give_up(reason + obstacle)
            return
        self.log.warning("%s: %s; another is to go on in its place", self.name, reason)
        self._replaced = True
        self._deadline = time.monotonic() + RETURN_SECONDS
        self._replace()

    def _obstacle(self) -> str:
        """Why no other can go on where the last back end was. Raises QueueError."""
        if self.irreplaceable:
            return f", {self.irreplaceable}"
        if self._replaced:
            return ", again"
        if self._journals is not None:
            self._journals.settle()
            return self._loss(self._journals.unsafe)
        if self._inflight is not None or all(
            self.memory.u16(ring.driver_area + spec.RING_INDEX_OFFSET) == self._used_index(ring)
            for ring in self._rings.values()
        ):
            return ""
        return ", and nobody knows what it was doing"

    @staticmethod
    def _loss(unsafe: int) -> str:
        return ", and writes may be lost that the guest had not flushed" if unsafe else ""

    def _replace(self) -> None:
        """Find another back end, or try again a little later."""
        self._retry = None
        config = self.read_config()
        try:
            self._start()
        except QueueError as error:
            self.fail(error)
        except HostError as error:
            reason = self._explain(error)
            self._disconnect()
            if time.monotonic() > self._deadline:
                self._give_up(reason)
            else:
                when = self.worker.loop.now() + RETRY_SECONDS
                self._retry = self.worker.loop.call_at(when, self._replace)
        else:
            self.log.info("%s: another back end goes on", self.name)
            if self.read_config() != config:
                self.transport.config_changed()

    def _give_up(self, reason: str) -> None:
        self.log.warning("%s: %s; it does nothing until its driver resets it", self.name, reason)
        self._stop()
        self._unsafe = 0  # the driver is told
        self.transport.needs_reset()
