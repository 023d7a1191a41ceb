"""What a virtio device and its transport are and do, for people: the state of their registers."""

from __future__ import annotations

from functools import partial

from pyvmm.errors import MemoryAccessError
from pyvmm.memory import GuestMemory
from pyvmm.typed import TYPE_CHECKING
from pyvmm.value import Value
from pyvmm.virtio import (
    balloon_spec,
    blk_spec,
    console_spec,
    fs_spec,
    net_spec,
    virtio_spec,
    vsock_spec,
)
from pyvmm.virtio.transport import QueueSetup, RegisterTransport

if TYPE_CHECKING:
    from types import ModuleType

SPECS = {
    virtio_spec.ID_NET: net_spec,
    virtio_spec.ID_BLOCK: blk_spec,
    virtio_spec.ID_CONSOLE: console_spec,
    virtio_spec.ID_BALLOON: balloon_spec,
    virtio_spec.ID_VSOCK: vsock_spec,
    virtio_spec.ID_FS: fs_spec,
}


class QueueDescription(Value):
    """One queue. Addresses are guest-physical; they and the indices count while it is enabled.

    `available` and `used` are the indices that the guest's memory has, `seen` is how far the device
    has come: None where that cannot be known.
    """

    index: int
    size: int
    enabled: bool
    descriptor_area: int
    driver_area: int
    device_area: int
    vector: int | None  # of MSI-X
    available: int | None
    used: int | None
    seen: int | None


class Description(Value):
    """One device. Features and bits of the status are named as in the specification."""

    name: str
    kind: str
    data_path: str
    status: tuple[str, ...]
    offered: tuple[str, ...]
    negotiated: tuple[str, ...]
    packed: bool
    queues: tuple[QueueDescription, ...]


def kind_of(device_id: int) -> str:
    """The name of a kind of devices, as `block` (§5)."""
    return names_of(virtio_spec, "ID_").get(device_id, f"device {device_id}")


def names_of(spec: ModuleType, prefix: str) -> dict[int, str]:
    """The names in a module of facts that begin with `prefix`, in lower case, by their values."""
    return {
        value: name.removeprefix(prefix).lower()
        for name, value in vars(spec).items()
        if name.startswith(prefix)
    }


def describe(transport: RegisterTransport) -> Description:
    """The device behind `transport`, between two requests. Any thread but its worker's."""
    found: list[Description] = []
    transport.device.worker.call(lambda: found.append(_describe(transport)))
    return found[0]


def _describe(transport: RegisterTransport) -> Description:
    device = transport.device
    features = names_of(virtio_spec, "F_") | names_of(SPECS.get(device.ID, virtio_spec), "F_")
    accepted = transport.accepted_features
    packed = bool(accepted & virtio_spec.F_RING_PACKED)
    seen = device.positions()
    describe_queue = partial(_describe_queue, transport, packed, seen)
    return Description(
        device.name,
        kind_of(device.ID),
        device.data_path,
        _bits(transport.status, names_of(virtio_spec, "STATUS_")),
        _bits(device.features, features),
        _bits(accepted, features),
        packed,
        tuple(map(describe_queue, transport.queues)),
    )


def _bits(value: int, names: dict[int, str]) -> tuple[str, ...]:
    """The names of the bits that are set, the lowest first."""
    bits = (1 << number for number in range(value.bit_length()))
    return tuple(
        names.get(bit, f"bit {bit.bit_length() - 1}").upper() for bit in bits if value & bit
    )


def _describe_queue(
    transport: RegisterTransport, packed: bool, seen: dict[int, int], queue: QueueSetup
) -> QueueDescription:
    memory = transport.device.memory
    split = queue.enabled and not packed
    return QueueDescription(
        queue.index,
        queue.size,
        queue.enabled,
        queue.descriptor_area,
        queue.driver_area,
        queue.device_area,
        transport.vector_of(queue.call),
        _index(memory, queue.driver_area) if split else None,
        _index(memory, queue.device_area) if split else None,
        seen.get(queue.index),
    )


def _index(memory: GuestMemory, ring: int) -> int | None:
    """The index of a split queue's available or used ring."""
    try:
        return memory.u16(ring + virtio_spec.RING_INDEX_OFFSET)
    except MemoryAccessError:
        return None
