"""What gdb is told of the target: registers by the names that gdb expects of an x86-64 machine.

gdb manual, appendix G.5.9 "i386 Features"; the features `org.pyvmm.*` are our own. The order is
that of the `g` packet.
"""

from __future__ import annotations

from typing import NamedTuple

from pyvmm.inspection.registers_spec import BITS, GENERAL, XMM_COUNT

ARCHITECTURE = "i386:x86-64"


class Register(NamedTuple):
    """One register: `bits` of one of inspection.registers, from its bit number `shift` on."""

    name: str
    bits: int
    type: str
    source: str
    shift: int = 0
    group: str = ""


class Feature(NamedTuple):
    """A feature of the target description: its types, as XML, and registers."""

    name: str
    types: str
    registers: tuple[Register, ...]


# The x87 tag word, two bits a register; the XSAVE area only says which are not empty.
TAGS = "ftag"
TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY = range(4)  # SDM 1 §8.1.7
FSW_TOP_SHIFT, ST_REGISTERS = 11, 8
EXPONENT_MAX, INTEGER_BIT = 0x7FFF, 1 << 63  # SDM 1 §4.2.2

# gdb knows no bases of code segments: it gets the linear address, as of breakpoints and memory.
LINEAR_PC = "pc"

CPUID_XSTATE, CPUID_XSTATE_AVX = 0xD, 2  # leaf and subleaf, where EBX is not 0 if there is AVX


def _flags(name: str, size: int, bits: dict[int, str]) -> str:
    fields = "".join(f'<field name="{bit}" start="{at}" end="{at}"/>' for at, bit in bits.items())
    return f'<flags id="{name}" size="{size}">{fields}</flags>'


_MXCSR = {  # SDM 1 §10.2.3
    0: "IE", 1: "DE", 2: "ZE", 3: "OE", 4: "UE", 5: "PE", 6: "DAZ", 7: "IM", 8: "DM", 9: "ZM",
    10: "OM", 11: "UM", 12: "PM", 15: "FZ",
}  # fmt: skip
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

SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
FPU = "float"  # gdb's group of these
X87_CONTROL = (
    Register("fctrl", 32, "int", "fcw", group=FPU),
    Register("fstat", 32, "int", "fsw", group=FPU),
    Register(TAGS, 32, "int", "ftw", group=FPU),
    Register("fiseg", 32, "int", "fip", 32, FPU),
    Register("fioff", 32, "int", "fip", group=FPU),
    Register("foseg", 32, "int", "fdp", 32, FPU),
    Register("fooff", 32, "int", "fdp", group=FPU),
    Register("fop", 32, "int", "fop", group=FPU),
)
CONTROL = {"cr0": "cr0", "cr2": "data_ptr", "cr3": "int64", "cr4": "cr4", "cr8": "int64"}
MSRS = (
    *("star", "lstar", "cstar", "fmask", "tsc_aux", "sysenter_cs", "sysenter_esp"),
    *("sysenter_eip", "pat", "misc_enable"),
)

FEATURES = (
    Feature(
        "org.gnu.gdb.i386.core",
        _flags("i386_eflags", 4, BITS["rflags"]),
        (
            *(Register(name, 64, "int64", name) for name in GENERAL[:6]),  # rax to rdi
            *(Register(name, 64, "data_ptr", name) for name in GENERAL[6:8]),  # rbp and rsp
            *(Register(name, 64, "int64", name) for name in GENERAL[8:16]),  # r8 to r15
            Register("rip", 64, "code_ptr", LINEAR_PC),
            Register("eflags", 32, "i386_eflags", "rflags"),
            *(Register(name, 32, "int32", f"{name}_selector") for name in SEGMENTS),
            *(Register(f"st{n}", 80, "i387_ext", f"st{n}") for n in range(ST_REGISTERS)),
            *X87_CONTROL,
        ),
    ),
    Feature(
        "org.gnu.gdb.i386.sse",
        _VECTOR + _flags("i386_mxcsr", 4, _MXCSR),
        (
            *(Register(f"xmm{n}", 128, "vec128", f"xmm{n}") for n in range(XMM_COUNT)),
            Register("mxcsr", 32, "i386_mxcsr", "mxcsr", group="vector"),
        ),
    ),
    Feature(
        "org.gnu.gdb.i386.avx",
        "",
        tuple(Register(f"ymm{n}h", 128, "uint128", f"ymm{n}", 128) for n in range(XMM_COUNT)),
    ),
    Feature(
        "org.gnu.gdb.i386.segments",
        "",
        tuple(Register(name, 64, "int64", name) for name in ("fs_base", "gs_base")),
    ),
    Feature(
        "org.pyvmm.control",
        "".join(_flags(name, 8, BITS[name]) for name in ("cr0", "cr4", "efer")),
        (
            *(Register(name, 64, type, name) for name, type in CONTROL.items()),
            Register("efer", 64, "efer", "efer"),
            Register("k_gs_base", 64, "int64", "kernel_gs_base"),
        ),
    ),
    Feature(
        "org.pyvmm.msr",
        "",
        tuple(Register(name, 64, "int64", name, group="system") for name in MSRS),
    ),
)
AVX_FEATURE = "org.gnu.gdb.i386.avx"

# Virtual addresses are sign-extended from 57 bits at most (SDM 1 §3.3.7.1): two halves, base and
# size. gdb takes what a memory map leaves out for unreadable.
MEMORY = ((0, 1 << 56), ((1 << 64) - (1 << 56), 1 << 56))
