"""Facts about ORC, the tables by which an x86-64 Linux kernel unwinds its stacks.

Linux, arch/x86/include/asm/orc_types.h and arch/x86/kernel/unwind_orc.c; Documentation/arch/x86/
orc-unwinder.rst. An entry says, for the instructions from its address on, where the caller's stack
pointer and frame pointer are.
"""

from __future__ import annotations

import struct

# s16 sp_offset, s16 bp_offset, then 16 bits: sp_reg:4 bp_reg:4 and the rest, which changed.
ENTRY = struct.Struct("<hhH")
IP = struct.Struct("<i")  # an entry's address, relative to where this number stands
ENTRIES_MAX = 1 << 24
REG_MASK = 0xF
BP_REG_SHIFT = 4

# Base registers.
UNDEFINED, PREV_SP, DX, DI, BP, SP, R10, R13, BP_INDIRECT, SP_INDIRECT = range(10)
SAVED = {DX: "rdx", DI: "rdi", R10: "r10", R13: "r13"}  # those that only a pt_regs has

# What lies at the found stack pointer: a return address, or a struct pt_regs, or its end.
CALL, REGS, REGS_PARTIAL, END, NOTHING = range(5)
# Until 6.3: type:2 (CALL REGS REGS_PARTIAL) after the registers, then, to 6.2, end:1; 6.3 has
# signal:1 between them. From 6.4 on type:3 (UNDEFINED END_OF_STACK CALL REGS REGS_PARTIAL).
TYPE_SHIFT = 8
OLD_TYPE_MASK, NEW_TYPE_MASK = 3, 7
OLD_TYPES = (CALL, REGS, REGS_PARTIAL, NOTHING)
NEW_TYPES = (NOTHING, END, CALL, REGS, REGS_PARTIAL)
OLD_END = {False: 1 << 10, True: 1 << 11}  # with 6.3's signal bit in between or not
SIGNAL_SINCE, TYPES_SINCE = (6, 3), (6, 4)

# struct pt_regs, arch/x86/include/asm/ptrace.h: 21 words; the last five are what the CPU pushes.
PT_REGS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx"),
    *("rsi", "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss"),
)
IRET = PT_REGS[-5:]
RPL_MASK = 3  # SDM 3A §3.4.2: of a code segment's selector; not 0 in user mode

STACK_SIZE = 16 << 10  # THREAD_SIZE, and that of the stacks for interrupts, without KASAN
