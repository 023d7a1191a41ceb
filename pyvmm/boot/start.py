"""Puts the vCPUs into the state in which a boot protocol enters a kernel."""

from __future__ import annotations

from pyvmm import layout
from pyvmm.boot.entry import CODE_SELECTOR, DATA_SELECTOR, GDT_SIZE, Entry
from pyvmm.kvm.vcpu import Vcpu, segment

# SDM volume 3A §2.5, §2.2.1: control registers and IA32_EFER.
CR0_PE, CR0_ET, CR0_PG = 1 << 0, 1 << 4, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
RFLAGS_RESERVED = 1 << 1  # SDM volume 1 §3.4.3: always set
CODE, DATA, BUSY_TSS = 0xB, 0x3, 0xB  # SDM volume 3A §3.4.5.1, §3.5

# SDM volume 3A §11.11.2.1: with the fixed and variable ranges off, all memory is write-back. Linux
# uses no PAT where the MTRRs are off, as they are after a reset.
MSR_MTRR_DEF_TYPE = 0x2FF
MTRR_ENABLE_WRITE_BACK = 1 << 11 | 6
# SDM volume 4, IA32_MISC_ENABLE: without fast strings Linux leaves out `rep movsb`.
MSR_MISC_ENABLE = 0x1A0
MISC_ENABLE_FAST_STRING = 1


def set_common_msrs(vcpu: Vcpu) -> None:
    """What firmware sets on every vCPU. Raises KvmError."""
    vcpu.set_msrs(
        {MSR_MTRR_DEF_TYPE: MTRR_ENABLE_WRITE_BACK, MSR_MISC_ENABLE: MISC_ENABLE_FAST_STRING}
    )


def enter(vcpu: Vcpu, entry: Entry) -> None:
    """Set the first vCPU's registers; the GDT and page tables are in memory. Raises KvmError."""
    sregs = vcpu.sregs
    code = segment(CODE_SELECTOR, CODE, long_mode=entry.long_mode)
    data = segment(DATA_SELECTOR, DATA)
    sregs.cs = code
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
    sregs.tr.type, sregs.tr.present, sregs.tr.s = BUSY_TSS, 1, 0
    sregs.gdt.base, sregs.gdt.limit = layout.GDT, GDT_SIZE - 1
    sregs.cr0 = CR0_PE | CR0_ET
    if entry.long_mode:
        sregs.cr0 |= CR0_PG
        sregs.cr4 = CR4_PAE
        sregs.cr3 = layout.PAGE_TABLES
        sregs.efer = EFER_LME | EFER_LMA
    vcpu.sregs = sregs
    regs = vcpu.regs
    regs.rip, regs.rflags = entry.rip, RFLAGS_RESERVED
    regs.rax, regs.rbx, regs.rsi = entry.rax, entry.rbx, entry.rsi
    regs.rsp = layout.BOOT_STACK
    vcpu.regs = regs
