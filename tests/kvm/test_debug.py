"""Guest debug: single steps and hardware breakpoints."""

from __future__ import annotations

from conftest import CODE, Bare

from pyvmm.kvm import exits
from pyvmm.native import lib

STEP = lib.KVM_GUESTDBG_ENABLE | lib.KVM_GUESTDBG_SINGLESTEP
HARDWARE = lib.KVM_GUESTDBG_ENABLE | lib.KVM_GUESTDBG_USE_HW_BP
DR7_EXECUTE_0 = 0x2 | 0x400  # SDM 3B §17.2.4: G0, and a bit that is always set


def test_a_single_step_is_one_instruction(bare: Bare) -> None:
    bare.load("90 90 90 f4")
    bare.vcpu.set_guest_debug(STEP)
    for at in (CODE + 1, CODE + 2):
        stopped = bare.run()
        assert isinstance(stopped, exits.Debug)
        assert (stopped.exception, stopped.pc) == (1, at)
    bare.vcpu.set_guest_debug(0)
    assert bare.run() == exits.Hlt()


def test_a_hardware_breakpoint_stops_before_its_instruction(bare: Bare) -> None:
    bare.load("90 90 40 90 f4")  # the third instruction is inc ax
    bare.vcpu.set_guest_debug(HARDWARE, [CODE + 2, 0, 0, 0, 0, 0, 0, DR7_EXECUTE_0])
    stopped = bare.run()
    assert isinstance(stopped, exits.Debug)
    assert stopped.pc == CODE + 2
    assert stopped.dr6 & 1
    assert bare.vcpu.regs.rax & 0xFFFF == 0
    bare.vcpu.set_guest_debug(0)
    assert bare.run() == exits.Hlt()
    assert bare.vcpu.regs.rax & 0xFFFF == 1
