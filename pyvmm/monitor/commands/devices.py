"""What the devices are, how the guest has set them up, and the balloon."""

from __future__ import annotations

from contextlib import suppress

from pyvmm.errors import UsageError
from pyvmm.machine import Machine
from pyvmm.monitor.command import command
from pyvmm.monitor.device_kinds import ByteCount, Bytes, MaybeDevice
from pyvmm.monitor.result import Cell, Fields, Hex, Result, Sections, Table
from pyvmm.monitor.session import Session
from pyvmm.pci import pci_spec
from pyvmm.pci.description import BarDescription, Capability, FunctionDescription
from pyvmm.pci.description import describe as describe_pci
from pyvmm.peripherals import Peripheral
from pyvmm.virtio import pci_spec as virtio_pci
from pyvmm.virtio.balloon import Balloon
from pyvmm.virtio.description import Description, describe
from pyvmm.virtio.mmio import MmioTransport
from pyvmm.virtio.pci import PciTransport
from pyvmm.virtio.transport import RegisterTransport

# What the short view says of a device's status: the first of these that is set.
STATUSES = ("FAILED", "NEEDS_RESET", "DRIVER_OK", "FEATURES_OK", "DRIVER", "ACKNOWLEDGE")
GUEST_SECONDS = 1.0  # that the balloon's driver has for an answer
COMMAND_BITS = {
    pci_spec.COMMAND_IO: "ports",
    pci_spec.COMMAND_MEMORY: "memory",
    pci_spec.COMMAND_BUS_MASTER: "bus master",
    pci_spec.COMMAND_INTX_DISABLE: "no pin",
}


# ---- PCI ----


@command("info pci")
def info_pci(session: Session) -> Result:
    """Show the functions of the PCI bus: their BARs, interrupts and capabilities."""
    board = session.machine.board
    names = {place: name for name, place in _places(session.machine).items()}
    return Sections(
        {_pci_title(function, names): _function(function) for function in describe_pci(board.pci)}
    )


def _places(machine: Machine) -> dict[str, str]:
    """Where each virtio device is, by its name."""
    places = {}
    by_function = {function: place for place, function in machine.board.pci.functions.items()}
    for transport in _transports(machine):
        if isinstance(transport, PciTransport):
            place = by_function[transport.function]
            places[transport.name] = _address(*divmod(place, pci_spec.FUNCTIONS))
        elif isinstance(transport, MmioTransport):
            places[transport.name] = f"{transport.base:#x}"
    return places


def _transports(machine: Machine) -> list[RegisterTransport]:
    return [one for one in machine.board.devices if isinstance(one, RegisterTransport)]


def _address(device: int, number: int) -> str:
    return f"00:{device:02x}.{number}"


def _pci_title(function: FunctionDescription, names: dict[str, str]) -> str:
    address = _address(function.device, function.number)
    name = names.get(address, "")
    kind = pci_spec.CLASS_NAMES.get(function.class_code >> 8, f"class {function.class_code:06x}")
    return f"{address} {kind}{name and f', {name}'}"


def _function(function: FunctionDescription) -> Fields:
    fields: dict[str, Cell] = {
        "ids": f"{function.vendor:04x}:{function.device_id:04x}",
        "subsystem": f"{function.subsystem_vendor:04x}:{function.subsystem:04x}",
        "class": f"{function.class_code:06x}",
        "revision": function.revision,
        "decodes": _names(function.command, COMMAND_BITS),
    }
    fields |= {f"BAR {bar.index}": _bar(bar) for bar in function.bars}
    if function.pin != pci_spec.PIN_NONE:
        fields["pin"] = f"INT{'ABCD'[function.pin - 1]}#, line {function.line}"
    if function.vectors:
        fields["MSI-X"] = f"{function.vectors} vectors, {'on' if function.messages else 'off'}"
    if function.capabilities:
        virtio = function.vendor == virtio_pci.VENDOR
        names = (_capability(one, virtio) for one in function.capabilities)
        fields["capabilities"] = ", ".join(names)
    return Fields(fields)


def _bar(bar: BarDescription) -> str:
    kind = "ports" if bar.ports else f"{bar.width}-bit{' prefetchable' * bar.prefetch} memory"
    place = "not decoded" if bar.address is None else f"at {bar.address:#x}"
    return f"{Bytes(bar.size)} of {kind}, {place}"


def _capability(one: Capability, virtio: bool) -> str:
    name = pci_spec.CAPABILITY_NAMES.get(one.identity, f"{one.identity:#04x}")
    if virtio and one.identity == pci_spec.CAPABILITY_VENDOR:
        _, kind, *_ = virtio_pci.CAP.unpack_from(one.body)
        name = virtio_pci.CAP_NAMES[kind]
    return f"{name} at {one.offset:#04x}"


def _names(value: int, names: dict[int, str]) -> str:
    return ", ".join(name for bit, name in names.items() if value & bit) or "nothing"


# ---- virtio ----


@command("info virtio", examples=["info virtio vda"])
def info_virtio(session: Session, device: MaybeDevice = None) -> Result:
    """Show the virtio devices, or one of them with its features and queues.

    `available` and `used` are the indices of a split queue that are in the guest's memory, `seen`
    is how far the device has come, where that is known.
    """
    places = _places(session.machine)
    transports = {transport.name: transport for transport in _transports(session.machine)}
    if device is None:
        columns = ("device", "kind", "at", "served by", "status", "queues")
        every = (describe(transport) for transport in transports.values())
        return Table(columns, [_summary(one, places[one.name]) for one in every])
    found = describe(transports[device.name])
    fields = Fields(
        {
            "kind": found.kind,
            "settings": _settings(session.machine, device.name),
            "at": places[device.name],
            "served by": found.data_path,
            "status": " ".join(found.status),
            "rings": "packed" if found.packed else "split",
            "negotiated": " ".join(found.negotiated),
            "offered": " ".join(found.offered),
        }
    )
    return Sections({device.name: fields, "Queues": _queues(found)})


def _settings(machine: Machine, name: str) -> str:
    """What a device was made with, apart from what it is if nothing is said."""
    values = (one for one in machine.config.devices if isinstance(one, Peripheral))
    for value in (one for one in values if one.name == name):
        given = {key: field for key, field in value.asdict().items() if key != "name"}
        different = (key for key in given if given[key] != getattr(type(value), key, None))
        return " ".join(f"{key}={given[key]}" for key in different)
    return ""


def _summary(found: Description, place: str) -> list[Cell]:
    queues = sum(queue.enabled for queue in found.queues)
    status = next((name for name in STATUSES if name in found.status), "RESET")
    return [found.name, found.kind, place, found.data_path, status, queues]


def _queues(found: Description) -> Table:
    columns = (
        *("queue", "size", "enabled", "descriptors", "driver", "device"),
        *("vector", "available", "used", "seen"),
    )
    rows = [
        [
            *(queue.index, queue.size, queue.enabled),
            *(Hex(queue.descriptor_area), Hex(queue.driver_area), Hex(queue.device_area)),
            *(queue.vector, queue.available, queue.used, queue.seen),
        ]
        for queue in found.queues
    ]
    return Table(columns, rows)


# ---- lines ----


@command("info chardev")
def info_chardev(session: Session) -> Result:
    """Show the serial ports and consoles, what each is connected to, and what waits there."""
    lines = session.machine.lines
    columns = ("line", "connected to", "unsent")
    return Table(columns, [[name, line.where, line.unsent] for name, line in lines.items()])


# ---- the balloon ----


@command("balloon", examples=["balloon 256M"])
def balloon(session: Session, size: ByteCount) -> None:
    """Ask the guest to make do with SIZE of its memory; `info balloon` says how far it is."""
    find_balloon(session.machine).resize(size)


@command("info balloon")
def info_balloon(session: Session) -> Result:
    """Show how much memory the guest has, and what it says of it if its driver answers."""
    machine = session.machine
    device = find_balloon(machine)
    fields: dict[str, Cell] = {
        "device": device.name,
        "memory": Bytes(machine.memory.size),
        "wanted": Bytes(device.target),
        "now": Bytes(device.size),
    }
    if machine.state == "running":
        with suppress(TimeoutError):
            fields |= device.guest_statistics(GUEST_SECONDS)
    return Fields(fields)


def find_balloon(machine: Machine) -> Balloon:
    """The machine's balloon. Raises UsageError if it has none."""
    for device in machine.board.virtio.values():
        if isinstance(device, Balloon):
            return device
    raise UsageError("The machine must have a balloon, which --balloon gives it")
