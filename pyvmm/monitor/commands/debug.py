"""The debugger: breakpoints, watchpoints, single steps."""

from __future__ import annotations

from typing import Annotated

from pyvmm import breakpoints, debugger
from pyvmm.errors import UsageError
from pyvmm.inspection.names import short_name
from pyvmm.inspection.views import registers_of
from pyvmm.monitor.command import command
from pyvmm.monitor.kinds import Choice, CpuNumber, Number
from pyvmm.monitor.memory_kinds import Address, Amount
from pyvmm.monitor.result import Fields, Hex, Result, Table
from pyvmm.monitor.session import Session

OptionalCpu = Annotated[int | None, CpuNumber()]
Steps = Annotated[int, Number()]
OptionalNumber = Annotated[int | None, Number()]
Access = Annotated[str, Choice((breakpoints.WRITE, breakpoints.ACCESS))]


@command("step", examples=["step", "step 1 100"])
def step(session: Session, cpu: OptionalCpu = None, count: Steps = 1) -> Result:
    """Let a vCPU execute one instruction, or N, while the others stand still.

    The machine must be stopped. A breakpoint or a watchpoint on the way ends it. Interrupts wait
    meanwhile, where KVM can hold them back. Of a repeated string instruction it is one repetition.
    """
    cpu = session.cpu if cpu is None else cpu
    machine = session.machine
    for _ in range(count):
        machine.debugger.step(cpu, session.check)
        stop = machine.debugger.stop
        if stop is None or stop.reason != debugger.STEP:
            break
    with machine.paused():
        at = registers_of(machine, cpu).linear_pc
    return Fields({"cpu": cpu, "at": Hex(at), "in": short_name(session.symbols, at)})


@command("break", examples=["break do_sys_openat2", "break 0xffffffff81000000"])
def break_(session: Session, address: Address) -> Result:
    """Stop the machine where a vCPU is about to execute an instruction.

    The first four take a debug register each; where there are more, an int3 instruction is written
    in its place, which not every host's KVM can catch.
    """
    return _insert(session, breakpoints.BREAK, address, 1)


@command("watchpoint", examples=["watchpoint jiffies 8", "watchpoint $rsp 8 access"])
def watchpoint(
    session: Session, address: Address, length: Amount, access: Access = breakpoints.WRITE
) -> Result:
    """Stop the machine when a vCPU has written to memory, or accessed it at all.

    Each run of 1, 2, 4 or 8 aligned bytes takes one of the four debug registers.
    """
    return _insert(session, access, address, length)


def _insert(session: Session, kind: str, address: int, length: int) -> Result:
    point = session.machine.debugger.insert(kind, address, length, cpu=session.cpu)
    return Fields({"number": point.number, "at": Hex(address)})


@command("delete", examples=["delete 1", "delete"])
def delete(session: Session, number: OptionalNumber = None) -> None:
    """Take a breakpoint or watchpoint away, by its number; without one all of the monitor's."""
    points = [
        point
        for point in session.machine.debugger.points
        if (point.owner is None if number is None else point.number == number)
    ]
    if number is not None and not points:
        raise UsageError(
            f"There is no breakpoint {number}; `info breakpoints` lists those there are"
        )
    session.machine.debugger.remove(*points)


@command("info breakpoints")
def info_breakpoints(session: Session) -> Result:
    """Show the breakpoints and watchpoints, those of gdb too."""
    symbols = session.symbols
    rows = [
        (
            point.number,
            point.kind,
            Hex(point.address),
            point.length,
            "int3" if point.physical is not None else "debug register",
            "gdb" if point.owner else "monitor",
            short_name(symbols, point.address),
        )
        for point in session.machine.debugger.points
    ]
    return Table(("number", "kind", "address", "length", "by", "of", "in"), rows)
