"""A disk that another process serves (vhost-user-blk), as an image in qcow2 format is."""

from __future__ import annotations

import struct

from pyvmm.errors import MemoryAccessError, UsageError
from pyvmm.virtio import blk_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.vhost_user import BackEndError, VhostUser
from pyvmm.virtio.vhost_user_device import BackEnd, VhostUserDevice
from pyvmm.virtio.virtqueue import QueueError, Ring

FEATURES = (
    spec.F_SIZE_MAX
    | spec.F_SEG_MAX
    | spec.F_RO
    | spec.F_BLK_SIZE
    | spec.F_FLUSH
    | spec.F_TOPOLOGY
    | spec.F_CONFIG_WCE
    | spec.F_MQ
    | spec.F_WRITE_ZEROES
)


class VhostUserBlk(VhostUserDevice):
    """A block device whose requests `back_end` carries out."""

    ID = virtio_spec.ID_BLOCK

    def __init__(
        self,
        name: str,
        back_end: BackEnd,
        *,
        queues: int = 1,
        writeback: bool = True,
        discard: bool = True,
    ) -> None:
        """`queues` is the most there may be, `writeback` the cache mode after a reset.

        Raises HostError.
        """
        self.writeback = self._initial_writeback = writeback
        super().__init__(
            name,
            back_end,
            queues=queues,
            queue_size=spec.QUEUE_SIZE,
            features=FEATURES | (spec.F_DISCARD if discard else 0),
            config_size=spec.CONFIG.size,
        )
        if not any(self.config[spec.CONFIG_SIZE_MAX]):  # qemu-storage-daemon's way to set no limit
            self.features &= ~spec.F_SIZE_MAX

    def resize(self, size: int | str) -> None:
        """Raise UsageError: see Blk. Any thread."""
        raise UsageError(f"{self.name} is served by another process, which alone can resize it")

    def commit(self) -> None:
        """Raise UsageError: see Blk. Any thread."""
        raise UsageError(f"{self.name} is served by another process, which alone can commit it")

    # ---- configuration space ----

    def read_config(self) -> bytes:
        """See VirtioDevice. Its queues are not all that the back end may have."""
        config = bytearray(super().read_config())
        config[spec.CONFIG_WRITEBACK] = self.writeback
        config[spec.CONFIG_NUM_QUEUES] = struct.pack("<H", len(self.queue_sizes))
        return bytes(config)

    def write_config(self, offset: int, data: bytes) -> None:
        """Take the cache mode (§5.2.5)."""
        if offset == spec.CONFIG_WRITEBACK and len(data) == 1:
            self.writeback = bool(data[0])
            self.worker.call(self._pass_cache_mode)

    def configure(self, link: VhostUser) -> None:
        """See VhostUserDevice. A driver that cannot flush gets a writethrough cache (§5.2.5.2)."""
        if not self.negotiated & spec.F_FLUSH:
            self.writeback = False
        if link.features & spec.F_CONFIG_WCE:
            link.set_config(spec.CONFIG_WRITEBACK, bytes([self.writeback]))

    def kind(self, ring: Ring, head: int) -> str:
        """See VhostUserDevice. What the driver makes of it afterwards is its own loss."""
        descriptor = ring.descriptor_area + head * virtio_spec.DESC_SIZE
        try:
            if self.memory.u16(descriptor + virtio_spec.DESC_FLAGS) & virtio_spec.DESC_F_INDIRECT:
                descriptor = self.memory.u64(descriptor)
            request = self.memory.u32(self.memory.u64(descriptor))
        except MemoryAccessError as error:
            raise QueueError(f"a block request is not in RAM: {error} (§2.7.5)") from None
        if request == spec.T_FLUSH:
            return "flush"
        return "" if request in (spec.T_IN, spec.T_GET_ID) or not self.writeback else "write"

    def _pass_cache_mode(self) -> None:
        if self.link is None:  # `configure` will tell the next one
            return
        try:
            self.configure(self.link)
        except BackEndError as error:
            self.lost(error)

    def deactivate(self) -> None:
        """See VirtioDevice."""
        super().deactivate()
        self.writeback = self._initial_writeback
