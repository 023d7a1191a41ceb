"""The board: who answers which address, interrupts, exits, and the host below."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib import metadata

from pyvmm.board import Board
from pyvmm.boot.e820 import RAM, memory_map
from pyvmm.bus import Device
from pyvmm.diagnosis_spec import place_of
from pyvmm.fastpath import enabled
from pyvmm.inspection import chips, chips_spec, places, places_spec
from pyvmm.inspection.places import Place
from pyvmm.kvm.system import API_VERSION, module
from pyvmm.kvm.vm import IRQCHIPS
from pyvmm.monitor.command import command
from pyvmm.monitor.commands.cpu import OptionalCpu
from pyvmm.monitor.result import Cell, Fields, Hex, Result, Sections, Table
from pyvmm.monitor.session import Session
from pyvmm.monitor.units import size_text
from pyvmm.pci.pci_spec import FUNCTIONS
from pyvmm.virtio.pci import PciTransport
from pyvmm.virtio.transport import RegisterTransport

RANGE = ("from", "to", "size")


@command("info version")
def info_version(session: Session) -> Result:
    """Show the versions of pyvmm and of what it runs on."""
    try:
        version = metadata.version("pyvmm")
    except metadata.PackageNotFoundError:  # run from its sources
        version = "not installed"
    return Fields(
        {
            "pyvmm": version,
            "python": platform.python_version(),
            "host": f"{platform.system()} {platform.release()}",
            "kvm": module() or "built in",
        }
    )


@command("info kvm")
def info_kvm(session: Session) -> Result:
    """Show the host's KVM: its module, and the capabilities that it has."""
    capabilities = session.machine.board.kvm.capabilities()
    fields: dict[str, Cell] = {
        "module": module() or "built in",
        "API version": API_VERSION,
        "exits answered in C": enabled(),
    }
    there = sorted((name, value) for name, value in capabilities.items() if value)
    return Sections(
        {
            "KVM": Fields(fields),
            "Capabilities": Table(("capability", "value"), there),
            "Not there": Table(
                ("capability",),
                sorted((name,) for name, value in capabilities.items() if not value),
            ),
        }
    )


# ---- addresses ----


@command("info memory map")
def info_memory_map(session: Session) -> Result:
    """Show the guest's RAM, how much of it the host has allocated, and what the guest was told."""
    memory = session.machine.memory
    used = [0] * len(memory.regions)
    for address, length in memory.touched():
        used[memory.regions.index(memory.region_at(address, length))] += length
    rows = [
        (slot, *_range(region.base, region.size), size_text(used[slot]))
        for slot, region in enumerate(memory.regions)
    ]
    told = [
        (*_range(base, size), "RAM" if kind == RAM else "reserved")
        for base, size, kind in memory_map(memory)
    ]
    return Sections(
        {
            "RAM, by memory slot": Table(("slot", *RANGE, "allocated"), rows),
            "What the guest was told": Table((*RANGE, "type"), told),
        }
    )


@command("info address spaces")
def info_address_spaces(session: Session) -> Result:
    """Show who answers which guest-physical address and which port.

    What lies in a window of the PCI bus is set off to the right.
    """
    board = session.machine.board
    memory, ports = places.memory(board), places.ports(board)
    end = sum(board.pci_window64)
    return Sections(
        {
            "Memory": _space(memory, places.holes(memory, end)),
            "Ports": _space(ports, places.holes(ports, places_spec.ALL_PORTS)),
        }
    )


def _space(found: Sequence[Place], holes: Sequence[Place]) -> Table:
    rows, end = [], 0  # of the window that the place lies in
    for place in sorted([*found, *holes], key=lambda place: (place.base, -place.size)):
        indent = "  " * (place.last < end)
        rows.append((Hex(place.base), Hex(place.last), indent + place.what, place.by or None))
        end = max(end, place.last)
    return Table(("from", "to", "what", "by"), rows)


@command("info devices")
def info_devices(session: Session) -> Result:
    """Show the devices of the board, with their addresses and interrupts.

    Those on the PCI bus are set off to the right, with their place on it.
    """
    board = session.machine.board
    slots = {id(function): place for place, function in board.pci.functions.items()}
    own, functions = [], []
    for device in board.devices:
        what = device.device if isinstance(device, RegisterTransport) else device
        row = (type(what).__name__, _claims(board, device.name), _lines(board, device))
        if isinstance(device, PciTransport):
            slot, number = divmod(slots[id(device.function)], FUNCTIONS)
            functions.append((f"  {slot:02x}.{number} {device.name}", *row))
        else:
            own.append((device.name, *row))
    rows = own + functions  # the PCI bus is the last of its own
    return Table(("device", "type", "at", "interrupt"), rows)


def _claims(board: Board, name: str) -> str | None:
    claims = [
        f"{what} {claim.base:#x}" + (f"-{claim.end - 1:#x}" if claim.end - claim.base > 1 else "")
        for what, bus in (("port", board.pio), ("memory", board.mmio))
        for claim in bus.claims
        if claim.device.name == name
    ]
    return ", ".join(claims) or None


def _lines(board: Board, device: Device) -> str | None:
    if isinstance(device, PciTransport) and device.msix.enabled:
        return "MSI-X"
    wired = (gsi for gsi, (_, names) in sorted(board.wired.items()) if device.name in names)
    return ", ".join(f"GSI {gsi}" for gsi in wired) or None


# ---- interrupts ----


@command("info ioapic")
def info_ioapic(session: Session) -> Result:
    """Show the IOAPIC's redirection table."""
    state = session.machine.board.vm.get_irqchip("IOAPIC")
    rows = [
        (
            pin.number,
            _wired(session, pin.number),
            Hex(pin.vector),
            pin.destination,
            chips.delivery_of(pin.entry),
            "asserted" if pin.asserted else None,
        )
        for pin in chips.pins_of(state)
    ]
    return Table(("pin", "of", "vector", "to", "delivery", "line"), rows)


@command("info irq")
def info_irq(session: Session) -> Result:
    """Show whose each interrupt is, and what the controllers make of it.

    A line's count is how often its device has raised it; messages (MSI-X) are not counted, as they
    do not pass through pyvmm.
    """
    board = session.machine.board
    master, slave, ioapic = (board.vm.get_irqchip(chip) for chip in IRQCHIPS)
    pics = [chips.pic_of(master), chips.pic_of(slave)]
    rows: list[tuple[Cell, ...]] = []
    for pin in chips.pins_of(ioapic):
        line, _ = board.wired.get(pin.number, (None, ()))
        who = _wired(session, pin.number)
        if who is None and pin.masked:
            continue
        chip, bit = divmod(pin.number, chips_spec.PIC_LINES)
        rows.append(
            (
                pin.number,
                who,
                None if line is None else line.raised,
                None if line is None else line.level,
                "masked" if pin.masked else f"vector {pin.vector:#x} to {pin.destination}",
                _of_pic(pics[chip], bit) if chip < len(pics) else None,
            )
        )
    sections: dict[str, Result] = {
        "Lines": Table(("GSI", "of", "raised", "line", "IOAPIC", "PIC"), rows)
    }
    if messages := list(_messages(session)):
        sections["Messages"] = Table(("of", "vector", "address", "data"), messages)
    return Sections(sections)


def _wired(session: Session, gsi: int) -> str | None:
    """Who drives an interrupt."""
    if gsi == places_spec.PIT_GSI:
        return "PIT"
    _, names = session.machine.board.wired.get(gsi, (None, ()))
    return ", ".join(names) or None


def _of_pic(pic: chips.Pic, bit: int) -> str:
    words = ["masked" if pic.masked >> bit & 1 else f"vector {pic.base + bit:#x}"]
    words += ["requested"] * (pic.requested >> bit & 1)
    words += ["in service"] * (pic.in_service >> bit & 1)
    return ", ".join(words)


def _messages(session: Session) -> Iterator[tuple[Cell, ...]]:
    for device in session.machine.board.devices:
        if isinstance(device, PciTransport) and device.msix.enabled:
            for number, message in enumerate(device.msix.messages):
                if message is not None:
                    yield device.name, number, Hex(message[0]), Hex(message[1])


# ---- exits ----


@command("info exits", examples=["info exits", "info exits 1"])
def info_exits(session: Session, cpu: OptionalCpu = None) -> Result:
    """Show how often the guest left for pyvmm, by kind and by address, of all vCPUs or of one.

    In C means that the exit loop answered by itself, without Python. Of each vCPU 256 addresses
    are counted; the rest is in the line without an address. What KVM answers by itself, as the
    interrupt controllers, is not among them.
    """
    board = session.machine.board
    vcpus = board.vcpus if cpu is None else board.vcpus[cpu : cpu + 1]
    kinds: dict[str, list[int]] = {}
    addresses: dict[tuple[str, int | None], int] = {}
    for vcpu in vcpus:
        answered = vcpu.answered_counts()
        for kind, count in vcpu.exit_counts().items():
            if count:
                row = kinds.setdefault(kind, [0, 0])
                row[0] += count
                row[1] += answered[kind]
        for place in vcpu.places():
            key = place.kind, place.address
            addresses[key] = addresses.get(key, 0) + place.count
    by_kind: list[tuple[Cell, ...]] = [
        (kind.replace("_", " "), *counts) for kind, counts in kinds.items()
    ]
    by_address: list[tuple[Cell, ...]] = [
        (
            kind.replace("_", " "),
            None if address is None else Hex(address),
            "elsewhere" if address is None else _name(session, kind, address),
            count,
        )
        for (kind, address), count in sorted(addresses.items(), key=lambda item: -item[1])
    ]
    return Sections(
        {
            "By kind": Table(("kind", "exits", "in C"), by_kind),
            "By address": Table(("kind", "address", "of", "exits"), by_address),
        }
    )


def _name(session: Session, kind: str, address: int) -> str | None:
    board = session.machine.board
    bus = board.pio if kind.startswith("pio") else board.mmio
    return places.name_at(bus, address) or place_of(kind, address)


# ---- cells ----


def _range(base: int, size: int) -> tuple[Cell, Cell, Cell]:
    return Hex(base), Hex(base + size - 1), size_text(size)
