"""A vCPU's registers by name, as numbers that are read and written."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping

from pyvmm.errors import HostError, UsageError
from pyvmm.inspection import registers_spec as spec
from pyvmm.kvm.vcpu import Vcpu
from pyvmm.native import ffi
from pyvmm.typed import Any
from pyvmm.value import Value


class Register(Value):
    """One register: its group of registers_spec.GROUPS and its width in bits; `get` reads it from
    a vCPU's state, `set` changes it there."""

    name: str
    group: str
    bits: int
    get: Callable[[Registers], int]
    set: Callable[[Registers, int], None]


class Registers:
    """The registers of a vCPU that stands still, as they were when each kind was first read.

    What is written goes to the vCPU at once. Raises UsageError for a name that it does not know
    and for a value that is too large, KvmError where KVM refuses. One thread at a time.
    """

    def __init__(self, vcpu: Vcpu, xsave_size: int) -> None:
        """`xsave_size` is as for Vcpu.get_xsave."""
        self.vcpu = vcpu
        self._xsave_size = xsave_size
        self._pieces: dict[str, Any] = {}

    def __getitem__(self, name: str) -> int:
        """The value of the register of that name, in upper or lower case."""
        if name.lower() == "pc":
            return self.linear_pc
        register = find(name)
        return register.get(self)

    def __setitem__(self, name: str, value: int) -> None:
        """Set the register of that name."""
        register = find(name)
        if not 0 <= value < 1 << register.bits:
            raise UsageError(f"{register.name} must be a number of {register.bits} bits")
        register.set(self, value)

    def group(self, name: str) -> dict[str, int]:
        """All registers of a group by name, but those that this vCPU has not."""
        if name == "avx" and not self["xcr0"] & spec.XCR0_AVX:
            return {}
        if name == "msr":
            return self._all_msrs()
        return {one.name: one.get(self) for one in TABLE.values() if one.group == name}

    @property
    def linear_pc(self) -> int:
        """The linear address of the next instruction, which in real mode is not RIP."""
        base = 0 if self.code_bits == 64 else self["cs_base"]
        return base + self["rip"] & (1 << 64 if self.code_bits == 64 else 1 << 32) - 1

    @property
    def code_bits(self) -> int:
        """Whether the code segment makes instructions 16, 32 or 64 bits wide; SDM 3A §2.2."""
        cs = self.piece("sregs").cs
        if not self["cr0"] & spec.CR0_PE or self["rflags"] & spec.RFLAGS_VM:
            return 16
        if self["efer"] & spec.EFER_LMA and cs.l:
            return 64
        return 32 if cs.db else 16

    @property
    def mode(self) -> str:
        """The same in words."""
        if not self["cr0"] & spec.CR0_PE:
            return "real mode"
        return "virtual 8086" if self["rflags"] & spec.RFLAGS_VM else f"{self.code_bits}-bit code"

    def piece(self, name: str) -> Any:
        """A piece of state as KVM has it, by the name of Vcpu's attribute."""
        if name not in self._pieces:
            if name == "xsave":
                self._pieces[name] = bytearray(self.vcpu.get_xsave(self._xsave_size))
            else:
                self._pieces[name] = getattr(self.vcpu, name)
        return self._pieces[name]

    def store(self, name: str) -> None:
        """Give the vCPU a piece back that has been changed."""
        if name == "xsave":
            self.vcpu.set_xsave(bytes(self.piece(name)))
        else:
            setattr(self.vcpu, name, self.piece(name))
        self._pieces.clear()  # KVM may make something else of it, and of other pieces

    def msr(self, name: str) -> int:
        """A model-specific register. Raises HostError if this KVM has not got it."""
        index = spec.MSRS[name]
        values = self.vcpu.get_msrs([index])
        if index not in values:
            raise HostError(f"This host's KVM does not give the register {name} ({index:#x})")
        return values[index]

    def _all_msrs(self) -> dict[str, int]:
        values = self.vcpu.get_msrs(list(spec.MSRS.values()))
        return {name: values[index] for name, index in spec.MSRS.items() if index in values}


def find(name: str) -> Register:
    """The register of that name. Raises UsageError, which suggests the nearest."""
    lower = name.lower()
    register = TABLE.get(spec.ALIASES.get(lower, lower))
    if register is None:
        close = difflib.get_close_matches(lower, [*TABLE, *spec.ALIASES], 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"There is no register {name!r}{hint}")
    return register


def names() -> list[str]:
    """All names that can be read."""
    return [*TABLE, *spec.ALIASES, "pc"]


def meaning(name: str, value: int) -> list[str]:
    """The names of the bits that are set in a register, where they have any."""
    return [bit for at, bit in spec.BITS.get(name, {}).items() if value >> at & 1]


# ---- the table ----

_Ways = tuple[
    Callable[[Registers], int], Callable[[Registers, int], None]
]  # to get it and to set it


def _field(piece: str, path: str) -> _Ways:
    """A field of a structure, as `rax` or `cs.base`; a number in it is an index."""
    *outer, last = path.split(".")

    def owner(state: Registers) -> Any:
        return functools.reduce(getattr, outer, state.piece(piece))

    def get(state: Registers) -> int:
        return int(owner(state)[int(last)] if last.isdigit() else getattr(owner(state), last))

    def put(state: Registers, value: int) -> None:
        if last.isdigit():
            owner(state)[int(last)] = value
        else:
            setattr(owner(state), last, value)
        state.store(piece)

    return get, put


def _extended(component: int, *parts: tuple[int, int]) -> _Ways:
    """A register in the XSAVE area: its parts' offsets and sizes in bytes, lowest first."""

    def get(state: Registers) -> int:
        area = state.piece("xsave")
        return int.from_bytes(b"".join(area[at : at + size] for at, size in parts), "little")

    def put(state: Registers, value: int) -> None:
        area = state.piece("xsave")
        for at, size in parts:
            area[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            value >>= 8 * size
        area[spec.XSTATE_BV[0]] |= component
        state.store("xsave")

    return get, put


def _msr(name: str) -> _Ways:
    def put(state: Registers, value: int) -> None:
        state.vcpu.set_msrs({spec.MSRS[name]: value})

    return lambda state: state.msr(name), put


def _xcr0() -> _Ways:
    def entry(state: Registers) -> Any:
        xcrs = state.piece("xcrs")
        found = [one for one in xcrs.xcrs[0 : xcrs.nr_xcrs] if one.xcr == spec.XCR0]
        return found[0] if found else ffi.new("struct kvm_xcr *", {"value": spec.X87})

    def put(state: Registers, value: int) -> None:
        entry(state).value = value
        state.store("xcrs")

    return lambda state: int(entry(state).value), put


def _make_table() -> Mapping[str, Register]:
    table: dict[str, Register] = {}

    def add(name: str, group: str, bits: int, ways: _Ways) -> None:
        table[name] = Register(name, group, bits, *ways)

    for name in spec.GENERAL:
        add(name, "general", 64, _field("regs", name))
    for name in spec.SEGMENTS:
        for field, bits in spec.SEGMENT_FIELDS.items():
            add(f"{name}_{field}", "segment", bits, _field("sregs", f"{name}.{field}"))
    for name in spec.TABLES:
        for field, bits in spec.TABLE_FIELDS.items():
            add(f"{name}_{field}", "segment", bits, _field("sregs", f"{name}.{field}"))
    for name in spec.CONTROL:
        add(name, "control", 64, _field("sregs", name))
    add("xcr0", "control", 64, _xcr0())
    for name in spec.DEBUG:
        number = name.removeprefix("dr")
        path = f"db.{number}" if int(number) < 4 else name
        add(name, "debug", 64, _field("debugregs", path))
    for name, place in spec.FXSAVE.items():
        add(name, "fpu", 8 * place[1], _extended(spec.X87, place))
    for n in range(spec.ST_COUNT):
        place = (spec.ST0 + n * spec.ST_STRIDE, spec.ST_SIZE)
        add(f"st{n}", "fpu", 8 * spec.ST_SIZE, _extended(spec.X87, place))
    add("mxcsr", "sse", 32, _extended(spec.SSE, spec.MXCSR))
    for n in range(spec.XMM_COUNT):
        low = (spec.XMM0 + n * spec.XMM_SIZE, spec.XMM_SIZE)
        high = (spec.YMM_HIGH + n * spec.XMM_SIZE, spec.XMM_SIZE)
        add(f"xmm{n}", "sse", 128, _extended(spec.SSE, low))
        add(f"ymm{n}", "avx", 256, _extended(spec.SSE | spec.AVX, low, high))
    for name in spec.MSRS:
        add(name, "msr", 64, _msr(name))
    return table


TABLE = _make_table()
