"""The fixed ACPI tables: facts only. Sections are those of ACPI 6.4 unless another is named."""

from __future__ import annotations

import struct

# Identity in every header, §5.2.6. iasl shows these; no guest acts on them.
OEM_ID = b"PYVMM "
OEM_TABLE_ID = b"PYVMM   "
OEM_REVISION = 1
CREATOR_ID = b"PYVM"
CREATOR_REVISION = 1

# RSDP, §5.2.5.3: signature, checksum of the first 20 bytes, OEM id, revision, RSDT, length, XSDT,
# checksum of all of it, reserved.
RSDP = struct.Struct("<8sB6sBIIQB3x")
RSDP_SIGNATURE = b"RSD PTR "
RSDP_REVISION = 2
RSDP_CHECKSUM, RSDP_EXTENDED_CHECKSUM = 8, 32  # offsets
RSDP_V1_SIZE = 20

# Header of every other table but the FACS, §5.2.6: signature, length, revision, checksum, OEM id,
# OEM table id, OEM revision, creator id, creator revision.
HEADER = struct.Struct("<4sIBB6s8sI4sI")
HEADER_CHECKSUM = 9  # offset
TABLE_ALIGNMENT = 16

XSDT_REVISION = 1  # §5.2.8
DSDT_REVISION = 2  # §5.2.11.1: 2 and above have 64-bit integers

# FACS, §5.2.10: signature, length, hardware signature, waking vector, global lock, flags, 64-bit
# waking vector, version, reserved.
FACS = struct.Struct("<4sIIIIIQB31x")
FACS_VERSION = 2
FACS_ALIGNMENT = 64

# Generic address structure, §5.2.3.2: space, width in bits, bit offset, access size, address.
GAS = struct.Struct("<BBBBQ")
GAS_SYSTEM_IO = 1
GAS_ACCESS_BYTE, GAS_ACCESS_WORD, GAS_ACCESS_DWORD = 1, 2, 3

# FADT, §5.2.9 table 5.9: offset and format of the fields in use; the rest are zero.
FADT_REVISION = 6
FADT_MINOR_REVISION = 4
FADT_SIZE = 276
FADT = {
    "FIRMWARE_CTRL": (36, "<I"),
    "DSDT": (40, "<I"),
    "SCI_INT": (46, "<H"),
    "PM1a_EVT_BLK": (56, "<I"),
    "PM1a_CNT_BLK": (64, "<I"),
    "PM_TMR_BLK": (76, "<I"),
    "PM1_EVT_LEN": (88, "<B"),
    "PM1_CNT_LEN": (89, "<B"),
    "PM_TMR_LEN": (91, "<B"),
    "P_LVL2_LAT": (96, "<H"),
    "P_LVL3_LAT": (98, "<H"),
    "CENTURY": (108, "<B"),
    "IAPC_BOOT_ARCH": (109, "<H"),
    "Flags": (112, "<I"),
    "RESET_REG": (116, "12s"),
    "RESET_VALUE": (128, "<B"),
    "FADT Minor Version": (131, "<B"),
    "X_DSDT": (140, "<Q"),
    "X_PM1a_EVT_BLK": (148, "12s"),
    "X_PM1a_CNT_BLK": (172, "12s"),
    "X_PM_TMR_BLK": (208, "12s"),
    "Hypervisor Vendor Identity": (268, "8s"),
}
NO_C2, NO_C3 = 101, 1001  # µs in P_LVL2_LAT and P_LVL3_LAT: one more than a C-state may have
RTC_CENTURY = 0x32  # the CMOS byte that holds the century
HYPERVISOR_VENDOR = b"PYVMM"

# FADT flags, table 5.10.
WBINVD = 1 << 0
PROC_C1 = 1 << 2
SLP_BUTTON = 1 << 5  # set: no sleep button in the fixed registers (PWR_BUTTON clear: one there)
RESET_REG_SUP = 1 << 10

# IAPC_BOOT_ARCH, table 5.11.
LEGACY_DEVICES = 1 << 0
HAS_8042 = 1 << 1
NO_VGA = 1 << 2

# MADT, §5.2.12, and its entries with their type and length.
MADT_REVISION = 5
MADT = struct.Struct("<II")  # local APICs' address, flags
PCAT_COMPAT = 1 << 0  # there are two 8259s as well
ENABLED = 1 << 0  # a local APIC's flags, table 5.23
LOCAL_APIC = struct.Struct("<BBBBI")  # §5.2.12.2: processor UID, APIC id, flags
LOCAL_APIC_TYPE = 0
LOCAL_X2APIC = struct.Struct("<BB2xIII")  # §5.2.12.12: x2APIC id, flags, processor UID
LOCAL_X2APIC_TYPE = 9
X2APIC_FIRST = 255  # APIC ids from here on need an x2APIC entry
IO_APIC = struct.Struct("<BBBxII")  # §5.2.12.3: id, address, first GSI
IO_APIC_TYPE = 1
IO_APIC_ID = 0  # what the register of KVM's IOAPIC says after reset
SOURCE_OVERRIDE = struct.Struct("<BBBBIH")  # §5.2.12.5: bus (0 is ISA), source, GSI, flags
SOURCE_OVERRIDE_TYPE = 2
CONFORMS = 0  # flags, table 5.26: as the bus has it; for ISA an edge, active high
ACTIVE_HIGH_LEVEL = 0b01 | 0b11 << 2
LOCAL_APIC_NMI = struct.Struct("<BBBHB")  # §5.2.12.7: processor UID, flags, LINT pin
LOCAL_APIC_NMI_TYPE = 4
ALL_APICS = 0xFF
LOCAL_X2APIC_NMI = struct.Struct("<BBHIB3x")  # §5.2.12.13: flags, processor UID, LINT pin
LOCAL_X2APIC_NMI_TYPE = 0xA
ALL_X2APICS = 0xFFFF_FFFF
NMI_LINT = 1

# MCFG, PCI Firmware 3.2 §4.1.2: base of the ECAM, segment, first and last bus.
MCFG_REVISION = 1
MCFG = struct.Struct("<8xQHBB4x")
