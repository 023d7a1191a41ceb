"""Facts about a vCPU's registers: their names, widths, bits, and where KVM keeps each.

Sources: Intel SDM volumes 1, 3A and 4 (SDM); AMD APM volume 2 (APM); KVM's own MSRs are in the
kernel's virt/kvm/x86/msr.rst. The names are gdb's where it has one.
"""

from __future__ import annotations

# Groups, in the order in which a person wants them, and their names in words.
GROUPS = {
    "general": "General",
    "segment": "Segments",
    "control": "Control",
    "debug": "Debug",
    "fpu": "FPU",
    "sse": "SSE",
    "avx": "AVX",
    "msr": "Model-specific",
}

GENERAL = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
)
SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt")
# Fields of struct kvm_segment that are registers by themselves, with their widths in bits.
SEGMENT_FIELDS = {"selector": 16, "base": 64, "limit": 32}
TABLES = ("gdt", "idt")
TABLE_FIELDS = {"base": 64, "limit": 16}
CONTROL = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
DEBUG = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
ALIASES = {
    "eflags": "rflags",
    "sp": "rsp",
    "fp": "rbp",
    "k_gs_base": "kernel_gs_base",
    **{name: f"{name}_selector" for name in SEGMENTS},
}

# The legacy region of the XSAVE area, SDM 1 §10.5.1, tables 10-2 and 10-3: offset and bytes. FTW is
# there in its abridged form: a bit for each register that is not empty.
FXSAVE = {
    "fcw": (0, 2),
    "fsw": (2, 2),
    "ftw": (4, 1),
    "fop": (6, 2),
    "fip": (8, 8),
    "fdp": (16, 8),
}
MXCSR = (24, 4)
ST0, ST_STRIDE, ST_SIZE, ST_COUNT = 32, 16, 10, 8
XMM0, XMM_SIZE, XMM_COUNT = 160, 16, 16
# SDM 1 §13.4.2: a bit for each component that is not in its initial state. §13.1: which is which.
XSTATE_BV = (512, 8)
X87, SSE, AVX = 1 << 0, 1 << 1, 1 << 2
# §13.5.2: the upper halves of YMM registers, directly after the header.
YMM_HIGH = 576
XCR0_AVX = 1 << 2  # §13.3
XCR0 = 0  # the number of the register XCR0

# Model-specific registers, SDM 4 table 2-2, APM appendix A; KVM's own from 0x4b564d00.
MSRS = {
    "tsc": 0x10,
    "spec_ctrl": 0x48,
    "tsc_adjust": 0x3B,
    "sysenter_cs": 0x174,
    "sysenter_esp": 0x175,
    "sysenter_eip": 0x176,
    "misc_enable": 0x1A0,
    "debugctl": 0x1D9,
    "pat": 0x277,
    "mtrr_def_type": 0x2FF,
    "tsc_deadline": 0x6E0,
    "xss": 0xDA0,
    "star": 0xC000_0081,
    "lstar": 0xC000_0082,
    "cstar": 0xC000_0083,
    "fmask": 0xC000_0084,
    "kernel_gs_base": 0xC000_0102,
    "tsc_aux": 0xC000_0103,
    "kvm_wall_clock": 0x4B56_4D00,
    "kvm_system_time": 0x4B56_4D01,
    "kvm_async_pf_en": 0x4B56_4D02,
    "kvm_steal_time": 0x4B56_4D03,
    "kvm_eoi_en": 0x4B56_4D04,
}

# What bits mean: SDM 1 §3.4.3 RFLAGS, SDM 3A §2.5 CR0 and CR4, §2.2.1 EFER, SDM 3B §17.2 DR6.
BITS = {
    "rflags": {
        0: "CF", 2: "PF", 4: "AF", 6: "ZF", 7: "SF", 8: "TF", 9: "IF", 10: "DF", 11: "OF",
        14: "NT", 16: "RF", 17: "VM", 18: "AC", 19: "VIF", 20: "VIP", 21: "ID",
    },
    "cr0": {
        0: "PE", 1: "MP", 2: "EM", 3: "TS", 4: "ET", 5: "NE", 16: "WP", 18: "AM", 29: "NW",
        30: "CD", 31: "PG",
    },
    "cr4": {
        0: "VME", 1: "PVI", 2: "TSD", 3: "DE", 4: "PSE", 5: "PAE", 6: "MCE", 7: "PGE", 8: "PCE",
        9: "OSFXSR", 10: "OSXMMEXCPT", 11: "UMIP", 12: "LA57", 13: "VMXE", 16: "FSGSBASE",
        17: "PCIDE", 18: "OSXSAVE", 20: "SMEP", 21: "SMAP", 22: "PKE", 23: "CET",
    },
    "efer": {0: "SCE", 8: "LME", 10: "LMA", 11: "NXE", 12: "SVME"},
    "apic_base": {8: "BSP", 10: "EXTD", 11: "EN"},
    "dr6": {0: "B0", 1: "B1", 2: "B2", 3: "B3", 13: "BD", 14: "BS", 15: "BT"},
    "dr7": {
        0: "L0", 1: "G0", 2: "L1", 3: "G1", 4: "L2", 5: "G2", 6: "L3", 7: "G3", 8: "LE", 9: "GE",
        13: "GD",
    },
    "xcr0": {0: "x87", 1: "SSE", 2: "AVX", 5: "opmask", 6: "ZMM_Hi256", 7: "Hi16_ZMM", 9: "PKRU"},
}  # fmt: skip

# The mode that runs code, SDM 3A §2.2.
CR0_PE = 1 << 0
EFER_LMA = 1 << 10
RFLAGS_VM = 1 << 17

# KVM_GET_MP_STATE, KVM api.rst 4.38.
MP_STATES = {
    0: "running",
    1: "not started",
    2: "waits for its start-up IPI",
    3: "halted",
    4: "got its start-up IPI",
}
