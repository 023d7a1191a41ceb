"""Facts about the Linux boot protocol: x86/boot.rst, x86/zero-page.rst and <asm/bootparam.h>.

Offsets are in bytes, in struct boot_params; those of the setup header (from SETUP_HEADER) are the
same in a bzImage. tests/unit/boot/test_linux_spec.py compares them with the installed header.
"""

from __future__ import annotations

# struct boot_params, x86/zero-page.rst
BOOT_PARAMS_SIZE = 4096
ACPI_RSDP_ADDR = 0x070  # u64
EXT_RAMDISK_IMAGE = 0x0C0  # u32: bits 63:32 of the address
EXT_RAMDISK_SIZE = 0x0C4  # u32
E820_ENTRIES = 0x1E8  # u8
E820_TABLE = 0x2D0
E820_ENTRY = "<QQI"  # address, size, type
E820_MAX = 128

# struct setup_header, x86/boot.rst "The Real-Mode Kernel Header"
SETUP_HEADER = 0x1F1
SETUP_HEADER_END = 0x290
SETUP_SECTS = 0x1F1  # u8
SYSSIZE = 0x1F4  # u32: the protected-mode code, in paragraphs
BOOT_FLAG = 0x1FE  # u16
JUMP_LENGTH = 0x201  # u8: the header ends so many bytes after HEADER
HEADER = 0x202  # u32
VERSION = 0x206  # u16
KERNEL_VERSION = 0x20E  # u16: offset of a string, less 0x200
TYPE_OF_LOADER = 0x210  # u8
LOADFLAGS = 0x211  # u8
RAMDISK_IMAGE = 0x218  # u32
RAMDISK_SIZE = 0x21C  # u32
CMD_LINE_PTR = 0x228  # u32
INITRD_ADDR_MAX = 0x22C  # u32: the highest address that the initrd's last byte may have
KERNEL_ALIGNMENT = 0x230  # u32
RELOCATABLE_KERNEL = 0x234  # u8
XLOADFLAGS = 0x236  # u16
CMDLINE_SIZE = 0x238  # u32: bytes, without the final zero
PAYLOAD_OFFSET = 0x248  # u32: from the start of the protected-mode code
PAYLOAD_LENGTH = 0x24C  # u32
SETUP_DATA = 0x250  # u64
PREF_ADDRESS = 0x258  # u64
INIT_SIZE = 0x260  # u32: bytes that the kernel needs from its load address on

BOOT_FLAG_MAGIC = 0xAA55
HEADER_MAGIC = 0x53726448  # "HdrS"
PROTOCOL_2_12 = 0x20C  # Linux 3.8: the first with xloadflags
LOADED_HIGH = 1 << 0  # loadflags
XLF_KERNEL_64 = 1 << 0  # xloadflags
XLF_CAN_BE_LOADED_ABOVE_4G = 1 << 1
LOADER_UNDEFINED = 0xFF  # type_of_loader, "no ID assigned"

SECTOR = 512
PARAGRAPH = 16
LOW_32 = 0xFFFF_FFFF
DEFAULT_SETUP_SECTS = 4  # x86/boot.rst, setup_sects: what 0 means
VERSION_STRING_BASE = 0x200
VERSION_STRING_MAX = 512
ENTRY_64 = 0x200  # x86/boot.rst "64-bit BOOT PROTOCOL": from the load address
PAYLOAD_SIZE_FIELD = 4  # scripts/Makefile.lib, size_append: the unpacked size, u32
DEFAULT_INITRD_ADDR_MAX = 0x7FFF_FFFF  # what every 64-bit kernel declares in its header
DEFAULT_CMDLINE_SIZE = 2047  # COMMAND_LINE_SIZE - 1, <asm/setup.h>
START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000  # x86/x86_64/mm.rst, "kernel text mapping"
