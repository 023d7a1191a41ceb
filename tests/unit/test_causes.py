from __future__ import annotations

from types import SimpleNamespace as Fields

import pytest

from pyvmm.causes import BootFacts, Evidence, likely_causes
from pyvmm.ends import EmulationFailed, EntryFailed, GuestPanic, TripleFault

COM1, COM2 = 0x3F8, 0x2F8
CONSOLE = "console=ttyS0"
PANIC = GuestPanic("Kernel panic - not syncing", "console")
DISK = CONSOLE + " root=/dev/vda"
STARTED = "Run /init as init process"


def evidence(end=None, cmdline=CONSOLE, said="", *, log="", **more):
    fields = {"initrd": False, "serial_ports": (COM1,), "memory_size": 512 << 20, "kvm": "kvm_amd"}
    facts = BootFacts(cmdline, **{key: more.pop(key, value) for key, value in fields.items()})
    more.setdefault("silent", not said)
    return Evidence(end, facts, said + "\n" + log, log, **more)


def vcpu(mp_state=0, rflags=2, idt_limit=0xFFF, idt_base=0xFE00, cr0=0x11, rip=0xFFF0, cs_base=0):
    return (
        mp_state,
        Fields(rflags=rflags, rip=rip),
        Fields(idt=Fields(limit=idt_limit, base=idt_base), cr0=cr0, cs=Fields(base=cs_base)),
    )


def whys(e):
    return " / ".join(cause.why for cause in likely_causes(e))


def cures(e):
    return " / ".join(cause.cure for cause in likely_causes(e))


VFS = "VFS: Unable to mount root fs on unknown-block"
CASES = {
    "an instruction unknown to a software KVM": (
        evidence(EmulationFailed(0, 1, b""), said="x", kvm="kvm_pvm"),
        "software KVM",
        "pyvmm doctor",
    ),
    "an instruction unknown to KVM": (
        evidence(EmulationFailed(0, 1, b""), said="x"),
        "emulator does not know",
        "registers",
    ),
    "a software KVM that is slow": (
        evidence(said="x", kvm="kvm_pvm"),
        "seems to hang",
        "hardware virtualization",
    ),
    "a wild jump": (evidence(TripleFault(0), said="x", lost=True), "wild pointer", "inspect"),
    "a triple fault on AMD, after which KVM resets the vCPU": (
        evidence(
            TripleFault(0),
            said="x",
            lost=True,
            registers=[vcpu(idt_limit=0xFFFF, idt_base=0, cr0=0x10, cs_base=0xFFFF0000)],
        ),
        "no longer the guest's",
        "last exits",
    ),
    "an invalid state on Intel": (
        evidence(EntryFailed(0, 0x80000021), said="x"),
        "inconsistent",
        "CR0",
    ),
    "reboot=t": (
        evidence(TripleFault(0), CONSOLE + " reboot=w,t", "x"),
        "by triple fault",
        "Remove reboot=t",
    ),
    "a reboot without another way": (
        evidence(TripleFault(0), said="[9.1] reboot: Restarting system"),
        "no other way",
        "ACPI",
    ),
    "an exception before the handlers are there": (
        evidence(TripleFault(0), said="x", registers=[vcpu(idt_limit=0)]),
        "exception handlers",
        "instruction",
    ),
    "an exception with the IDT of the reset": (
        evidence(TripleFault(0), said="x", registers=[vcpu(idt_limit=0xFFFF, idt_base=0)]),
        "exception handlers",
        "instruction",
    ),
    "a halt for good": (
        evidence(said="x", registers=[vcpu(3), vcpu(1, 0x200), (None, None, None)]),
        "interrupts off",
        "Quit",
    ),
    "no memory": (
        evidence(PANIC, said="System is deadlocked on memory"),
        "too small",
        "--memory 1024M",
    ),
    "no memory for the initrd": (
        evidence(PANIC, said="Initramfs unpacking failed: write error"),
        "too small",
        "--memory",
    ),
    "an initrd that is broken": (
        evidence(said="Initramfs unpacking failed: junk within compressed archive"),
        "junk within",
        "whole",
    ),
    "neither root nor initrd": (
        evidence(PANIC, said=VFS + "(0,0)"),
        "neither root= nor an initrd",
        "--initrd",
    ),
    "a root disk without driver": (
        evidence(PANIC, DISK, VFS + "(0,0)"),
        "no driver for it built in",
        "--initrd",
    ),
    "a root disk that is missing for an initrd": (
        evidence(None, DISK, "ALERT!  /dev/vda does not exist.", initrd=True),
        "nor the initrd has a driver",
        "Attach",
    ),
    "a root disk with an unknown file system": (
        evidence(PANIC, DISK, VFS + "(254,0)"),
        "cannot read its file system",
        "partition",
    ),
    "no init": (
        evidence(PANIC, said="Kernel panic - not syncing: No working init found."),
        "no program to start",
        "/init",
    ),
    "an init that exits": (
        evidence(PANIC, said="Attempted to kill init! exitcode=0x00000100"),
        "exited with status 1",
        "shell",
    ),
    "an init that is killed": (
        evidence(PANIC, said="Attempted to kill init! exitcode=0x0000000b"),
        "killed by signal 11",
        "last",
    ),
    "no console=": (evidence(cmdline="quiet", log="x"), "has no console=", "console=ttyS0"),
    "the wrong console=": (
        evidence(cmdline="console=tty0 console=ttyS1,115200", log="x"),
        "has console=tty0, console=ttyS1, but the serial port in use is ttyS0",
        "--append console=ttyS0",
    ),
    "only COM2 in use": (
        evidence(cmdline=CONSOLE, log="x", serial_ports=(COM2,)),
        "in use is ttyS1",
        "console=ttyS1",
    ),
    "no serial port at all": (evidence(serial_ports=()), "No serial port", "--serial stdio"),
    "programs write elsewhere": (
        evidence(cmdline=CONSOLE + " console=tty0", said="x", log=STARTED),
        "names tty0",
        "console=ttyS0 last",
    ),
    "a kernel without serial console": (
        evidence(log="Linux version\n" + STARTED),
        "no driver for its serial console",
        "CONFIG_SERIAL_8250_CONSOLE",
    ),
    "death before the console works": (
        evidence(TripleFault(0), log="Linux version"),
        "before its console worked",
        "earlyprintk=serial,ttyS0",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_likely_cause_and_its_cure_are_named(case):
    e, why, cure = CASES[case]
    assert why in whys(e)
    assert cure in cures(e)


@pytest.mark.parametrize("case", CASES)
def test_no_more_than_two_causes_are_named(case):
    assert len(likely_causes(CASES[case][0])) in (1, 2)


def test_a_jump_to_nowhere_is_not_blamed_on_the_emulator():
    e = evidence(EmulationFailed(0, 1, b""), said="x", lost=True, kvm="kvm_pvm")
    assert "wild pointer" in whys(e)
    assert len(likely_causes(e)) == 1


def test_a_vcpu_that_kvm_has_reset_did_not_jump_to_nowhere():
    e, _, _ = CASES["a triple fault on AMD, after which KVM resets the vCPU"]
    assert len(likely_causes(e)) == 1


@pytest.mark.parametrize(
    "e",
    [
        evidence(said="login: "),
        evidence(said="login: ", log=STARTED),
        evidence(log="printk: console [ttyS0] enabled\n" + STARTED),
        evidence(cmdline=CONSOLE + ",115200n8 quiet", said="x", log=STARTED),
        evidence(cmdline="", serial_ports=()),
        evidence(cmdline="", said="a tiny guest", kvm="kvm_pvm"),
        evidence(TripleFault(0), cmdline="", said="x"),
        evidence(EmulationFailed(0, 3, b""), said="x"),
        evidence(EntryFailed(0, 7), said="x"),
        evidence(TripleFault(0), CONSOLE + " earlyprintk=serial,ttyS0"),
        evidence(said="x", registers=[vcpu(3, 0x202), vcpu(3)]),
        evidence(said="x", registers=[vcpu(0)]),
        evidence(TripleFault(0), said="x", registers=[(None, None, None), vcpu()]),
        evidence(TripleFault(0), said="x", registers=[vcpu(idt_limit=0x3FF, idt_base=0, cr0=0)]),
    ],
)
def test_a_guest_of_which_nothing_known_is_wrong_gets_no_cause(e):
    assert whys(e) == ""
