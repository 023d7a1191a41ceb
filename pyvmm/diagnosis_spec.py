"""Facts for a report about a guest's end: who lives where, and what the codes mean."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from pyvmm import layout


class Place(NamedTuple):
    """`size` ports or bytes from `base` belong to `name`."""

    base: int
    size: int
    name: str


# What an x86-64 kernel may look for, present in this machine or not. PC/AT compatible ports as in
# Intel 100 Series PCH data sheet vol. 1 §4.2, "Fixed I/O".
PORTS = (
    Place(0x20, 2, "PIC"),
    Place(0x40, 4, "PIT"),
    Place(0x61, 1, "NMI status"),
    Place(layout.I8042_DATA, 1, "i8042 data"),
    Place(layout.I8042_COMMAND, 1, "i8042 command"),
    Place(layout.RTC_PORT, 2, "RTC"),
    Place(layout.POST_PORT, 1, "POST code"),
    Place(0x92, 1, "fast A20"),
    Place(0xA0, 2, "PIC"),
    Place(layout.DEBUGCON_PORT, 1, "debug console"),
    Place(layout.DEBUG_EXIT_PORT, 1, "debug exit"),
    Place(0x1F0, 8, "IDE, absent"),
    Place(layout.COM_PORTS[1], 8, "COM2"),
    Place(0x2E8, 8, "COM4, absent"),
    Place(0x3B0, 0x30, "VGA, absent"),
    Place(0x3E8, 8, "COM3, absent"),
    Place(layout.COM_PORTS[0], 8, "COM1"),
    Place(layout.PVPANIC_PORT, 1, "pvpanic"),
    Place(0x510, 2, "fw_cfg, absent"),
    Place(layout.ACPI_PM_PORT, 0x10, "ACPI PM"),
    Place(layout.RESET_PORT, 1, "reset register"),
    Place(layout.PCI_CONFIG_ADDRESS, 4, "PCI configuration address"),
    Place(layout.PCI_CONFIG_DATA, 4, "PCI configuration data"),
    Place(layout.PCI_IO_WINDOW, layout.PCI_IO_WINDOW_SIZE, "PCI I/O window"),
)
MMIO = (
    Place(0xA_0000, 0x2_0000, "VGA memory, absent"),
    Place(layout.ECAM, layout.ECAM_SIZE, "PCI configuration space"),
    Place(layout.VIRTIO_MMIO, layout.IOAPIC - layout.VIRTIO_MMIO, "virtio-mmio"),
    Place(layout.PCI_WINDOW, layout.PCI_WINDOW_SIZE, "PCI window"),
    Place(layout.IOAPIC, 0x1000, "I/O APIC"),
    Place(0xFED0_0000, 0x1000, "HPET, absent"),
    Place(0xFED4_0000, 0x5000, "TPM, absent"),
    Place(layout.LOCAL_APIC, 0x1000, "local APIC"),
)

SOFTWARE_KVM = "kvm_pvm"  # a KVM without hardware virtualization

# EntryFailed.reason.
ENTRY_REASONS = {
    7: "invalid control fields in the VMCS",  # Intel SDM 3C §31.4, VM-instruction errors
    8: "invalid host state in the VMCS",
    0x8000_0021: "VMX: invalid guest state",  # Intel SDM 3D appendix C, with bit 31: entry failure
    0x8000_0022: "VMX: an MSR could not be loaded",
    0x8000_0029: "VMX: machine check during entry",
    0xFFFF_FFFF: "SVM: invalid guest state",  # AMD APM 2 appendix C, VMEXIT_INVALID
    0xFFFF_FFFF_FFFF_FFFF: "SVM: invalid guest state",
}
INVALID_GUEST_STATE = (0x8000_0021, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)

# EmulationFailed.suberror: KVM_INTERNAL_ERROR_*, KVM api.rst 5, struct kvm_run.
SUBERROR_EMULATION = 1
SUBERRORS = {
    SUBERROR_EMULATION: "it could not emulate an instruction",
    2: "two exceptions came at once",
    3: "the CPU left the guest while an event was delivered",
    4: "the CPU left the guest for a reason that KVM does not know",
}

# KVM_GET_MP_STATE, KVM api.rst 4.38: states in which a vCPU does not run.
MP_HALTED = 3
NOT_STARTED = {1: "has not been started by the guest", 2: "waits for the guest's start-up IPI"}

# Intel SDM 3A §2.5 control registers, §2.2.1 EFER; SDM 1 §3.4.3 RFLAGS.
CR0_PE = 1 << 0
EFER_LMA = 1 << 10
RFLAGS_IF = 1 << 9
FLAGS = {
    0: "CF", 2: "PF", 4: "AF", 6: "ZF", 7: "SF", 8: "TF", 9: "IF", 10: "DF", 11: "OF", 14: "NT",
    16: "RF", 17: "VM", 18: "AC", 21: "ID",
}  # fmt: skip
INSTRUCTION_MAX = 15  # bytes, SDM 2A §2.3.11
RESET_RIP, RESET_CS_BASE = 0xFFF0, 0xFFFF0000  # SDM 3A table 9-1
EXCEPTION_VECTORS = 32  # SDM 3A §6.2
GATE_SIZE = 8  # bytes of the smallest protected mode descriptor in an IDT, SDM 3A §6.11


def place_of(kind: str, address: int) -> str | None:
    """Who lives at a port (`kind` "pio_…") or address ("mmio_…"); the first that fits."""
    places = PORTS if kind.startswith("pio") else MMIO
    return next((p.name for p in places if p.base <= address < p.base + p.size), None)


def entry_reason(reason: int) -> str:
    """What an EntryFailed.reason means: the hardware's code, or an errno of KVM_RUN."""
    if reason in ENTRY_REASONS:
        return ENTRY_REASONS[reason]
    return os.strerror(reason) if reason in errno.errorcode else "a reason that pyvmm does not know"
