"""The ACPI tables of a board, as one run of bytes for guest memory."""

from __future__ import annotations

import functools
import struct

from pyvmm import layout
from pyvmm.boot.acpi import tables_spec as spec
from pyvmm.boot.acpi.dsdt import Board, definition_block
from pyvmm.devices import acpi_pm_spec as pm
from pyvmm.errors import UsageError


@functools.lru_cache(maxsize=8)
def build(base: int, board: Board) -> bytes:
    """All tables of `board`, to be written at guest address `base`; the RSDP comes first.

    `base` is a multiple of 64 below 4 GiB. Raises UsageError if they do not fit into
    layout.ACPI_TABLES_MAX bytes. Any thread.
    """
    blob = bytearray(spec.RSDP.size)

    def place(table: bytes, alignment: int = spec.TABLE_ALIGNMENT) -> int:
        blob.extend(bytes(-len(blob) % alignment))
        blob.extend(table)
        return base + len(blob) - len(table)

    facs = place(_facs(), spec.FACS_ALIGNMENT)
    dsdt = place(_table(b"DSDT", spec.DSDT_REVISION, definition_block(board)))
    tables = [place(table) for table in (_fadt(facs, dsdt), _madt(board), _mcfg())]
    xsdt = place(_table(b"XSDT", spec.XSDT_REVISION, struct.pack(f"<{len(tables)}Q", *tables)))
    blob[: spec.RSDP.size] = _rsdp(xsdt)
    if len(blob) > layout.ACPI_TABLES_MAX:
        raise UsageError(
            f"The ACPI tables for {board.cpus} CPUs and {len(board.virtio_mmio)} virtio-mmio "
            f"devices take {len(blob)} bytes, but must fit into {layout.ACPI_TABLES_MAX}"
        )
    return bytes(blob)


def _set_checksum(table: bytearray, offset: int, size: int) -> None:
    """Make the first `size` bytes sum to zero by the byte at `offset`, which is still zero."""
    table[offset] = -sum(memoryview(table)[:size]) % 256


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """`body` under the header that all tables share, §5.2.6."""
    header = spec.HEADER.pack(
        signature,
        spec.HEADER.size + len(body),
        revision,
        0,
        spec.OEM_ID,
        spec.OEM_TABLE_ID,
        spec.OEM_REVISION,
        spec.CREATOR_ID,
        spec.CREATOR_REVISION,
    )
    table = bytearray(header + body)
    _set_checksum(table, spec.HEADER_CHECKSUM, len(table))
    return bytes(table)


def _rsdp(xsdt: int) -> bytes:
    rsdp = bytearray(
        spec.RSDP.pack(
            spec.RSDP_SIGNATURE, 0, spec.OEM_ID, spec.RSDP_REVISION, 0, spec.RSDP.size, xsdt, 0
        )
    )
    _set_checksum(rsdp, spec.RSDP_CHECKSUM, spec.RSDP_V1_SIZE)
    _set_checksum(rsdp, spec.RSDP_EXTENDED_CHECKSUM, len(rsdp))
    return bytes(rsdp)


def _facs() -> bytes:
    return spec.FACS.pack(b"FACS", spec.FACS.size, 0, 0, 0, 0, 0, spec.FACS_VERSION)


def _fadt(facs: int, dsdt: int) -> bytes:
    """The FADT. SMI_CMD stays 0: the machine is in ACPI mode from the start, §5.2.9."""
    event = layout.ACPI_PM_PORT + pm.PM1A_EVENT
    control = layout.ACPI_PM_PORT + pm.PM1_CONTROL
    timer = layout.ACPI_PM_PORT + pm.PM_TIMER
    fields: dict[str, int | bytes] = {
        "FIRMWARE_CTRL": facs,
        "DSDT": dsdt,
        "X_DSDT": dsdt,
        "SCI_INT": layout.SCI_GSI,
        "PM1a_EVT_BLK": event,
        "PM1_EVT_LEN": pm.PM1A_EVENT_SIZE,
        "X_PM1a_EVT_BLK": _ports(event, pm.PM1A_EVENT_SIZE, spec.GAS_ACCESS_WORD),
        "PM1a_CNT_BLK": control,
        "PM1_CNT_LEN": pm.PM1_CONTROL_SIZE,
        "X_PM1a_CNT_BLK": _ports(control, pm.PM1_CONTROL_SIZE, spec.GAS_ACCESS_WORD),
        "PM_TMR_BLK": timer,
        "PM_TMR_LEN": pm.PM_TIMER_SIZE,
        "X_PM_TMR_BLK": _ports(timer, pm.PM_TIMER_SIZE, spec.GAS_ACCESS_DWORD),
        "P_LVL2_LAT": spec.NO_C2,
        "P_LVL3_LAT": spec.NO_C3,
        "CENTURY": spec.RTC_CENTURY,
        "IAPC_BOOT_ARCH": spec.LEGACY_DEVICES | spec.HAS_8042 | spec.NO_VGA,
        "Flags": spec.WBINVD | spec.PROC_C1 | spec.SLP_BUTTON | spec.RESET_REG_SUP,
        "RESET_REG": _ports(pm.RESET_PORT, 1, spec.GAS_ACCESS_BYTE),
        "RESET_VALUE": pm.RESET_VALUE,
        "FADT Minor Version": spec.FADT_MINOR_REVISION,
        "Hypervisor Vendor Identity": spec.HYPERVISOR_VENDOR,
    }
    fadt = bytearray(spec.FADT_SIZE)
    for name, value in fields.items():
        offset, field = spec.FADT[name]
        struct.pack_into(field, fadt, offset, value)
    return _table(b"FACP", spec.FADT_REVISION, bytes(fadt[spec.HEADER.size :]))


def _ports(port: int, size: int, access: int) -> bytes:
    """A generic address structure for a register of `size` bytes at `port`."""
    return spec.GAS.pack(spec.GAS_SYSTEM_IO, 8 * size, 0, access, port)


def _madt(board: Board) -> bytes:
    entries = [spec.MADT.pack(layout.LOCAL_APIC, spec.PCAT_COMPAT)]
    for cpu in range(board.cpus):
        if cpu < spec.X2APIC_FIRST:
            entries.append(_entry(spec.LOCAL_APIC, spec.LOCAL_APIC_TYPE, cpu, cpu, spec.ENABLED))
        else:
            entries.append(
                _entry(spec.LOCAL_X2APIC, spec.LOCAL_X2APIC_TYPE, cpu, spec.ENABLED, cpu)
            )
    entries.append(_entry(spec.IO_APIC, spec.IO_APIC_TYPE, spec.IO_APIC_ID, layout.IOAPIC, 0))
    if board.pit_gsi:
        entries.append(_override(layout.PIT_GSI, board.pit_gsi, spec.CONFORMS))
    entries.append(_override(layout.SCI_GSI, layout.SCI_GSI, spec.ACTIVE_HIGH_LEVEL))
    entries.append(
        _entry(spec.LOCAL_APIC_NMI, spec.LOCAL_APIC_NMI_TYPE, spec.ALL_APICS, 0, spec.NMI_LINT)
    )
    if board.cpus > spec.X2APIC_FIRST:
        entries.append(
            _entry(
                spec.LOCAL_X2APIC_NMI,
                spec.LOCAL_X2APIC_NMI_TYPE,
                spec.CONFORMS,
                spec.ALL_X2APICS,
                spec.NMI_LINT,
            )
        )
    return _table(b"APIC", spec.MADT_REVISION, b"".join(entries))


def _entry(layout_: struct.Struct, kind: int, *fields: int) -> bytes:
    """An interrupt controller structure, §5.2.12: its type, its length, its fields."""
    return layout_.pack(kind, layout_.size, *fields)


def _override(irq: int, gsi: int, flags: int) -> bytes:
    """ISA interrupt `irq` arrives at `gsi`."""
    return _entry(spec.SOURCE_OVERRIDE, spec.SOURCE_OVERRIDE_TYPE, 0, irq, gsi, flags)


def _mcfg() -> bytes:
    return _table(b"MCFG", spec.MCFG_REVISION, spec.MCFG.pack(layout.ECAM, 0, 0, 0))
