"""Facts about PVH: Xen's public headers arch-x86/hvm/start_info.h and elfnote.h."""

from __future__ import annotations

import struct

NOTE_OWNER = b"Xen"
XEN_ELFNOTE_PHYS32_ENTRY = 18  # elfnote.h: the 32-bit entry, a physical address

START_MAGIC = 0x336EC578  # XEN_HVM_START_MAGIC_VALUE: "xEn3" with bit 7 of the E set
START_VERSION = 1  # the first with a memory map

# struct hvm_start_info: magic version flags nr_modules modlist_paddr cmdline_paddr rsdp_paddr
# memmap_paddr memmap_entries reserved
START_INFO = struct.Struct("<IIIIQQQQII")
MODULE = struct.Struct("<QQQQ")  # struct hvm_modlist_entry: paddr size cmdline_paddr reserved
MEMMAP_ENTRY = struct.Struct("<QQII")  # struct hvm_memmap_table_entry: addr size type reserved
