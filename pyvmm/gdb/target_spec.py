"""What gdb is told of the target: registers by the names that gdb expects of an x86-64 machine.

gdb manual, appendix G.5.9 "i386 Features"; the features `org.pyvmm.*` are our own. The order is
that of the `g` packet.
"""

from __future__ import annotations

from typing import NamedTuple

ARCHITECTURE = "i386:x86-64"


class Register(NamedTuple):
    """One register. `source` says which state has it, and `where` the place in there:

    regs, sregs     a member of struct kvm_regs or kvm_sregs
    selector, base  a member of a segment of struct kvm_sregs
    xsave           an offset in the XSAVE area; size bytes are there, the rest is zero
    tags            the x87 tag word, which the XSAVE area has in a short form
    ymm             the number of a register, in the AVX part of the XSAVE area
    msr             the number of an MSR
    """

    name: str
    bits: int
    type: str
    source: str
    where: str | int
    size: int = 0
    group: str = ""


class Feature(NamedTuple):
    """A feature of the target description: its types, as XML, and registers."""

    name: str
    types: str
    registers: tuple[Register, ...]


# SDM 1 §13.4.1, the legacy region of an XSAVE area; its header and the AVX state's place §13.4.2-3.
XSAVE_FTW, XSAVE_FSW, XSAVE_ST, XSAVE_XMM = 4, 2, 32, 160
XSAVE_SLOT = 16  # bytes from one ST, XMM or YMM_Hi128 register to the next
XSTATE_BV = 512
X87, SSE, AVX = 1 << 0, 1 << 1, 1 << 2  # bits of XSTATE_BV
XSAVE_MXCSR = 24
CPUID_XSTATE, CPUID_XSTATE_AVX = 0xD, 2  # leaf and subleaf; EBX is the AVX state's offset
FSW_TOP_SHIFT, ST_REGISTERS = 11, 8
TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY = range(4)  # SDM 1 §8.1.7
EXPONENT_MAX, INTEGER_BIT = 0x7FFF, 1 << 63

CR0_PE = 1 << 0  # SDM 3A §2.5


def _flags(name: str, size: int, bits: str) -> str:
    """A flags type: `bits` are its fields, each with its bit or its first and last one."""
    fields = ""
    for field in bits.split():
        title, place = field.split(":")
        start, _, end = place.partition("-")
        fields += f'<field name="{title}" start="{start}" end="{end or start}"/>'
    return f'<flags id="{name}" size="{size}">{fields}</flags>'


_EFLAGS = _flags(  # SDM 1 §3.4.3
    "i386_eflags",
    4,
    "CF:0 PF:2 AF:4 ZF:6 SF:7 TF:8 IF:9 DF:10 OF:11 IOPL:12-13 NT:14 RF:16 VM:17 AC:18 VIF:19 "
    "VIP:20 ID:21",
)
_MXCSR = _flags(  # SDM 1 §10.2.3
    "i386_mxcsr",
    4,
    "IE:0 DE:1 ZE:2 OE:3 UE:4 PE:5 DAZ:6 IM:7 DM:8 ZM:9 OM:10 UM:11 PM:12 RC:13-14 FZ:15",
)
# SDM 3A §2.5 and §2.2.1, AMD APM 2 §3.1.7.
_CR0 = _flags("cr0", 8, "PE:0 MP:1 EM:2 TS:3 ET:4 NE:5 WP:16 AM:18 NW:29 CD:30 PG:31")
_CR4 = _flags(
    "cr4",
    8,
    "VME:0 PVI:1 TSD:2 DE:3 PSE:4 PAE:5 MCE:6 PGE:7 PCE:8 OSFXSR:9 OSXMMEXCPT:10 UMIP:11 LA57:12 "
    "VMXE:13 SMXE:14 FSGSBASE:16 PCIDE:17 OSXSAVE:18 SMEP:20 SMAP:21 PKE:22 CET:23 PKS:24",
)
_EFER = _flags("efer", 8, "SCE:0 LME:8 LMA:10 NXE:11 SVME:12 FFXSR:14")
_VECTOR = "".join(
    f'<vector id="{name}" type="{type}" count="{count}"/>'
    for name, type, count in (
        *(("v4f", "ieee_single", 4), ("v2d", "ieee_double", 2), ("v16i8", "int8", 16)),
        *(("v8i16", "int16", 8), ("v4i32", "int32", 4), ("v2i64", "int64", 2)),
    )
) + (
    '<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>'
    '<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/>'
    '<field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>'
    '<field name="uint128" type="uint128"/></union>'
)

GENERAL = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
# Name, offset in the XSAVE area, bytes there.
X87_CONTROL = (
    *(("fctrl", 0, 2), ("fstat", XSAVE_FSW, 2), ("ftag", XSAVE_FTW, 2), ("fiseg", 12, 2)),
    *(("fioff", 8, 4), ("foseg", 20, 2), ("fooff", 16, 4), ("fop", 6, 2)),
)
# SDM 4 table 2-2; AMD APM 2 appendix A.
MSRS = {
    "k_gs_base": 0xC000_0102,
    "star": 0xC000_0081,
    "lstar": 0xC000_0082,
    "cstar": 0xC000_0083,
    "fmask": 0xC000_0084,
    "tsc_aux": 0xC000_0103,
    "sysenter_cs": 0x174,
    "sysenter_esp": 0x175,
    "sysenter_eip": 0x176,
    "pat": 0x277,
    "misc_enable": 0x1A0,
}
POINTERS = {"rbp": "data_ptr", "rsp": "data_ptr"}

FEATURES = (
    Feature(
        "org.gnu.gdb.i386.core",
        _EFLAGS,
        (
            *(Register(name, 64, POINTERS.get(name, "int64"), "regs", name) for name in GENERAL),
            Register("rip", 64, "code_ptr", "regs", "rip"),
            Register("eflags", 32, "i386_eflags", "regs", "rflags"),
            *(Register(name, 32, "int32", "selector", name) for name in SEGMENTS),
            *(
                Register(f"st{n}", 80, "i387_ext", "xsave", XSAVE_ST + n * XSAVE_SLOT, 10)
                for n in range(ST_REGISTERS)
            ),
            *(
                Register(name, 32, "int", "tags" if name == "ftag" else "xsave", at, size, "float")
                for name, at, size in X87_CONTROL
            ),
        ),
    ),
    Feature(
        "org.gnu.gdb.i386.sse",
        _VECTOR + _MXCSR,
        (
            *(
                Register(f"xmm{n}", 128, "vec128", "xsave", XSAVE_XMM + n * XSAVE_SLOT, 16)
                for n in range(16)
            ),
            Register("mxcsr", 32, "i386_mxcsr", "xsave", XSAVE_MXCSR, 4, "vector"),
        ),
    ),
    Feature(
        "org.gnu.gdb.i386.avx",
        "",
        tuple(Register(f"ymm{n}h", 128, "uint128", "ymm", n) for n in range(16)),
    ),
    Feature(
        "org.gnu.gdb.i386.segments",
        "",
        tuple(Register(f"{name}_base", 64, "int64", "base", name) for name in ("fs", "gs")),
    ),
    Feature(
        "org.pyvmm.control",
        _CR0 + _CR4 + _EFER,
        (
            Register("cr0", 64, "cr0", "sregs", "cr0"),
            Register("cr2", 64, "data_ptr", "sregs", "cr2"),
            Register("cr3", 64, "int64", "sregs", "cr3"),
            Register("cr4", 64, "cr4", "sregs", "cr4"),
            Register("cr8", 64, "int64", "sregs", "cr8"),
            Register("efer", 64, "efer", "sregs", "efer"),
        ),
    ),
    Feature(
        "org.pyvmm.msr",
        "",
        tuple(
            Register(name, 64, "int64", "msr", number, 0, "system") for name, number in MSRS.items()
        ),
    ),
)
AVX_FEATURE = "org.gnu.gdb.i386.avx"

# Virtual addresses are sign-extended from 57 bits at most (SDM 1 §3.3.7.1): two halves, base and
# size. gdb takes what a memory map leaves out for unreadable.
MEMORY = ((0, 1 << 56), ((1 << 64) - (1 << 56), 1 << 56))
