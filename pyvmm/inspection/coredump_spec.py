"""Facts about ELF core files of x86-64, as QEMU's dump-guest-memory writes them.

System V gABI 4.1 chapters 4 and 5; the notes are Linux's struct elf_prstatus (<sys/procfs.h>) and
QEMU's QEMUX86CPUState (target/i386/arch_dump.c). Sizes are in bytes.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
IDENT = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bits, little-endian, version 1
ET_CORE, EM_X86_64, EV_CURRENT = 4, 62, 1

SEGMENT = struct.Struct("<IIQQQQQQ")  # type flags offset vaddr paddr filesz memsz align
PT_LOAD, PT_NOTE = 1, 4
PF_R, PF_W, PF_X = 4, 2, 1
SEGMENTS_MAX = 0xFFFE  # e_phnum, of which the last value means something else

NOTE = struct.Struct("<III")  # name size, description size, type
NOTE_ALIGN = 4
NT_PRSTATUS = 1
NT_VMCOREINFO, NT_QEMU = 0, 0

# struct elf_prstatus: the number of the thread, and a struct user_regs_struct.
PRSTATUS_SIZE = 336
PRSTATUS_PID, PRSTATUS_REGS = 32, 112
USER_REGS = struct.Struct("<27Q")

# struct QEMUX86CPUState: version, size; 18 registers; 10 segments; 5 control registers; a GS base.
QEMU_HEAD = struct.Struct("<II")
QEMU_VERSION = 1
QEMU_REGS = struct.Struct("<18Q")
QEMU_SEGMENT = struct.Struct("<IIIIQ")  # selector, limit, flags, pad, base
QEMU_CONTROL = struct.Struct("<6Q")
# The flags of a segment are the second word of its descriptor, SDM 3A §3.4.5.
TYPE_SHIFT, S_SHIFT, DPL_SHIFT, P_SHIFT = 8, 12, 13, 15
AVL_SHIFT, L_SHIFT, DB_SHIFT, G_SHIFT = 20, 21, 22, 23

# MSRs, Intel SDM 4 table 2-2.
MSR_KERNEL_GS_BASE = 0xC000_0102

# Where the kernel maps all of memory if it does not say: with page tables of 4 and of 5 levels, and
# no randomization. Linux, x86/x86_64/mm.rst.
DIRECT_MAPS = {4: 0xFFFF_8880_0000_0000, 5: 0xFF11_0000_0000_0000}
IMAGE_MAX = 1 << 30  # KERNEL_IMAGE_SIZE
