"""What diagnosis.py needs to know, taken from a machine that stands still."""

from __future__ import annotations

import os
from contextlib import suppress

from pyvmm import layout
from pyvmm.causes import BootFacts
from pyvmm.diagnosis import Report, VcpuState, diagnose
from pyvmm.errors import KvmError
from pyvmm.inspection.log import init_started, read_log
from pyvmm.inspection.symbols import symbols_of
from pyvmm.kvm.system import module
from pyvmm.kvm.vcpu import Vcpu
from pyvmm.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyvmm.machine import Machine


def diagnose_machine(machine: Machine) -> Report:
    """Explain the machine's end, or where it is while it runs. Not on a vCPU's thread."""
    board, what = machine.board, machine.config.boot
    facts = BootFacts(
        cmdline=board.cmdline,
        initrd=bool(what and what.initrds),
        serial_ports=tuple(
            port
            for port, kind in zip(layout.COM_PORTS, machine.config.serial, strict=False)
            if kind != "none"
        ),
        memory_size=machine.config.memory_size,
        kvm=module(),
    )
    symbols = symbols_of(os.fspath(what.kernel)) if what else None
    with machine.paused():
        states = [_state_of(vcpu) for vcpu in board.vcpus]
        return diagnose(machine.end, states, board.memory, machine.console, facts, symbols)


def _state_of(vcpu: Vcpu) -> VcpuState:
    state: dict[str, Any] = {}
    for name in ("regs", "sregs", "mp_state"):
        with suppress(KvmError):  # a report with less in it is better than none
            state[name] = getattr(vcpu, name)
    return VcpuState(vcpu.index, last_exits=vcpu.last_exits(), translate=vcpu.translate, **state)


def init_time(machine: Machine) -> float | None:
    """When Linux started init, on CLOCK_MONOTONIC in seconds, as its own log in memory tells.

    The log's clock begins when the kernel finds its clock, some milliseconds after it is entered.
    """
    entered = machine.timeline.of("entered")
    with machine.paused():
        after = init_started(read_log(machine.memory))
    return None if after is None or entered is None else entered + after / 1e9
