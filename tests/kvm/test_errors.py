"""What a failing ioctl says, and that nothing works on a closed handle."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import pytest
from conftest import Bare

from pyvmm.errors import HostError, KvmError, UsageError
from pyvmm.kvm import Kvm, Vcpu, Vm, system
from pyvmm.kvm.vm import MsiRoute
from pyvmm.native import ffi

SYSTEM: dict[str, Callable[[Kvm], object]] = {
    "capability": lambda kvm: kvm.capability("IRQCHIP"),
    "supported_cpuid": lambda kvm: kvm.supported_cpuid(),
    "msr_indices": lambda kvm: kvm.msr_indices(),
    "feature_msr_indices": lambda kvm: kvm.feature_msr_indices(),
    "vcpu_mmap_size": lambda kvm: kvm.vcpu_mmap_size,
    "create_vm": lambda kvm: kvm.create_vm(),
}
VM: dict[str, Callable[[Vm], object]] = {
    "create_vcpu": lambda vm: vm.create_vcpu(1),
    "enable_capability": lambda vm: vm.enable_capability("SPLIT_IRQCHIP", 24),
    "set_memory": lambda vm: vm.set_memory(0, 0, None),
    "dirty_log": lambda vm: vm.dirty_log(0, 4096),
    "set_tss_address": lambda vm: vm.set_tss_address(0xFFFB_D000),
    "set_identity_map_address": lambda vm: vm.set_identity_map_address(0xFFFB_C000),
    "create_irqchip": lambda vm: vm.create_irqchip(),
    "create_pit": lambda vm: vm.create_pit(),
    "get_irqchip": lambda vm: vm.get_irqchip("IOAPIC"),
    "get_pit": lambda vm: vm.get_pit(),
    "irq_line": lambda vm: vm.irq_line(4, True),
    "irqfd": lambda vm: vm.irqfd(0, 4),
    "ioeventfd": lambda vm: vm.ioeventfd(0, 0x300, 1, pio=True),
    "set_gsi_routing": lambda vm: vm.set_gsi_routing([MsiRoute(24, 0xFEE00000, 0x40)]),
    "signal_msi": lambda vm: vm.signal_msi(0xFEE00000, 0x40),
    "clock": lambda vm: vm.clock,
    "set_irqchip": lambda vm: vm.set_irqchip(ffi.new("struct kvm_irqchip *")),
    "set_pit": lambda vm: vm.set_pit(ffi.new("struct kvm_pit_state2 *")),
    "set_clock": lambda vm: setattr(vm, "clock", 0),
}
STRUCTURES = {
    "regs": "struct kvm_regs *",
    "sregs": "struct kvm_sregs *",
    "fpu": "struct kvm_fpu *",
    "xcrs": "struct kvm_xcrs *",
    "lapic": "struct kvm_lapic_state *",
    "events": "struct kvm_vcpu_events *",
    "debugregs": "struct kvm_debugregs *",
}
VCPU: dict[str, Callable[[Vcpu], object]] = {
    **{name: attrgetter(name) for name in (*STRUCTURES, "mp_state", "tsc_khz")},
    "set_mp_state": lambda vcpu: setattr(vcpu, "mp_state", 0),
    "set_tsc_khz": lambda vcpu: setattr(vcpu, "tsc_khz", 1000000),
    "get_xsave": lambda vcpu: vcpu.get_xsave(4096),
    "set_xsave": lambda vcpu: vcpu.set_xsave(bytes(4096)),
    "get_msrs": lambda vcpu: vcpu.get_msrs([0x10]),
    "set_msrs": lambda vcpu: vcpu.set_msrs({0x10: 0}),
    "set_cpuid": lambda vcpu: vcpu.set_cpuid([]),
    "set_guest_debug": lambda vcpu: vcpu.set_guest_debug(0),
    "translate": lambda vcpu: vcpu.translate(0),
    "nmi": lambda vcpu: vcpu.nmi(),
    "kvmclock_paused": lambda vcpu: vcpu.kvmclock_paused(),
}
for name, ctype in STRUCTURES.items():
    VCPU[f"set_{name}"] = lambda vcpu, name=name, ctype=ctype: setattr(vcpu, name, ffi.new(ctype))
# What needs no descriptor, and so may be called on a closed handle.
HARMLESS = {"close", "capabilities", "require", "run", "describe", "answer", "kick"}
HARMLESS |= {"exit_counts", "answered_counts", "last_exits", "enter_thread", "leave_thread"}
HARMLESS |= {"places", "trace"}


def closed_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(KvmError) as caught:
        call()
    assert caught.value.errno == errno.EBADF
    assert "KVM_" in str(caught.value)


@pytest.mark.parametrize("name", SYSTEM)
def test_a_closed_kvm_gives_ebadf(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_supported_cpuid", ())  # it is asked for once a process
    kvm = Kvm()
    kvm.close()
    closed_is_refused(lambda: SYSTEM[name](kvm))


@pytest.mark.parametrize("name", VM)
def test_a_closed_vm_gives_ebadf(kvm: Kvm, name: str) -> None:
    vm = kvm.create_vm()
    vm.close()
    closed_is_refused(lambda: VM[name](vm))


@pytest.mark.parametrize("name", VCPU)
def test_a_closed_vcpu_gives_ebadf(bare: Bare, name: str) -> None:
    bare.vcpu.close()
    closed_is_refused(lambda: VCPU[name](bare.vcpu))


def test_running_a_closed_vcpu_gives_ebadf(bare: Bare) -> None:
    bare.vcpu.close()
    closed_is_refused(bare.vcpu.run)


def test_a_closed_vcpu_takes_a_kick_and_a_second_close(bare: Bare) -> None:
    bare.vcpu.close()
    bare.vcpu.kick()
    bare.vcpu.close()


@pytest.mark.parametrize(("cls", "table"), [(Kvm, SYSTEM), (Vm, VM), (Vcpu, VCPU)])
def test_every_wrapper_is_in_these_tables(cls: type, table: dict[str, object]) -> None:
    public = {name for name in vars(cls) if not name.startswith("_")}
    assert public - HARMLESS - set(table) == set()


def test_a_failing_ioctl_says_its_name_its_errno_and_what_it_was_asked(bare: Bare) -> None:
    with pytest.raises(KvmError, match=r"KVM_CREATE_VCPU \(vCPU 0\) failed: File exists \[EEXIST"):
        bare.vm.create_vcpu(0)


def test_a_refused_msr_is_named(bare: Bare) -> None:
    with pytest.raises(KvmError, match=r"KVM_SET_MSRS .*MSR 0x12345678"):
        bare.vcpu.set_msrs({0x12345678: 1})


def test_an_overlapping_slot_is_named(bare: Bare) -> None:
    with memoryview(bytearray(4096)) as view, pytest.raises(KvmError, match="slot 1"):
        bare.vm.set_memory(1, 0, view)


def test_a_capability_that_is_not_there_is_named(kvm: Kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "capability", lambda name: 0)
    with pytest.raises(HostError, match="no KVM_CAP_IRQCHIP"):
        kvm.require("IRQCHIP")


def test_an_unknown_capability_is_the_callers_fault(kvm: Kvm) -> None:
    with pytest.raises(UsageError, match="NONESUCH"):
        kvm.capability("NONESUCH")


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/nonexistent", "is not there.*modprobe"), (os.devnull, "is not the device of KVM")],
)
def test_what_is_not_kvm_is_refused_in_one_line(path: str, reason: str) -> None:
    with pytest.raises(HostError, match=reason) as caught:
        Kvm(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_opened_is_refused_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(HostError, match="usermod -aG kvm"):
        Kvm(str(tmp_path / "kvm"))
