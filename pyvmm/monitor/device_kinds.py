"""The kinds of arguments that name devices and sizes, and how sizes are shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pyvmm.errors import UsageError
from pyvmm.memory import parse_size
from pyvmm.monitor.kinds import Choice, Word
from pyvmm.monitor.session import Session
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.blk import Blk
from pyvmm.virtio.description import kind_of
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.net import Net

UNITS = "KMGT"


class Bytes(int):
    """A number of bytes, which people read as 64M if it is that exactly."""

    def __str__(self) -> str:
        for power in range(len(UNITS), 0, -1):
            count, rest = divmod(int(self), 1 << 10 * power)
            if count and not rest:
                return f"{count}{UNITS[power - 1]}"
        return repr(int(self))


class Device(Word):
    """A virtio device, of one kind (VIRTIO 1.2 §5) or of any."""

    metavar = "DEVICE"

    def __init__(self, device_id: int | None = None) -> None:
        super().__init__()
        self._id = device_id

    def parse(self, session: Session, text: str) -> object:
        """See Kind."""
        names = [*self.complete(session, "")]
        if text in names:
            return session.machine.device(text)
        if names:
            raise UsageError(f"DEVICE must be {' or '.join(names)}, not {text!r}")
        kind = "virtio" if self._id is None else kind_of(self._id)
        raise UsageError(f"This machine has no {kind} device")

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        for device in session.machine.board.virtio.values():
            if self._id in (None, device.ID) and device.name.startswith(text):
                yield device.name


class Size(Word):
    """A number of bytes, also as 10G."""

    metavar = "SIZE"

    def parse(self, session: Session, text: str) -> object:
        """See Kind."""
        return parse_size(text, self.metavar)


# What handlers write as annotations; those of vhost-user have the same methods.
MaybeDevice = Annotated[VirtioDevice | None, Device()]
DiskDevice = Annotated[Blk, Device(virtio_spec.ID_BLOCK)]
NetDevice = Annotated[Net, Device(virtio_spec.ID_NET)]
ByteCount = Annotated[int, Size()]
UpDown = Annotated[str, Choice(("up", "down"))]
