"""Where a debugger stops a guest: breakpoints and watchpoints, and what holds them.

A breakpoint takes a debug register, or int3 where all are taken.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from mmap import mmap

from pyvmm import debug_spec as spec
from pyvmm.kvm import Kvm, exits
from pyvmm.layout import PAGE
from pyvmm.native import lib

# Kinds of points.
BREAK, HARDWARE_BREAK, WRITE, ACCESS = "break", "hardware break", "write", "access"
_ACCESS_BITS = {WRITE: spec.WRITE, ACCESS: spec.ACCESS}

PROBE = 0x500  # of the code that int3_can_be_caught runs
BP_VECTOR_AT = (
    4 * spec.BP_VECTOR
)  # of the real-mode vector, an offset and a segment: SDM 3A §20.1.4


class Point:
    """A breakpoint, or a watchpoint of `length` bytes, at a linear address; `owner` wanted it."""

    def __init__(self, kind: str, address: int, length: int, cpu: int, owner: object) -> None:
        self.kind = kind
        self.address = address
        self.length = length
        self.cpu = cpu  # whose page tables say where an int3 goes
        self.owner = owner
        self.number = 0
        self.physical: int | None = None  # where its int3 is, if it has one


def execute(address: int) -> tuple[int, int, int]:
    """What a debug register holds for a breakpoint: the address, the access, the length."""
    return address, spec.EXECUTE, 1


def pieces_of(point: Point) -> list[tuple[int, int, int]]:
    """What its debug registers hold: aligned addresses, accesses, lengths."""
    if point.kind in (BREAK, HARDWARE_BREAK):
        return [execute(point.address)]
    pieces: list[tuple[int, int, int]] = []
    at, end = point.address, point.address + point.length
    while at < end and len(pieces) <= spec.REGISTERS:
        length = max(size for size in spec.LENGTHS if at % size == 0 and at + size <= end)
        pieces.append((at, _ACCESS_BITS[point.kind], length))
        at += length
    return pieces


@cache
def int3_can_be_caught() -> bool:
    """Try it, in real mode in a machine of one page: not every KVM reports it. Raises KvmError."""
    with ExitStack() as stack:
        vm = stack.enter_context(stack.enter_context(Kvm()).create_vm())
        memory = stack.enter_context(mmap(-1, PAGE))
        view = stack.enter_context(memoryview(memory))
        vm.set_memory(0, 0, view)
        vcpu = stack.enter_context(vm.create_vcpu(0))
        view[PROBE : PROBE + 2] = spec.INT3 + spec.HLT
        view[BP_VECTOR_AT : BP_VECTOR_AT + 2] = (PROBE + 1).to_bytes(2, "little")
        sregs, regs = vcpu.sregs, vcpu.regs
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.sregs = sregs
        regs.rip, regs.rsp = PROBE, PAGE
        vcpu.regs = regs
        vcpu.set_guest_debug(lib.KVM_GUESTDBG_ENABLE | lib.KVM_GUESTDBG_USE_SW_BP)
        return isinstance(vcpu.run(), exits.Debug)
