"""The DSDT's definition block: which devices the board has, and which resources are theirs."""

import functools

from pyvmm import layout
from pyvmm.boot.acpi import aml
from pyvmm.devices import acpi_pm_spec as pm
from pyvmm.value import Value

PCI_SLOTS = 32
PCI_PINS = 4

# The PCI host bridge's _OSC, PCI Firmware 3.2 §4.5.1 and ACPI 6.4 §6.2.11.
OSC_PCI_UUID = "33DB4D5B-1FF7-401C-9657-7441C03DD766"
OSC_PCI_REVISION = 1
OSC_UNKNOWN_UUID = 1 << 2  # first DWORD, returned
OSC_UNKNOWN_REVISION = 1 << 3
OSC_MASKED = 1 << 4
OSC_PCIE_CAPABILITY = 1 << 4  # third DWORD: the guest owns the capability structure
STA_PRESENT = 0b1111  # §6.3.7: present, enabled, shown, working


class Board(Value):
    """What differs between machines as ACPI describes them. Addresses and sizes in bytes."""

    cpus: int  # local APIC ids and processor UIDs are 0 to cpus - 1
    com_ports: tuple[int, ...] = (0,)  # indices into layout.COM_PORTS
    pci_window64: tuple[int, int] | None = None  # (base, size) above 4 GiB
    virtio_mmio: tuple[tuple[int, int], ...] = ()  # (base, GSI) of each transport
    pvpanic: bool = True
    pit_gsi: int = layout.PIT_GSI


def definition_block(board: Board) -> bytes:
    """The AML of the DSDT, without the table's header."""
    return aml.name("_S5", _sleep_type()) + aml.scope(
        "_SB",
        *(_cpu(cpu) for cpu in range(board.cpus)),
        _motherboard(),
        _pci_root(board),
        *(_virtio_mmio(index, *device) for index, device in enumerate(board.virtio_mmio)),
    )


def _sleep_type() -> bytes:
    """_Sx, §7.4.2: the SLP_TYP values for PM1a and PM1b, and two reserved elements."""
    return aml.package(aml.integer(pm.SLP_TYP_S5), aml.integer(pm.SLP_TYP_S5), aml.ZERO, aml.ZERO)


def _cpu(cpu: int) -> bytes:
    """A processor device, §8.4; _UID ties it to the MADT's entry."""
    return aml.device(
        f"C{cpu:03X}",
        aml.name("_HID", aml.string("ACPI0007")),
        aml.name("_UID", aml.integer(cpu)),
    )


def _motherboard() -> bytes:
    """What no bus or driver of its own claims.

    PCI Firmware 3.2 §4.1.2 wants the ECAM here, or Linux does not use it.
    """
    return aml.device(
        "MBRD",
        aml.name("_HID", aml.eisa_id("PNP0C02")),
        aml.name(
            "_CRS",
            aml.resource_template(
                aml.memory32_fixed(layout.ECAM, layout.ECAM_SIZE),
                aml.io(layout.ACPI_PM_PORT, pm.BLOCK_SIZE),
            ),
        ),
    )


def _pci_root(board: Board) -> bytes:
    """The host bridge with bus 0, and below it what decodes ports of its I/O window."""
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A08")),
        aml.name("_CID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.ZERO),
        aml.name("_BBN", aml.ZERO),
        aml.name("_SEG", aml.ZERO),
        aml.name("_CRS", _pci_resources(board)),
        aml.name("_PRT", _pci_routing()),
        _pci_osc(),
        *(_com_port(index) for index in board.com_ports),
        _isa_device("RTC", "PNP0B00", layout.RTC_GSI, (layout.RTC_PORT, 2)),
        _isa_device(
            "KBD", "PNP0303", layout.KEYBOARD_GSI, (layout.I8042_DATA, 1), (layout.I8042_COMMAND, 1)
        ),
        _pvpanic() if board.pvpanic else b"",
    )


def _pci_resources(board: Board) -> bytes:
    """The bridge's windows. It passes on all ports but those of its own configuration access."""
    config = layout.PCI_CONFIG_ADDRESS
    config_size = 8
    beyond = config + config_size
    windows = [
        aml.bus_numbers(0, 1),
        aml.io_window(0, config),
        aml.io(config, config_size),
        aml.io_window(beyond, (1 << 16) - beyond),
        aml.memory_window(layout.PCI_WINDOW, layout.PCI_WINDOW_SIZE),
    ]
    if board.pci_window64 is not None:
        windows.append(aml.memory_window64(*board.pci_window64))
    return aml.resource_template(*windows)


@functools.cache
def _pci_routing() -> bytes:
    """_PRT, §6.2.13: which GSI each slot's INTA to INTD is; wired in rotation, slot by slot."""
    gsis = [aml.integer(gsi) for gsi in layout.PCI_INTX_GSIS]
    pins = [aml.integer(pin) for pin in range(PCI_PINS)]
    return aml.package(
        *(
            aml.package(any_function, pins[pin], aml.ZERO, gsis[(slot + pin) % len(gsis)])
            for slot in range(PCI_SLOTS)
            for any_function in (aml.integer(slot << 16 | 0xFFFF),)
            for pin in range(PCI_PINS)
        )
    )


def _pci_osc() -> bytes:
    """_OSC, §6.2.11.3: grants the PCIe capability structure; there is no hot-plug, PME or AER."""
    status, control = aml.path("CDW1"), aml.path("CDW3")
    request, granted = aml.argument(3), aml.integer(OSC_PCIE_CAPABILITY)

    def complain(error: int) -> bytes:
        return aml.bit_or(status, aml.integer(error), status)

    return aml.method(
        "_OSC",
        4,
        aml.create_dword_field(request, 0, "CDW1"),
        aml.if_(
            aml.equal(aml.argument(0), aml.uuid(OSC_PCI_UUID)),
            aml.create_dword_field(request, 8, "CDW3"),
            aml.if_(
                aml.not_equal(aml.argument(1), aml.integer(OSC_PCI_REVISION)),
                complain(OSC_UNKNOWN_REVISION),
            ),
            aml.if_(
                aml.not_equal(aml.bit_and(control, granted, aml.ZERO), control),
                complain(OSC_MASKED),
            ),
            aml.bit_and(control, granted, control),
        ),
        aml.else_(complain(OSC_UNKNOWN_UUID)),
        aml.return_(request),
    )


def _isa_device(name: str, hid: str, gsi: int, *ports: tuple[int, int], uid: int = 0) -> bytes:
    """A device on ISA interrupt `gsi`, with its (port, count) ranges."""
    return aml.device(
        name,
        aml.name("_HID", aml.eisa_id(hid)),
        aml.name("_UID", aml.integer(uid)),
        aml.name("_CRS", aml.resource_template(*(aml.io(*port) for port in ports), aml.irq(gsi))),
    )


def _com_port(index: int) -> bytes:
    """A 16550A-compatible serial port; _UID 1 is COM1, as firmware has it."""
    number = index + 1
    port = layout.COM_PORTS[index]
    return _isa_device(f"COM{number}", "PNP0501", layout.COM_GSIS[index], (port, 8), uid=number)


def _pvpanic() -> bytes:
    """QEMU docs/specs/pvpanic."""
    return aml.device(
        "PEVT",
        aml.name("_HID", aml.string("QEMU0001")),
        aml.name("_STA", aml.integer(STA_PRESENT)),
        aml.name("_CRS", aml.resource_template(aml.io(layout.PVPANIC_PORT, 1))),
    )


def _virtio_mmio(index: int, base: int, gsi: int) -> bytes:
    """A virtio-mmio transport under the id that Linux's virtio_mmio driver answers to."""
    return aml.device(
        f"V{index:03X}",
        aml.name("_HID", aml.string("LNRO0005")),
        aml.name("_UID", aml.integer(index)),
        aml.name(
            "_CRS",
            aml.resource_template(
                aml.memory32_fixed(base, layout.VIRTIO_MMIO_STRIDE), aml.interrupt(gsi)
            ),
        ),
    )
