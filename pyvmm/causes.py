"""Why a guest did not boot: a table of rules over what is known about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pyvmm import diagnosis_spec as spec
from pyvmm import layout
from pyvmm.ends import EmulationFailed, End, EntryFailed, TripleFault


class BootFacts(NamedTuple):
    """What the guest was given. `serial_ports` are the I/O ports of those connected to something,
    `memory_size` is in bytes, `kvm` the module that runs it: kvm_intel, kvm_amd, kvm_pvm."""

    cmdline: str = ""
    initrd: bool = False
    serial_ports: tuple[int, ...] = ()
    memory_size: int = 0
    kvm: str = ""


class Evidence(NamedTuple):
    """What the rules look at. `said` is all that the guest wrote, on a console or in its log; `log`
    its own log alone; `silent` that no serial port ever sent a line; `registers` those of the
    vCPUs in question: (mp_state, regs, sregs), each of them None if unknown; `lost` that one of
    them executes where no RAM is mapped."""

    end: End | None
    facts: BootFacts
    said: str
    log: str
    silent: bool
    registers: Sequence[tuple[int | None, Any, Any]] = ()
    lost: bool = False

    def parameters(self, name: str) -> list[str]:
        """The values of every `name=` on the kernel's command line."""
        words = self.facts.cmdline.split()
        return [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]


class Cause(NamedTuple):
    """A likely cause, and what to do; a sentence each."""

    why: str
    cure: str


Rule = Callable[[Evidence], Cause | None]


def likely_causes(evidence: Evidence) -> list[Cause]:
    """The causes that fit, most telling first. Raises nothing."""
    return [cause for rule in RULES if (cause := rule(evidence)) is not None]


# ---- KVM or the CPU gave up ----


def _not_emulated(e: Evidence) -> Cause | None:
    if not isinstance(e.end, EmulationFailed) or e.end.suberror != spec.SUBERROR_EMULATION:
        return None
    if e.lost:
        return None
    if e.facts.kvm == spec.SOFTWARE_KVM:
        return Cause(
            "This host has a software KVM (kvm_pvm): it interprets kernel code, and lacks some "
            "instructions that a whole operating system uses",
            "Run `pyvmm doctor` to see what this KVM can run; use a host with hardware "
            "virtualization for this guest",
        )
    return Cause(
        "KVM emulates an instruction that accesses memory where there is no RAM, and its emulator "
        "does not know this one",
        "Look at the instruction and the registers below for the address that it meant",
    )


def _interpreted(e: Evidence) -> Cause | None:
    if e.end is not None or e.facts.kvm != spec.SOFTWARE_KVM or not (e.facts.cmdline or e.log):
        return None
    return Cause(
        "This host has a software KVM (kvm_pvm), which interprets kernel code: a whole operating "
        "system starts so slowly that it seems to hang",
        "Use a host with hardware virtualization for this guest",
    )


def _left_ram(e: Evidence) -> Cause | None:
    if not e.lost or _was_reset(e):
        return None
    return Cause(
        "The guest executes at an address where it has no memory: it jumped through a wild "
        "pointer, or its page tables are wrong",
        "Check with `pyvmm inspect` that the image is whole and for this machine; give the guest "
        "more --memory if the address lies above it",
    )


def _reset_by_kvm(e: Evidence) -> Cause | None:
    if not _was_reset(e):
        return None
    return Cause(
        "The guest's exceptions failed, and theirs; KVM has reset the vCPU since, as it does on "
        "AMD processors: the registers below are no longer the guest's",
        "Look at the vCPU's last exits below for where it was; `--trace 'exit.*'` shows all that "
        "led there",
    )


def _was_reset(e: Evidence) -> bool:
    """Whether a vCPU would, after a triple fault, execute its first instruction."""
    return isinstance(e.end, TripleFault) and any(
        regs is not None
        and sregs is not None
        and (regs.rip, sregs.cs.base) == (spec.RESET_RIP, spec.RESET_CS_BASE)
        for _, regs, sregs in e.registers
    )


def _invalid_state(e: Evidence) -> Cause | None:
    if not isinstance(e.end, EntryFailed) or e.end.reason not in spec.INVALID_GUEST_STATE:
        return None
    return Cause(
        "The CPU found the guest's registers inconsistent, as a hypervisor or a gdb user can set "
        "them, or as a guest does that changes its mode in the wrong order",
        "Compare CR0, CR4, EFER and the segments below with Intel SDM 3C §27.3.1",
    )


def _triple_fault_reboot(e: Evidence) -> Cause | None:
    if not isinstance(e.end, TripleFault):
        return None
    modes = [mode for value in e.parameters("reboot") for mode in value.split(",")]
    if any(mode.startswith("t") for mode in modes):
        return Cause(
            "The guest may only have rebooted: reboot=t makes Linux reboot by triple fault",
            "Remove reboot=t, so that Linux resets by ACPI or the keyboard controller",
        )
    if "reboot: Restarting system" in e.said:
        return Cause(
            "The guest rebooted: Linux does it by triple fault when it knows no other way",
            "Use a kernel with ACPI, and without reboot= and acpi=off on the command line",
        )
    return None


def _no_idt(e: Evidence) -> Cause | None:
    if not isinstance(e.end, TripleFault):
        return None
    if not any(sregs is not None and _without_handlers(sregs) for _, _, sregs in e.registers):
        return None
    return Cause(
        "The guest had not set up its exception handlers yet, so that its first exception was "
        "fatal; CR2 has the address if that was a page fault",
        "Look at the instruction below; before that point a guest must not touch unmapped memory "
        "or use what CPUID does not offer",
    )


def _without_handlers(sregs: Any) -> bool:
    """Whether the IDT is still as after reset (SDM 3A table 9-1), or too small for exceptions."""
    too_small = sregs.idt.limit < spec.EXCEPTION_VECTORS * spec.GATE_SIZE - 1
    return too_small or bool(sregs.cr0 & spec.CR0_PE and not sregs.idt.base)


def _halted_for_good(e: Evidence) -> Cause | None:
    running = [
        (state, regs)
        for state, regs, _ in e.registers
        if regs is not None and state not in spec.NOT_STARTED
    ]
    if e.end is not None or not running:
        return None
    if any(state != spec.MP_HALTED or regs.rflags & spec.RFLAGS_IF for state, regs in running):
        return None
    return Cause(
        "Every vCPU is halted with interrupts off: nothing can wake the guest",
        "It stopped itself; what it said last tells why. Quit it, or press reset",
    )


# ---- what Linux says ----


def _no_memory(e: Evidence) -> Cause | None:
    told = re.search(
        r"System is deadlocked on memory|Out of memory: |Out of memory and no killable processes"
        r"|Initramfs unpacking failed: write error|Cannot find place for new RAMDISK",
        e.said,
    )
    if told is None:
        return None
    return Cause(
        f'The guest\'s memory is too small: "{told[0].strip()}"',
        f"Give it more, for example --memory {max(e.facts.memory_size >> 19, 256)}M",
    )


def _bad_initrd(e: Evidence) -> Cause | None:
    told = re.search(r"Initramfs unpacking failed: (?!write error)[^\n]*", e.said)
    if told is None:
        return None
    return Cause(
        f'The kernel cannot unpack its initrd: "{told[0].strip()}"',
        "Check that the file is whole, and with `pyvmm inspect` that the kernel knows its "
        "compression",
    )


_NO_ROOT = re.compile(
    r"VFS: Unable to mount root fs|VFS: Cannot open root device|Unable to mount root"
    r"|Gave up waiting for root|Waiting for root device|dracut-initqueue.*timeout"
    r"|ALERT! .* does not exist"
)
_UNKNOWN_BLOCK = re.compile(r"unknown-block\((\d+),\d+\)")


def _no_root(e: Evidence) -> Cause | None:
    if not _NO_ROOT.search(e.said):
        return None
    root = (e.parameters("root") or [""])[-1]
    block = _UNKNOWN_BLOCK.search(e.said)
    if not root and not e.facts.initrd:
        return Cause(
            "The kernel has no root file system: there is neither root= nor an initrd",
            "Give an initrd that holds the root file system, or its driver, with --initrd FILE",
        )
    if block is not None and int(block[1]):
        return Cause(
            f"The root disk {root} is there, but the kernel cannot read its file system",
            "Name the right partition in root=, and use a kernel with that file system built in, "
            "or the distribution's initrd with --initrd FILE",
        )
    if e.facts.initrd:
        return Cause(
            f"There is no disk {root or 'for the root file system'}, or neither the kernel nor the "
            "initrd has a driver for it",
            "Attach the disk, correct root=, or use an initrd that has virtio_pci and virtio_blk",
        )
    return Cause(
        f"There is no disk {root}, or the kernel has no driver for it built in",
        "Attach the disk, and give the distribution's initrd, which has the drivers, with "
        "--initrd FILE; `pyvmm inspect` tells what the kernel has built in",
    )


def _no_init(e: Evidence) -> Cause | None:
    told = re.search(
        r"No working init found|Requested init \S+ failed \(error -?\d+\)"
        r"|Failed to execute \S+ \(error -?\d+\)",
        e.said,
    )
    if told is None or "Attempted to kill init" in e.said:
        return None
    return Cause(
        f'The kernel found no program to start: "{told[0]}"',
        "The initrd must have an executable /init (or the one that rdinit= names), the root disk "
        "/sbin/init, for this kernel's CPU and with its interpreter and libraries",
    )


def _init_died(e: Evidence) -> Cause | None:
    told = re.search(r"Attempted to kill init! exitcode=0x([0-9a-f]{8})", e.said)
    if told is None:
        return None
    code = int(told[1], 16)
    signal = code & 0x7F  # as wait(2) gives it
    how = f"was killed by signal {signal}" if signal else f"exited with status {code >> 8 & 0xFF}"
    return Cause(
        f"The guest's first process {how}; it must never end",
        "Look at what it said last; a shell as init ends with its input, so keep it open",
    )


# ---- nothing to see ----

_STARTED_INIT = re.compile(r"^Run \S+ as init process", re.MULTILINE)
_CONSOLE_ENABLED = re.compile(r"console \[ttyS\d+\] enabled")


def _consoles(e: Evidence) -> list[str]:
    return [value.partition(",")[0] for value in e.parameters("console")]


def _ttys(e: Evidence) -> list[str]:
    """The guest's names of the serial ports in use."""
    ports = layout.COM_PORTS
    return [f"ttyS{ports.index(port)}" for port in e.facts.serial_ports if port in ports]


def _no_console(e: Evidence) -> Cause | None:
    used = _ttys(e)
    if not e.silent or not (e.facts.cmdline or e.log):
        return None
    if not used:
        return Cause(
            "No serial port is connected to anything, so that nothing can be seen",
            "Use --serial stdio and --append console=ttyS0",
        )
    consoles = _consoles(e)
    if set(used) & set(consoles):
        return None
    have = f"console={', console='.join(consoles)}" if consoles else "no console="
    return Cause(
        f"The command line has {have}, but the serial port in use is {used[0]}",
        f"Add console={used[0]} with --append console={used[0]}",
    )


def _console_elsewhere(e: Evidence) -> Cause | None:
    consoles, used = _consoles(e), _ttys(e)
    if e.end is not None or not _STARTED_INIT.search(e.log):
        return None
    if consoles[-1:] == used[:1] or not set(consoles) & set(used):
        return None
    return Cause(
        f"The last console= names {consoles[-1]}: that is where Linux lets its programs write",
        f"Put console={used[0]} last",
    )


def _no_serial_driver(e: Evidence) -> Cause | None:
    if not e.silent or not _STARTED_INIT.search(e.log) or not set(_consoles(e)) & set(_ttys(e)):
        return None
    if _CONSOLE_ENABLED.search(e.log):
        return None
    return Cause(
        "The kernel runs, but has no driver for its serial console",
        "Use a kernel with CONFIG_SERIAL_8250_CONSOLE=y; `pyvmm inspect` tells what it has",
    )


def _before_console(e: Evidence) -> Cause | None:
    if not e.silent or not set(_consoles(e)) & set(_ttys(e)) or _STARTED_INIT.search(e.log):
        return None
    if re.search(r"\bearly(printk|con)\b", e.facts.cmdline):
        return None
    return Cause(
        "The kernel stopped before its console worked, or is told to be quiet",
        f"Add earlyprintk=serial,{_ttys(e)[0]} ignore_loglevel to the command line, to see what it "
        "says from the start",
    )


RULES: tuple[Rule, ...] = (
    _not_emulated,
    _interpreted,
    _left_ram,
    _reset_by_kvm,
    _invalid_state,
    _triple_fault_reboot,
    _no_idt,
    _no_memory,
    _bad_initrd,
    _no_root,
    _no_init,
    _init_died,
    _halted_for_good,
    _no_console,
    _console_elsewhere,
    _no_serial_driver,
    _before_console,
)
