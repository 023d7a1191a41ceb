"""What one sees of a machine that stands still: a vCPU's registers and its virtual memory.

Call these inside `machine.paused()`; they raise UsageError while it runs.
"""

from __future__ import annotations

from pyvmm.inspection.paging import VirtualMemory
from pyvmm.inspection.registers import Registers
from pyvmm.kvm.cpuid import physical_bits
from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.machine import Machine

XSAVE_SIZE_MIN = 4096  # KVM api.rst 4.42: what a KVM without KVM_CAP_XSAVE2 has


def registers_of(machine: Machine, cpu: int) -> Registers:
    """The registers of vCPU number `cpu`."""
    size = max(machine.board.kvm.capability("XSAVE2"), XSAVE_SIZE_MIN)
    return Registers(machine.vcpus[cpu], size)


def virtual_memory(machine: Machine, cpu: int) -> VirtualMemory:
    """Memory by virtual address, as vCPU number `cpu` has it now."""
    bits = physical_bits(machine.board.supported_cpuid)
    return VirtualMemory(machine.memory, machine.vcpus[cpu].sregs, bits)
