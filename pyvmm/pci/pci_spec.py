"""Facts of PCI configuration space and its two access mechanisms.

Sources: PCI Local Bus 3.0 (PCI), PCI Express Base 4.0 (PCIe). Offsets are bytes in a function's
configuration space.
"""

from __future__ import annotations

# PCI §3.2.2.3.2, configuration mechanism #1: an address port and four bytes of data.
ADDRESS = 0
ADDRESS_SIZE = 4
DATA = 4
PORTS = 8
WIDTH = 4  # bytes of the widest access
ADDRESS_ENABLE = 1 << 31
ADDRESS_WRITABLE = ADDRESS_ENABLE | 0x00FF_FFFC
ADDRESS_FUNCTION_SHIFT = 8  # bus, device and function above, register below
ADDRESS_REGISTER_MASK = 0xFC

# Intel ICH9 data sheet §13.7.5: the reset control register lies among the address port's bytes
# and is told from it by the width of the access, one byte.
RESET_CONTROL = 1
RESET_SYS_RST = 1 << 1
RESET_RST_CPU = 1 << 2

# PCIe §7.2.2: the enhanced mechanism, bus << 20 | device << 15 | function << 12 | register.
FUNCTION_SHIFT = 12
CONFIG_SIZE = 1 << FUNCTION_SHIFT
DEVICES = 32  # on a bus
FUNCTIONS = 8  # of a device

# PCI §6.1, figure 6-1: the type 0 header. RO unless said otherwise.
VENDOR_ID = 0x00  # 16 bits
DEVICE_ID = 0x02  # 16
COMMAND = 0x04  # 16, RW
STATUS = 0x06  # 16, some bits W1C
REVISION = 0x08  # 8
CLASS = 0x09  # 24: interface, subclass, base class
CLASS_INTERFACE_BITS = 8  # of those 24
HEADER_TYPE = 0x0E  # 8
BAR0 = 0x10  # 6 × 32, RW above the size
BARS = 6
SUBSYSTEM_VENDOR_ID = 0x2C  # 16
SUBSYSTEM_ID = 0x2E  # 16
CAPABILITIES = 0x34  # 8: the first capability
INTERRUPT_LINE = 0x3C  # 8, RW: firmware's note to the system
INTERRUPT_PIN = 0x3D  # 8
PIN_NONE, PIN_A = 0, 1  # §6.2.4
HEADER_SIZE = 0x40
LEGACY_SIZE = 0x100  # what mechanism #1 reaches, and where capabilities must lie

# §6.2.2 command.
COMMAND_IO = 1 << 0
COMMAND_MEMORY = 1 << 1
COMMAND_BUS_MASTER = 1 << 2
COMMAND_INTX_DISABLE = 1 << 10
COMMAND_WRITABLE = COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE

# §6.2.3 status.
STATUS_INTERRUPT = 1 << 3  # the pin is asserted, also while COMMAND_INTX_DISABLE keeps it quiet
STATUS_CAPABILITIES = 1 << 4

HEADER_MULTIFUNCTION = 1 << 7  # §6.2.1, in function 0

# §6.2.5.1 base address registers.
BAR_IO = 1 << 0
BAR_64 = 2 << 1  # the next register holds the upper half
BAR_PREFETCH = 1 << 3
BAR_IO_FLAGS = 0x3
BAR_MEMORY_FLAGS = 0xF

# §6.7 capability list: identity, next, then the capability's own.
CAPABILITY_ID = 0
CAPABILITY_NEXT = 1
CAPABILITY_HEADER = 2
CAPABILITY_ALIGN = 4

CAPABILITY_VENDOR = 0x09  # Appendix H
CAPABILITY_MSIX = 0x11

# §6.8.2 MSI-X. The capability's own registers, after its header; offsets from there.
MSIX_CONTROL = CAPABILITY_HEADER  # 16: table size - 1, RO, and:
MSIX_CONTROL_MASK = 1 << 14  # of the function
MSIX_CONTROL_ENABLE = 1 << 15
MSIX_TABLE = 4  # 32: offset in a BAR, and the BAR's index in the lowest three bits
MSIX_PBA = 8  # 32, likewise
MSIX_VECTORS_MAX = 2048
# An entry of the table, §6.8.2.6 ff.; RW.
MSIX_ENTRY_SIZE = 16
MSIX_ADDRESS = 0  # 64, of which the lowest two bits are 0
MSIX_ADDRESS_ALIGN = 4
MSIX_DATA = 8  # 32
MSIX_VECTOR_CONTROL = 12  # 32
MSIX_VECTOR_MASKED = 1 << 0
MSIX_PENDING_WIDTH = 64  # the array of pending bits comes in quadwords, §6.8.2.9

# Appendix D class codes, as CLASS holds them.
CLASS_HOST_BRIDGE = 0x06_0000
CLASS_NAMES = {  # by base class and subclass: what a machine here may have
    0x00FF: "unclassified device",
    0x0100: "SCSI controller",
    0x0180: "mass storage controller",
    0x0200: "Ethernet controller",
    0x0600: "host bridge",
    0x0780: "communication controller",
}
CAPABILITY_NAMES = {CAPABILITY_VENDOR: "vendor", CAPABILITY_MSIX: "MSI-X"}

# The host bridge: QEMU's generic one for PCIe (docs/specs/pci-ids.rst), which no driver takes and
# for which Linux has no quirk; those of real chip sets invite drivers to look for their registers.
HOST_BRIDGE_VENDOR = 0x1B36
HOST_BRIDGE_DEVICE = 0x0008
SUBSYSTEM_VENDOR = 0x1AF4
SUBSYSTEM = 0x1100
