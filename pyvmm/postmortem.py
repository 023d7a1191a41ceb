"""The report about a machine: what diagnosis.py needs, collected from it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from pyvmm import diagnosis_spec as spec
from pyvmm import layout
from pyvmm.boot.image import DEFAULT_CMDLINE
from pyvmm.causes import BootFacts
from pyvmm.diagnosis import VcpuState, diagnose
from pyvmm.errors import ImageError, KvmError
from pyvmm.symbols import Symbols

if TYPE_CHECKING:
    from pyvmm.config import Linux
    from pyvmm.ends import End
    from pyvmm.kvm.vcpu import Vcpu
    from pyvmm.machine import Machine


def report(machine: Machine, end: End | None, console: bytes) -> str:
    """Why `machine` ended as it did, or where it is if `end` is None; `console` is its last output.

    No vCPU may run meanwhile.
    """
    config = machine.config
    boot = config.boot
    kinds = zip(layout.COM_PORTS, config.serial, strict=False)
    facts = BootFacts(
        cmdline=_cmdline(boot),
        initrd=bool(boot and boot.initrds),
        serial_ports=tuple(port for port, kind in kinds if kind != "none"),
        memory_size=config.memory_size,
        kvm=next((m for m in spec.KVM_MODULES if os.path.exists(f"/sys/module/{m}")), ""),
    )
    symbols = None
    if boot is not None:
        with suppress(ImageError):  # no ELF file: the running kernel's own symbols must do
            symbols = Symbols.from_elf(boot.kernel)
    vcpus = [_state(vcpu) for vcpu in machine.board.vcpus]
    return diagnose(end, vcpus, machine.memory, console, facts, symbols).text()


def _cmdline(boot: Linux | None) -> str:
    if boot is None:
        return ""
    return DEFAULT_CMDLINE if boot.cmdline is None else boot.cmdline


def _state(vcpu: Vcpu) -> VcpuState:
    state = VcpuState(vcpu.index, last_exits=vcpu.last_exits(), translate=vcpu.translate)
    with suppress(KvmError):
        state = state._replace(mp_state=vcpu.mp_state, regs=vcpu.regs, sregs=vcpu.sregs)
    return state
