"""Devices other than disks. Source: QEMU, qapi/pci.json, char.json, net.json and ui.json."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from pyvmm.devices.keyboard_spec import EXTENDED, KEYS
from pyvmm.pci import pci_spec
from pyvmm.pci.description import BarDescription, FunctionDescription, describe
from pyvmm.qmp.client import Client
from pyvmm.qmp.command import command
from pyvmm.qmp.errors import DEVICE_NOT_FOUND, QmpError
from pyvmm.qmp.schema import OneOf
from pyvmm.virtio.net import Net
from pyvmm.virtio.pci import PciTransport
from pyvmm.virtio.vhost_user_net import VhostUserNet

NOT_MAPPED = -1  # QEMU's address of a region that the guest does not decode
EXTENDED_NUMBER = 0x80  # in the number of a key whose code has the prefix EXTENDED

PciDeviceClass = TypedDict("PciDeviceClass", {"class": int})
PciDeviceId = TypedDict(
    "PciDeviceId", {"device": int, "vendor": int, "subsystem": int, "subsystem-vendor": int}
)


class PciMemoryRegion(TypedDict):
    """A base address register; `address` is -1 while the guest does not decode it."""

    bar: int
    type: Literal["io", "memory"]
    address: int
    size: int
    prefetch: NotRequired[bool]
    mem_type_64: NotRequired[bool]


class PciDeviceInfo(TypedDict):
    """A PCI function; `qdev_id` is the device's name, if it is one that was asked for."""

    bus: int
    slot: int
    function: int
    class_info: PciDeviceClass
    id: PciDeviceId
    irq: NotRequired[int]
    irq_pin: int
    qdev_id: str
    regions: list[PciMemoryRegion]


class PciInfo(TypedDict):
    """A bus."""

    bus: int
    devices: list[PciDeviceInfo]


ChardevInfo = TypedDict("ChardevInfo", {"label": str, "filename": str, "frontend-open": bool})


class KeyNumber(TypedDict):
    """A key by its code in scan code set 1, with 0x80 if that comes after 0xE0."""

    type: Literal["number"]
    data: int


class KeyQCode(TypedDict):
    """A key by its name."""

    type: Literal["qcode"]
    data: Annotated[str, OneOf("QKeyCode", KEYS)]


KeyValue = KeyNumber | KeyQCode
NUMBERS = {
    codes[0] | (EXTENDED_NUMBER if prefix == (EXTENDED,) else 0): name
    for name, (prefix, codes) in KEYS.items()
    if len(codes) == 1
}


@command("query-pci")
def query_pci(client: Client) -> list[PciInfo]:
    """List the functions of the PCI bus."""
    board = client.machine.board
    names = {
        id(one.function): one.device.name for one in board.devices if isinstance(one, PciTransport)
    }
    places = sorted(board.pci.functions)
    functions = [
        _function(one, names.get(id(board.pci.functions[place]), ""))
        for place, one in zip(places, describe(board.pci), strict=True)
    ]
    return [{"bus": 0, "devices": functions}]


def _function(one: FunctionDescription, name: str) -> PciDeviceInfo:
    info: PciDeviceInfo = {
        "bus": 0,
        "slot": one.device,
        "function": one.number,
        "class_info": {"class": one.class_code >> pci_spec.CLASS_INTERFACE_BITS},
        "id": {
            "device": one.device_id,
            "vendor": one.vendor,
            "subsystem": one.subsystem,
            "subsystem-vendor": one.subsystem_vendor,
        },
        "irq_pin": one.pin,
        "qdev_id": name,
        "regions": [_region(bar) for bar in one.bars],
    }
    if one.pin:
        info["irq"] = one.line
    return info


def _region(bar: BarDescription) -> PciMemoryRegion:
    info: PciMemoryRegion = {
        "bar": bar.index,
        "type": "io" if bar.ports else "memory",
        "address": NOT_MAPPED if bar.address is None else bar.address,
        "size": bar.size,
    }
    if not bar.ports:
        info["prefetch"] = bar.prefetch
        info["mem_type_64"] = bar.width == 64
    return info


@command("query-chardev")
def query_chardev(client: Client) -> list[ChardevInfo]:
    """List the host's ends of serial ports and consoles."""
    return [
        {"label": name, "filename": line.where, "frontend-open": True}
        for name, line in client.machine.lines.items()
    ]


@command("set_link")
def set_link(client: Client, name: str, up: bool) -> None:
    """Plug a network device's cable in, or pull it."""
    device = client.machine.board.virtio.get(name)
    if not isinstance(device, Net | VhostUserNet):
        raise QmpError(f"Device '{name}' not found", DEVICE_NOT_FOUND)
    device.set_link(up)


@command("send-key")
def send_key(client: Client, keys: list[KeyValue]) -> None:
    """Press keys one after the other, and release them all."""
    client.machine.send_keys([_name(key) for key in keys])


def _name(key: KeyValue) -> str:
    if key["type"] == "qcode":
        return key["data"]
    if key["data"] not in NUMBERS:
        raise QmpError(f"There is no key with the number {key['data']}")
    return NUMBERS[key["data"]]
