"""`pyvmm doctor`: what this host's KVM can do, by really making a vCPU and running code on it."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from pyvmm import layout
from pyvmm.board import REQUIRED
from pyvmm.boot import start
from pyvmm.boot.entry import Entry, write_tables
from pyvmm.errors import PyvmmError
from pyvmm.kvm import Kvm, exits
from pyvmm.kvm.system import module
from pyvmm.memory import GuestMemory

USEFUL = {
    "IRQFD": "interrupts without a system call per interrupt",
    "IOEVENTFD": "doorbells without an exit",
    "READONLY_MEM": "read-only memory slots",
    "TSC_DEADLINE_TIMER": "the guest's precise timer",
    "SET_GUEST_DEBUG": "gdb",
    "X86_MSR_FILTER": "MSR filters",
}
CODE, OPERAND = 0x10_0000, 0x10_1000
LOOPS = 20_000
# 64-bit code: `mov ecx, LOOPS; 1: dec ecx; jnz 1b; hlt`, and `lock cmpxchg16b [OPERAND]; hlt`.
COUNT = b"\xb9" + LOOPS.to_bytes(4, "little") + b"\xff\xc9\x75\xfc\xf4"
CMPXCHG16B = b"\xbf" + OPERAND.to_bytes(4, "little") + b"\xf0\x48\x0f\xc7\x0f\xf4"
SLOW = 20_000_000  # instructions a second; an interpreter reaches about a million
SOFTWARE_KVM = "kvm_pvm"


class Finding(NamedTuple):
    """One line of the report; `fatal` if no Linux guest can run because of it."""

    what: str
    detail: str
    good: bool = True
    fatal: bool = False

    def __str__(self) -> str:
        mark = "ok  " if self.good else "FAIL" if self.fatal else "lack"
        return f"{mark}  {self.what}: {self.detail}"


def examine() -> list[Finding]:
    """All findings, the first fatal one last, since what comes after it cannot be tried."""
    findings = [_processor()]
    try:
        kvm = Kvm()
    except PyvmmError as error:
        return [*findings, Finding("/dev/kvm", _without_device(str(error)), False, True)]
    with kvm:
        findings.append(Finding("/dev/kvm", f"can be opened; {_flavour()}"))
        for name in REQUIRED:
            if not kvm.capability(name):
                cure = "this kernel is too old or restricted; it must be Linux 4.17 or later"
                return [*findings, Finding(f"KVM_CAP_{name}", cure, False, True)]
        for name, what in USEFUL.items():
            have = bool(kvm.capability(name))
            findings.append(Finding(f"KVM_CAP_{name}", what, have))
        limit = kvm.capability("MAX_VCPUS")
        advised = kvm.capability("NR_VCPUS")
        findings.append(Finding("vCPUs", f"at most {limit}, {advised} recommended"))
        try:
            findings += _try_code(kvm)
        except PyvmmError as error:
            findings.append(Finding("a test guest", str(error), False, True))
    return findings


def _processor() -> Finding:
    with open("/proc/cpuinfo") as file:
        flags = next((line for line in file if line.startswith("flags")), "").split()
    for flag, name in (("vmx", "Intel VT-x"), ("svm", "AMD-V")):
        if flag in flags:
            return Finding("processor", f"has {name}")
    inside = (
        "this is a virtual machine without nested virtualization"
        if "hypervisor" in flags
        else "it may be off in the firmware"
    )
    return Finding("processor", f"shows neither Intel VT-x nor AMD-V: {inside}", False)


def _without_device(reason: str) -> str:
    if os.path.exists("/dev/kvm"):
        return reason
    with open("/proc/cpuinfo") as file:
        flags = file.read()
    if " hypervisor" in flags and " vmx" not in flags and " svm" not in flags:
        return (
            f"{reason}; in a virtual machine, its host must allow it: "
            "`modprobe kvm_intel nested=1` there, and a CPU model with vmx or svm"
        )
    return reason


def _flavour() -> str:
    name = module()
    return f"{name}, a software KVM" if name == SOFTWARE_KVM else name or "built into the kernel"


def _try_code(kvm: Kvm) -> list[Finding]:
    """Run privileged code and measure it."""
    made, seconds = _run_code(kvm, COUNT)
    speed = 2 * LOOPS / seconds
    if not isinstance(made, exits.Hlt):
        return [Finding("a test guest", f"ended with {made}", False, True)]
    findings = [Finding("a test guest", "ran")]
    slow = speed < SLOW and module() == SOFTWARE_KVM
    findings.append(
        Finding(
            "kernel code",
            f"runs at {speed / 1e6:.1f} million instructions a second"
            + (": it is interpreted, too slow for Linux" if slow else ""),
            not slow,
        )
    )
    result, _ = _run_code(kvm, CMPXCHG16B)
    if isinstance(result, exits.Hlt):
        findings.append(Finding("cmpxchg16b in kernel code", "works"))
    else:
        findings.append(
            Finding(
                "cmpxchg16b in kernel code",
                "this KVM cannot emulate it, so Linux cannot run; small guests can. The cure is a "
                "host with hardware virtualization, or a nested one (docs/hosts.md)",
                False,
                True,
            )
        )
    return findings


def _run_code(kvm: Kvm, code: bytes) -> tuple[exits.Exit, float]:
    """How the code ended, and after how many seconds."""
    with kvm.create_vm() as vm:
        memory = GuestMemory(2 * layout.MIB)
        try:
            vm.set_memory(0, 0, memory.regions[0].view)
            vm.set_identity_map_address(layout.IDENTITY_MAP)
            vm.set_tss_address(layout.TSS)
            entry = Entry(rip=CODE, long_mode=True)
            write_tables(memory, entry)
            memory.write(CODE, code)
            with vm.create_vcpu(0) as vcpu:
                vcpu.set_cpuid(kvm.supported_cpuid())
                start.enter(vcpu, entry)
                began = time.monotonic()
                while isinstance(result := vcpu.run(), exits.Interrupted):
                    pass
                return result, time.monotonic() - began
        finally:
            memory.close()
