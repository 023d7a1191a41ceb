"""A directory of the host that another process serves (vhost-user-fs), as virtiofsd does."""

from __future__ import annotations

from pyvmm.errors import HostError
from pyvmm.virtio import fs_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.vhost_user_device import BackEnd, VhostUserDevice


class VhostUserFs(VhostUserDevice):
    """A file system device whose requests `back_end` carries out."""

    ID = virtio_spec.ID_FS
    irreplaceable = "and with it all that the guest had open"

    def __init__(self, name: str, back_end: BackEnd, *, tag: str) -> None:
        """`tag` is what the guest mounts it by: 1 to TAG_SIZE bytes of UTF-8. Raises HostError."""
        self._tag = tag.encode()
        super().__init__(name, back_end, queues=spec.QUEUES, queue_size=spec.QUEUE_SIZE, features=0)
        if len(self.queue_sizes) < spec.QUEUES:
            self.close()
            raise HostError(f"{name}: its back end must serve {spec.QUEUES} queues")

    def read_config(self) -> bytes:
        """See VirtioDevice. The back end does not know its tag."""
        return spec.CONFIG.pack(self._tag, len(self.queue_sizes) - 1)
