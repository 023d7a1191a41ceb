"""The socket device with its streams served by vhost-vsock: only the kernel is between the ends.

Programs of the host reach the guest, and the guest reaches them, by AF_VSOCK (vsock(7)).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress

from pyvmm.errors import HostError
from pyvmm.virtio import vhost_spec
from pyvmm.virtio import vsock_spec as spec
from pyvmm.virtio.vhost import Vhost
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue
from pyvmm.virtio.vsock import VsockDevice


class VhostVsock(VsockDevice):
    """See VsockDevice. The event queue is served here, the other two by the kernel."""

    def __init__(self, name: str, cid: int) -> None:
        """Raises HostError: also if another machine has the CID."""
        super().__init__(name, cid, spec.F_SEQPACKET)
        self._vhost = _open(cid)
        self.features &= self._vhost.features
        self._bases: dict[Ring, int] = {}  # the kernel's rings, and how far it has got in each
        self._running = False
        self._broken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.worker.loop.watch(self._broken, self._ring_broken)

    def close(self) -> None:
        """See VirtioDevice."""
        super().close()
        self._vhost.close()
        os.close(self._broken)

    @property
    def data_path(self) -> str:
        """See VirtioDevice. Any thread."""
        return "vhost-vsock"

    def activate(self, features: int, rings: Sequence[Ring]) -> None:
        """See VirtioDevice."""
        self._bases = {ring: 0 for ring in rings if ring.index != spec.EVENT}
        super().activate(features, [ring for ring in rings if ring.index == spec.EVENT])
        self._start()

    def quiesce(self) -> None:
        """See VirtioDevice."""
        super().quiesce()
        self._halt()

    def resume(self) -> None:
        """See VirtioDevice."""
        super().resume()
        self._start()

    def pump(self, queue: Virtqueue) -> None:
        """See VirtioDevice."""
        self.pump_events(queue)

    def _stop(self) -> None:
        super()._stop()
        self._halt()
        self._bases.clear()

    def _start(self) -> None:
        """Have the kernel serve the rings, if there are any."""
        if not self._bases:
            return
        try:
            self._vhost.set_features(self.negotiated)
            self._vhost.set_memory(self.memory)
            for ring, base in self._bases.items():
                self._vhost.set_ring(ring.index, self.memory, ring, base, self._broken)
            self._run(True)
        except QueueError as error:
            self.fail(error)
        except HostError as error:
            self.log.warning("%s: %s; it does nothing until its driver resets it", self.name, error)
            self._stop()
            self.transport.needs_reset()
        for ring in self._bases:
            os.eventfd_write(ring.doorbell, 1)  # the driver may have filled it before

    def _halt(self) -> None:
        """Have the kernel leave the guest's memory alone."""
        if not self._running:
            return
        with suppress(HostError):  # the kernel has no other reason than that it was not running
            self._run(False)
        for ring in self._bases:
            self._bases[ring] = self._vhost.ring_base(ring.index)

    def _run(self, running: bool) -> None:
        self._vhost.call(vhost_spec.VSOCK_SET_RUNNING, spec.RUNNING.pack(running))
        self._running = running

    def _ring_broken(self) -> None:
        os.eventfd_read(self._broken)
        self.fail(QueueError("the kernel finds a ring broken"))


def _open(cid: int) -> Vhost:
    """A device of the kernel's that has this CID. Raises HostError."""
    vhost = Vhost(vhost_spec.VSOCK_DEVICE)
    try:
        vhost.call(vhost_spec.VSOCK_SET_GUEST_CID, vhost_spec.U64.pack(cid))
    except HostError as error:
        vhost.close()
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
            raise HostError(f"The CID {cid} must not be another machine's on this host") from error
        raise
    return vhost
