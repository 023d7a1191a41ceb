"""Facts about Multiboot 1: the Multiboot Specification, version 0.6.96."""

from __future__ import annotations

import struct

# §3.1: the header is in the first 8 KiB, at a multiple of 4 bytes
SEARCH_SIZE = 8192
ALIGN = 4
HEADER_START = (0x1BADB002).to_bytes(4, "little")  # the magic number
HEADER = struct.Struct("<III")  # magic flags checksum (§3.1.1); the three add up to 0
CHECKSUM_MASK = 0xFFFF_FFFF
ADDRESSES = struct.Struct("<IIIII")  # header_addr load_addr load_end_addr bss_end_addr entry_addr

# §3.1.2: flags of the header; who does not know one of bits 0 to 15 must refuse the image
PAGE_ALIGN = 1 << 0
MEMORY_INFO = 1 << 1
VIDEO_MODE = 1 << 2
REQUIRED = 0xFFFF
HAS_ADDRESSES = 1 << 16

BOOTLOADER_MAGIC = 0x2BADB002  # §3.2: EAX at the entry; EBX has the information's address

# §3.3: flags mem_lower mem_upper boot_device cmdline mods_count mods_addr syms[4] mmap_length
# mmap_addr drives_length drives_addr config_table boot_loader_name, then what nobody here sets
INFO = struct.Struct("<7I16x2I12xI")
INFO_SIZE = 120
INFO_MEMORY = 1 << 0
INFO_CMDLINE = 1 << 2
INFO_MODULES = 1 << 3
INFO_MMAP = 1 << 6
INFO_BOOT_LOADER_NAME = 1 << 9

MODULE = struct.Struct("<IIII")  # mod_start mod_end string reserved
MMAP_ENTRY = struct.Struct("<IQQI")  # size base_addr length type; size leaves itself out
MMAP_SIZE_FIELD = 4
