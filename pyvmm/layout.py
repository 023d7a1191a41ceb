"""The guest-physical map and the interrupt numbers: the one place they are written down.

    0x0_0000_0000  ┌──────────────────────────────┐
                   │ RAM (boot structures, below) │
    0x0_000A_0000  ├──────────────────────────────┤
                   │ legacy hole, RAM-backed:     │
    0x0_000E_0000  │   ACPI tables                │
    0x0_0010_0000  ├──────────────────────────────┤
                   │ RAM (kernel, initrd)         │
    0x0_C000_0000  ├──────────────────────────────┤  RAM goes on at 4 GiB
                   │ 32-bit PCI window            │
    0x0_E000_0000  ├──────────────────────────────┤
                   │ ECAM, one bus                │
    0x0_FEB0_0000  ├──────────────────────────────┤
                   │ virtio-mmio transports       │
    0x0_FEC0_0000  │ IOAPIC                       │
    0x0_FEE0_0000  │ local APICs                  │
    0x0_FFFB_C000  │ KVM's identity map and TSS   │
    0x1_0000_0000  ├──────────────────────────────┤
                   │ RAM above 4 GiB              │
                   ├──────────────────────────────┤  the top quarter of the address space
                   │ 64-bit PCI window            │
                   └──────────────────────────────┘

All addresses and sizes are in bytes.
"""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
PAGE = 4 * KIB

# Boot structures in the first 640 KiB. Linux copies what it needs before it reuses them.
GDT = 0x1000
BOOT_PARAMS = 0x7000  # one page: struct boot_params, x86/zero-page.rst
START_INFO = 0x7000  # struct hvm_start_info with its memory map, or the multiboot information
PAGE_TABLES = 0x9000  # PML4, PDPT and four page directories: the first 4 GiB mapped to themselves
BOOT_STACK = 0x1_0000  # grows down
CMDLINE = 0x2_0000
CMDLINE_MAX = 0x1_0000
LOW_RAM_END = 0xA_0000  # below the legacy video hole

ACPI_TABLES = 0xE_0000  # ACPI 6.4 §5.2.5.1: the RSDP is searched for from here to 1 MiB
ACPI_TABLES_MAX = 0x2_0000
HIGH_MEMORY = 0x10_0000

HOLE = 0xC000_0000  # RAM stops here and goes on at 4 GiB
HOLE_END = 0x1_0000_0000
PCI_WINDOW = 0xC000_0000
PCI_WINDOW_SIZE = 0x2000_0000
ECAM = 0xE000_0000
ECAM_SIZE = 0x10_0000  # one bus: 32 devices × 8 functions × 4 KiB, PCIe 4.0 §7.2.2
VIRTIO_MMIO = 0xFEB0_0000
VIRTIO_MMIO_STRIDE = 0x1000
VIRTIO_MMIO_MAX = 256
IOAPIC = 0xFEC0_0000
LOCAL_APIC = 0xFEE0_0000
IDENTITY_MAP = 0xFFFB_C000  # KVM api.rst 4.40 KVM_SET_IDENTITY_MAP_ADDR: one page
TSS = 0xFFFB_D000  # KVM api.rst 4.36 KVM_SET_TSS_ADDR: three pages

# Port numbers.
PCI_IO_WINDOW = 0xC000
PCI_IO_WINDOW_SIZE = 0x4000
I8042_DATA, I8042_COMMAND = 0x60, 0x64
RTC_PORT = 0x70
POST_PORT = 0x80
DEBUGCON_PORT = 0xE9
DEBUG_EXIT_PORT = 0xF4
COM_PORTS = (0x3F8, 0x2F8)
PVPANIC_PORT = 0x505
EXIT_STATUS_PORT = 0x506  # csrc/guest/init.c
ACPI_PM_PORT = 0x600  # PM1a event block, control block and PM timer; see acpi_pm_spec
RESET_PORT = 0xCF9
PCI_CONFIG_ADDRESS, PCI_CONFIG_DATA = 0xCF8, 0xCFC

# Global system interrupts: the IOAPIC's pins, and below 16 the two PICs' as well.
PIT_GSI = 0
KEYBOARD_GSI = 1
COM_GSIS = (4, 3)
RTC_GSI = 8
SCI_GSI = 9
PCI_INTX_GSIS = (16, 17, 18, 19)
# Of the virtio-mmio transports, in turn: first those that a guest without ACPI, and so without the
# IOAPIC, can use too. Lines may be shared.
VIRTIO_MMIO_GSIS = (5, 10, 11, 6, 7, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
GSI_COUNT = 24
