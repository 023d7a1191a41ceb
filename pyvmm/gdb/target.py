"""The target as gdb sees it: its description, and the registers of a vCPU that stands still."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyvmm.board import Board
from pyvmm.errors import HostError, UsageError
from pyvmm.gdb import target_spec as spec
from pyvmm.gdb.target_spec import Register
from pyvmm.inspection.registers import Registers
from pyvmm.inspection.registers_spec import CR0_PE


class Target:
    """What is the same for all vCPUs of a board. Any thread."""

    def __init__(self, board: Board) -> None:
        avx = any(
            entry.ebx
            for entry in board.supported_cpuid
            if (entry.function, entry.index) == (spec.CPUID_XSTATE, spec.CPUID_XSTATE_AVX)
        )
        self.features = [
            feature for feature in spec.FEATURES if avx or feature.name != spec.AVX_FEATURE
        ]
        self.registers: Sequence[Register] = [
            register for feature in self.features for register in feature.registers
        ]

    def description(self) -> str:
        """The target description as XML (gdb manual, appendix G)."""
        return (
            '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target version="1.0">'
            f"<architecture>{spec.ARCHITECTURE}</architecture>"
            + "".join(_feature_lines(self.features))
            + "</target>"
        )


def _feature_lines(features: Sequence[spec.Feature]) -> Iterator[str]:
    for feature in features:
        own = feature.name.startswith("org.pyvmm.")
        yield f'<feature name="{feature.name}">{feature.types}'
        for register in feature.registers:
            group = f' group="{register.group}"' if register.group else ""
            kept = ' save-restore="no"' if own else ""
            yield f'<reg name="{register.name}" bitsize="{register.bits}"'
            yield f' type="{register.type}"{group}{kept}/>'
        yield "</feature>"


def memory_map() -> str:
    """The memory map as XML (gdb manual, appendix E.14): of virtual addresses, which gdb uses."""
    regions = "".join(
        f'<memory type="ram" start="{base:#x}" length="{size:#x}"/>' for base, size in spec.MEMORY
    )
    return f"<memory-map>{regions}</memory-map>"


def read(registers: Registers, one: Register) -> bytes | None:
    """The value of a register, in little-endian order; None if this host's KVM has it not."""
    if one.name == spec.TAGS:
        value = _full_tags(registers)
    else:
        try:
            value = registers[one.source] >> one.shift
        except HostError:
            return None
    return (value & _mask(one)).to_bytes(one.bits // 8, "little")


def write(registers: Registers, one: Register, data: bytes) -> None:
    """Change a register, unless it has this value. Raises UsageError for what cannot be."""
    if data == read(registers, one):
        return
    value = int.from_bytes(data, "little")
    if one.name == spec.TAGS:
        value = _short_tags(value)
    elif one.name in spec.SEGMENTS:
        _write_selector(registers, one, value)
        return
    elif one.source == spec.LINEAR_PC:
        base = registers.linear_pc - registers["rip"]
        registers["rip"] = value - base & _mask(one)
        return
    kept = registers[one.source] & ~(_mask(one) << one.shift)
    registers[one.source] = kept | value << one.shift


def _mask(one: Register) -> int:
    return (1 << one.bits) - 1


def _write_selector(registers: Registers, one: Register, value: int) -> None:
    """In real mode it is a sixteenth of the base (SDM 3A §20.1.1)."""
    if registers["cr0"] & CR0_PE:
        raise UsageError(f"{one.name} must stay as it is: its descriptor would not change with it")
    registers[one.source] = value
    registers[f"{one.name}_base"] = value << 4


def _full_tags(registers: Registers) -> int:
    """The tag word."""
    top = registers["fsw"] >> spec.FSW_TOP_SHIFT & spec.ST_REGISTERS - 1
    tags = 0
    for physical in range(spec.ST_REGISTERS):
        tag = spec.TAG_EMPTY
        if registers["ftw"] >> physical & 1:
            tag = _tag(registers[f"st{(physical - top) % spec.ST_REGISTERS}"])
        tags |= tag << 2 * physical
    return tags


def _tag(value: int) -> int:
    """What kind of number an 80-bit one is."""
    exponent, significand = value >> 64 & spec.EXPONENT_MAX, value & (1 << 64) - 1
    if exponent == significand == 0:
        return spec.TAG_ZERO
    ordinary = exponent != spec.EXPONENT_MAX and significand & spec.INTEGER_BIT
    return spec.TAG_VALID if ordinary else spec.TAG_SPECIAL


def _short_tags(tags: int) -> int:
    return sum(
        1 << physical
        for physical in range(spec.ST_REGISTERS)
        if tags >> 2 * physical & 0b11 != spec.TAG_EMPTY
    )
