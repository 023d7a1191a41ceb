"""The vCPUs: their state, their registers, their local APICs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pyvmm.errors import UsageError
from pyvmm.inspection import chips, chips_spec, registers_spec
from pyvmm.inspection.names import short_name
from pyvmm.inspection.registers import find, meaning
from pyvmm.inspection.views import registers_of
from pyvmm.monitor.command import command
from pyvmm.monitor.kinds import Choice, Cpu, CpuNumber
from pyvmm.monitor.memory_kinds import Amount, RegisterName
from pyvmm.monitor.result import Cell, Fields, Hex, Result, Sections, Table
from pyvmm.monitor.session import Session

LINE = 4  # registers of 64 bits in a line; of wider ones fewer

OptionalCpu = Annotated[int | None, CpuNumber()]
Group = Annotated[str, Choice(tuple(registers_spec.GROUPS))]


class Grid(Result):
    """Registers, several in a line, and below them which of their bits are set.

    `bits` is the width of each.
    """

    values: Mapping[str, int]
    bits: Mapping[str, int]

    @property
    def data(self) -> dict[str, int]:
        """See Result."""
        return dict(self.values)

    def __str__(self) -> str:
        width = max(map(len, self.values), default=0)
        digits = max((-(-bits // 4) for bits in self.bits.values()), default=0)
        texts = [
            f"{name:{width}} {f'{value:0{-(-self.bits[name] // 4)}x}':{digits}}"
            for name, value in self.values.items()
        ]
        count = max(1, LINE * 16 // max(digits, 16))
        rows = (texts[at : at + count] for at in range(0, len(texts), count))
        lines = ["  ".join(row).rstrip() for row in rows]
        for name, value in self.values.items():
            if flags := meaning(name, value):
                lines.append(f"{name}: {' '.join(flags)}")
        return "\n".join(lines)


@command("cpu", examples=["cpu 1"])
def cpu(session: Session, number: Cpu) -> None:
    """Choose the vCPU whose registers and page tables the other commands use."""
    session.cpu = number


@command("info cpus")
def info_cpus(session: Session) -> Result:
    """Show what each vCPU does and where it is; a star marks the chosen one (`cpu`)."""
    machine, symbols = session.machine, session.symbols
    rows = []
    with machine.paused():
        for vcpu in machine.vcpus:
            state = registers_of(machine, vcpu.index)
            mp_state = registers_spec.MP_STATES.get(vcpu.mp_state, str(vcpu.mp_state))
            rows.append(
                (
                    f"{'*' if vcpu.index == session.cpu else ' '} {vcpu.index}",
                    vcpu.native.thread or None,
                    mp_state,
                    state.mode,
                    Hex(state.linear_pc),
                    short_name(symbols, state.linear_pc),
                )
            )
    return Table(("cpu", "thread", "state", "mode", "next instruction", "in"), rows)


@command("info registers", examples=["info registers", "info registers 1", "info registers sse"])
def info_registers(session: Session, cpu: OptionalCpu = None, group: Group = "") -> Result:
    """Show the registers of a vCPU, all or a group of them.

    The groups are general, segment, control, debug, fpu, sse, avx and msr.
    """
    machine = session.machine
    with machine.paused():
        state = registers_of(machine, session.cpu if cpu is None else cpu)
        values = {
            one: found
            for one in ([group] if group else registers_spec.GROUPS)
            if (found := state.group(one))
        }
        segments = state.piece("sregs")
    sections = {
        registers_spec.GROUPS[one]: _segments(segments) if one == "segment" else _group(found)
        for one, found in values.items()
    }
    if not sections:
        raise UsageError(f"This vCPU has no {registers_spec.GROUPS[group]} registers in use")
    return Sections(sections)


@command("set", examples=["set $rax 5", "set $rip $rip+2"])
def set_(session: Session, register: RegisterName, value: Amount) -> None:
    """Set a register of the chosen vCPU; the guest stands still meanwhile."""
    machine = session.machine
    with machine.paused():
        registers_of(machine, session.cpu)[register] = value


@command("info lapic", examples=["info lapic 1"])
def info_lapic(session: Session, cpu: OptionalCpu = None) -> Result:
    """Show the local APIC of a vCPU."""
    machine = session.machine
    with machine.paused():
        vcpu = machine.vcpus[session.cpu if cpu is None else cpu]
        apic = chips.lapic_of(vcpu.lapic, vcpu.sregs.apic_base)
    fields: dict[str, Cell] = {
        "id": apic.id,
        "enabled": apic.enabled,
        "x2APIC": apic.x2apic,
        "version": Hex(apic.version),
        "in service": _vectors(apic.in_service),
        "requested": _vectors(apic.requested),
        "timer": apic.timer,
    }
    fields |= {name: Hex(value) for name, value in apic.registers.items()}
    rows = [
        (name, Hex(entry & chips_spec.VECTOR), chips.delivery_of(entry))
        for name, entry in apic.local.items()
    ]
    return Sections(
        {
            f"Local APIC of vCPU {vcpu.index}": Fields(fields),
            "Local vectors": Table(("source", "vector", "delivery"), rows),
        }
    )


def _vectors(vectors: Sequence[int]) -> str:
    return " ".join(f"{vector:#x}" for vector in vectors) or "none"


def _group(values: Mapping[str, int]) -> Grid:
    return Grid(values, {name: find(name).bits for name in values})


def _segments(sregs: Any) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in registers_spec.SEGMENTS:
        one = getattr(sregs, name)
        kind = chips.segment_kind(one)
        rows.append((name, Hex(one.selector), Hex(one.base), Hex(one.limit), one.dpl, kind))
    for name in registers_spec.TABLES:
        table = getattr(sregs, name)
        rows.append((name, None, Hex(table.base), Hex(table.limit), None, None))
    return Table(("segment", "selector", "base", "limit", "dpl", "kind"), rows)
