"""A virtio device's queues served by the host's kernel: /dev/vhost-net and /dev/vhost-vsock.

The kernel waits for the driver's doorbells and raises its interrupts by the same eventfds as
everybody else, and reaches the guest's memory through this process's mapping of it. It knows split
rings only.
"""

from __future__ import annotations

import fcntl
import os

from pyvmm.errors import HostError
from pyvmm.memory import GuestMemory
from pyvmm.native import ffi
from pyvmm.virtio import vhost_spec as spec
from pyvmm.virtio.virtqueue import Ring, open_queue


class Vhost:
    """One device of the kernel's. One thread at a time; every method raises HostError.

    `fd` is its descriptor, `features` those that it can do. Rings are set up while no back end is
    bound to them, and counted from 0 here.
    """

    def __init__(self, path: str) -> None:
        """Open the device `path`, one of those in vhost_spec."""
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            module = os.path.basename(path).replace("-", "_")
            raise HostError(f"There must be {path}: load the kernel's module {module}") from None
        except OSError as error:
            raise HostError(f"{path} cannot be opened: {error.strerror}") from error
        try:
            answer = self.call(spec.GET_FEATURES, bytes(spec.U64.size))
            self.features: int = spec.U64.unpack(answer)[0]
            self.call(spec.SET_OWNER)
        except HostError:
            self.close()
            raise

    def close(self) -> None:
        """Have the kernel leave the guest's memory alone, and release the device."""
        os.close(self.fd)

    def call(self, request: int, argument: bytes = b"") -> bytes:
        """Make an ioctl of the device's own; what it leaves in its argument."""
        try:
            return fcntl.ioctl(self.fd, request, argument)
        except OSError as error:
            raise HostError(f"{self.path} refuses {request:#x}: {error.strerror}") from error

    def set_features(self, features: int) -> None:
        """Take those of the driver's features that are the kernel's concern."""
        self.call(spec.SET_FEATURES, spec.U64.pack(features & self.features))

    def set_memory(self, memory: GuestMemory) -> None:
        """Let the kernel use all RAM of the guest, until `close`."""
        table = spec.MEMORY.pack(len(memory.regions), 0)
        for region in memory.regions:
            table += spec.MEMORY_REGION.pack(region.base, region.size, _address(region.view), 0)
        self.call(spec.SET_MEM_TABLE, table)

    def set_ring(self, index: int, memory: GuestMemory, ring: Ring, base: int, error: int) -> None:
        """Set up ring `index` from the available index `base` on.

        `error` is the eventfd that is signalled if the driver breaks a rule. Raises QueueError for
        areas that are misaligned or not wholly in RAM.
        """
        open_queue(memory, ring)
        size = ring.size
        descriptors = _address(memory.view(ring.descriptor_area, 1))
        used = _address(memory.view(ring.device_area, 1))
        available = _address(memory.view(ring.driver_area, 1))
        self.call(spec.SET_VRING_NUM, spec.VRING_STATE.pack(index, size))
        self.call(spec.SET_VRING_BASE, spec.VRING_STATE.pack(index, base))
        areas = spec.VRING_ADDR.pack(index, 0, descriptors, used, available, 0)
        self.call(spec.SET_VRING_ADDR, areas)
        self.call(spec.SET_VRING_ERR, spec.VRING_FILE.pack(index, error))
        self.call(spec.SET_VRING_CALL, spec.VRING_FILE.pack(index, ring.call))
        self.call(spec.SET_VRING_KICK, spec.VRING_FILE.pack(index, ring.doorbell))

    def ring_base(self, index: int) -> int:
        """The available index that ring `index`, which is at rest, has got to."""
        answer = self.call(spec.GET_VRING_BASE, spec.VRING_STATE.pack(index, 0))
        return int(spec.VRING_STATE.unpack(answer)[1])


def usable(path: str) -> bool:
    """Whether the device `path` can be opened. Any thread."""
    return os.access(path, os.R_OK | os.W_OK)


def _address(view: memoryview) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(view)))
