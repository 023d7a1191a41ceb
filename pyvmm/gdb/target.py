"""The target as gdb sees it: its description, and the registers of a vCPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from pyvmm.board import Board
from pyvmm.errors import UsageError
from pyvmm.gdb import target_spec as spec
from pyvmm.gdb.target_spec import Register
from pyvmm.kvm import Vcpu
from pyvmm.typed import Any

XSAVE_MIN = 4096  # what KVM_GET_XSAVE2 takes where there is no KVM_CAP_XSAVE2 to say it


class Target:
    """What is the same for all vCPUs of a board. Any thread."""

    def __init__(self, board: Board) -> None:
        self.xsave_size = max(board.kvm.capability("XSAVE2"), XSAVE_MIN)
        self.avx_offset = next(
            (
                entry.ebx
                for entry in board.supported_cpuid
                if (entry.function, entry.index) == (spec.CPUID_XSTATE, spec.CPUID_XSTATE_AVX)
            ),
            0,
        )
        self.features = [
            feature
            for feature in spec.FEATURES
            if feature.name != spec.AVX_FEATURE or self.avx_offset
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


class Registers:
    """The registers of a vCPU that stands still, as bytes in little-endian order.

    It keeps what it has read: make a new one when the vCPU has run. Methods raise KvmError. One
    thread at a time, but for the vCPU's any.
    """

    def __init__(self, target: Target, vcpu: Vcpu) -> None:
        self._target = target
        self._vcpu = vcpu

    @cached_property
    def _regs(self) -> Any:
        return self._vcpu.regs

    @cached_property
    def _sregs(self) -> Any:
        return self._vcpu.sregs

    @cached_property
    def _xsave(self) -> bytearray:
        return bytearray(self._vcpu.get_xsave(self._target.xsave_size))

    @cached_property
    def _msrs(self) -> dict[int, int]:
        return self._vcpu.get_msrs(list(spec.MSRS.values()))

    def read(self, register: Register) -> bytes | None:
        """Its value, or None if this KVM does not show it."""
        value = self._value(register)
        if value is None:
            return None
        size = register.bits // 8
        return (value & (1 << register.bits) - 1).to_bytes(size, "little")

    def _value(self, register: Register) -> int | None:
        match register.source, register.where:
            case "regs", str(name):
                return int(getattr(self._regs, name))
            case "sregs", str(name):
                return int(getattr(self._sregs, name))
            case "selector", str(name):
                return int(getattr(self._sregs, name).selector)
            case "base", str(name):
                return int(getattr(self._sregs, name).base)
            case "tags", _:
                return _full_tags(self._xsave)
            case "msr", int(number):
                return self._msrs.get(number)
        at, size = self._xsave_place(register)
        return int.from_bytes(self._xsave[at : at + size], "little")

    def _xsave_place(self, register: Register) -> tuple[int, int]:
        """Where in the XSAVE area it is, and how many bytes there."""
        assert isinstance(register.where, int)
        if register.source == "ymm":
            return self._target.avx_offset + register.where * spec.XSAVE_SLOT, spec.XSAVE_SLOT
        return register.where, register.size

    def write(self, register: Register, data: bytes) -> None:
        """Change it. Raises UsageError for what cannot be, as a selector without its segment."""
        if data == self.read(register):
            return
        value = int.from_bytes(data, "little")
        match register.source, register.where:
            case "regs", str(name):
                setattr(self._regs, name, value)
                self._vcpu.regs = self._regs
            case "sregs", str(name):
                setattr(self._sregs, name, value)
                self._vcpu.sregs = self._sregs
            case "base", str(name):
                getattr(self._sregs, name).base = value
                self._vcpu.sregs = self._sregs
            case "selector", str(name):
                self._write_selector(name, value)
            case "msr", int(number):
                self._vcpu.set_msrs({number: value})
                self._msrs[number] = value
            case _:
                self._write_xsave(register, value)

    def _write_selector(self, name: str, value: int) -> None:
        """In real mode it is a sixteenth of the base (SDM 3A §20.1.1)."""
        if self._sregs.cr0 & spec.CR0_PE:
            raise UsageError(f"{name} must stay as it is: its descriptor would not change with it")
        segment = getattr(self._sregs, name)
        segment.selector, segment.base = value & 0xFFFF, (value & 0xFFFF) << 4
        self._vcpu.sregs = self._sregs

    def _write_xsave(self, register: Register, value: int) -> None:
        at, size = self._xsave_place(register)
        if register.source == "tags":
            value, size = _short_tags(value), 1
        self._xsave[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        # What XSTATE_BV does not name counts as in its initial state, whatever is written there.
        part = spec.AVX if register.source == "ymm" else spec.X87
        if at == spec.XSAVE_MXCSR or spec.XSAVE_XMM <= at < spec.XSTATE_BV:
            part = spec.SSE
        self._xsave[spec.XSTATE_BV] |= part
        self._vcpu.set_xsave(bytes(self._xsave))


def _full_tags(xsave: bytes | bytearray) -> int:
    """The tag word, two bits a register, of the short one, which only tells empty ones apart."""
    top = xsave[spec.XSAVE_FSW + 1] >> spec.FSW_TOP_SHIFT - 8 & spec.ST_REGISTERS - 1
    tags = 0
    for physical in range(spec.ST_REGISTERS):
        tag = spec.TAG_EMPTY
        if xsave[spec.XSAVE_FTW] >> physical & 1:
            at = spec.XSAVE_ST + (physical - top) % spec.ST_REGISTERS * spec.XSAVE_SLOT
            tag = _tag(int.from_bytes(xsave[at : at + 10], "little"))
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
