"""Why a guest died, or hangs: a report in words, for a person who sees a blank screen.

It is made from plain values and must work when most of them are missing or wrong: the guest is
dead, and what it left is not to be trusted. All that it wrote is made printable first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm import diagnosis_spec as spec
from pyvmm import ends
from pyvmm.causes import BootFacts, Cause, Evidence, likely_causes
from pyvmm.errors import MemoryAccessError, PyvmmError
from pyvmm.inspection.kallsyms import by_note
from pyvmm.inspection.kernel import KERNEL_MAP, GuestKernel, find_kernels
from pyvmm.inspection.log import LogLine, read_log
from pyvmm.inspection.symbols import Symbols
from pyvmm.layout import PAGE
from pyvmm.memory import GuestMemory
from pyvmm.printable import printable, printable_lines

if TYPE_CHECKING:
    from pyvmm.kvm.vcpu import LastExit

CONSOLE_LINES = 25
LOG_LINES = 25
EXITS = 12

_PANIC = re.compile(r"Kernel panic - not syncing[^\n]*")  # Linux, kernel/panic.c

Translate = Callable[[int], int | None]
Namer = Callable[[int], str | None]


class VcpuState(NamedTuple):
    """A vCPU that stands still: `regs` and `sregs` as struct kvm_regs and kvm_sregs, `mp_state` a
    KVM_MP_STATE_*, its last exits, oldest first, and how it turns a linear address into a
    guest-physical one. All but `cpu` may be missing."""

    cpu: int
    regs: Any = None
    sregs: Any = None
    mp_state: int | None = None
    last_exits: Sequence[LastExit] = ()
    translate: Translate | None = None


class Section(NamedTuple):
    """A part of the report: its title, and its lines."""

    title: str
    lines: Sequence[str]


class Report(NamedTuple):
    """What happened in one sentence, what is likely behind it, and the evidence."""

    headline: str
    causes: Sequence[Cause]
    sections: Sequence[Section]

    def text(self) -> str:
        """All of it, in lines for a terminal, without a newline at the end."""
        lines = [self.headline]
        for cause in self.causes:
            lines += ["", f"Likely cause: {cause.why}.", f"What to do: {cause.cure}."]
        for section in self.sections:
            lines += ["", section.title, *(f"  {line}" for line in section.lines)]
        return "\n".join(lines)


def diagnose(
    end: ends.End | None,
    vcpus: Sequence[VcpuState],
    memory: GuestMemory,
    console: bytes,
    facts: BootFacts,
    symbols: Symbols | None = None,
) -> Report:
    """Explain `end`, or, if it is None, where the guest is that still runs.

    `console` is the last output of its serial ports, `symbols` those of its image without a
    KASLR offset. No vCPU may run meanwhile. Raises nothing for what the guest did.
    """
    kernels = list(find_kernels(memory))
    log = read_log(memory, kernels)
    log_text = "\n".join(text for line in log for text in printable_lines(line.text))
    shown = printable_lines(console)
    concerned = [v for v in vcpus if v.cpu == getattr(end, "cpu", v.cpu)]
    names = _namer(kernels[0] if kernels else None, symbols)
    codes = {v.cpu: _Code(v, memory) for v in concerned}
    told = [*shown, log_text]
    if isinstance(end, ends.GuestPanic):
        told.insert(0, printable(end.message))
    said = "\n".join(told)
    evidence = Evidence(
        end=end,
        facts=facts,
        said=said,
        log=log_text,
        silent=not shown,
        registers=[(v.mp_state, v.regs, v.sregs) for v in concerned],
        lost=any(code.lost for code in codes.values()),
    )
    sections = [_console_section(shown)]
    if log and not (shown and printable(log[-1].text).strip() in "\n".join(shown)):
        sections.append(_log_section(log))
    for vcpu in concerned:
        sections += _vcpu_sections(vcpu, codes[vcpu.cpu], end, names)
    first = headline(end)
    panic = _PANIC.search(said)
    if panic is not None:
        first += f" ({panic[0].strip()})"
    return Report(first, likely_causes(evidence), sections)


def headline(end: ends.End | None) -> str:
    """What happened, in a few words."""
    match end:
        case None:
            return "The guest is still running"
        case ends.TripleFault(cpu):
            return f"The guest died: triple fault on vCPU {cpu}"
        case ends.EntryFailed(cpu, reason):
            words = spec.entry_reason(reason)
            return f"The guest died: vCPU {cpu} could not be entered: {words} ({reason:#x})"
        case ends.EmulationFailed(cpu, suberror, instruction):
            words = spec.SUBERRORS.get(suberror, f"internal error {suberror}")
            code = f" ({instruction.hex(' ')})" if instruction else ""
            return f"The guest died: KVM could not go on with vCPU {cpu}: {words}{code}"
        case ends.GuestPanic():
            return "The guest's kernel panicked"
        case ends.Exited(status):
            return f"The guest's command ended with status {status}"
        case ends.DebugExit(status):
            return f"The guest ended through the debug exit port, with status {status}"
        case ends.PoweredOff():
            return "The guest powered itself off"
        case ends.Reset():
            return "The guest reset itself"
        case ends.Quit():
            return "The guest was ended from outside"


# ---- what the guest said ----


def _console_section(shown: list[str]) -> Section:
    if not shown:
        return Section("The guest printed nothing on a serial port", ())
    return Section("Last lines on the console", shown[-CONSOLE_LINES:])


def _log_section(log: Sequence[LogLine]) -> Section:
    lines = []
    for line in log[-LOG_LINES:]:
        seconds = "" if line.timestamp_ns is None else f"[{line.timestamp_ns / 1e9:12.6f}] "
        lines += [seconds + text for text in printable_lines(line.text)]
    return Section("Last lines of the kernel's log, found in the guest's memory", lines)


# ---- where the guest is ----


def _namer(kernel: GuestKernel | None, symbols: Symbols | None) -> Namer:
    """What gives an address its name: the running kernel's own symbols, then the image's."""
    own = by_note(kernel) if kernel else None
    moved = symbols.moved(kernel.kaslr_offset) if symbols and kernel else symbols

    def name(address: int) -> str | None:
        found = own.lookup(address) if own else None
        if found is None and symbols and moved:
            # Early on a kernel runs at its physical address.
            found = moved.lookup(address) or symbols.lookup(address + KERNEL_MAP)
        return printable(found) if found else None

    return name


class _Code:
    """The bytes at a vCPU's RIP, or why there are none."""

    def __init__(self, vcpu: VcpuState, memory: GuestMemory) -> None:
        self.data = b""
        self.problem = ""
        self.lost = False
        self.bits = 64
        if vcpu.regs is None or vcpu.sregs is None or vcpu.translate is None:
            self.problem = "it cannot be read"
            return
        _, self.bits = _mode(vcpu.sregs)
        linear = vcpu.sregs.cs.base + vcpu.regs.rip & (1 << max(self.bits, 32)) - 1
        while len(self.data) < spec.INSTRUCTION_MAX and not self.problem:
            at = linear + len(self.data)
            length = min(spec.INSTRUCTION_MAX - len(self.data), PAGE - at % PAGE)
            physical = _physical(vcpu.translate, at)
            if physical is None:
                self.problem = f"{at:#x} is not mapped"
                break
            try:
                self.data += memory.read(physical, length)
            except MemoryAccessError:
                self.problem = f"{at:#x} is at guest-physical {physical:#x}, which is not RAM"
        self.lost = not self.data

    def line(self) -> str:
        """The bytes and the first instruction."""
        if not self.data:
            return f"Code none: {self.problem}"
        try:
            from capstone import CS_ARCH_X86, CS_MODE_16, CS_MODE_32, CS_MODE_64, Cs
        except ImportError:
            hint = "for the instruction: pip install 'pyvmm[disassembly]'"
            return f"Code {self.data.hex(' ')}  ({hint})"
        mode = {16: CS_MODE_16, 32: CS_MODE_32, 64: CS_MODE_64}[self.bits]
        for _, size, name, operands in Cs(CS_ARCH_X86, mode).disasm_lite(self.data, 0, 1):
            instruction = f"{name} {operands}".strip()
            return f"Code <{self.data[:size].hex(' ')}> {self.data[size:].hex(' ')}  {instruction}"
        return f"Code {self.data.hex(' ')}  (no instruction)"


def _physical(translate: Translate, linear: int) -> int | None:
    try:
        return translate(linear)
    except PyvmmError:
        return None


def _mode(sregs: Any) -> tuple[str, int]:
    """The mode that the code segment makes, SDM 3A §2.2, and its width in bits."""
    if not sregs.cr0 & spec.CR0_PE:
        return "real mode", 16
    if sregs.efer & spec.EFER_LMA and sregs.cs.l:
        return "64-bit mode", 64
    return ("32-bit code", 32) if sregs.cs.db else ("16-bit code", 16)


def _vcpu_sections(
    vcpu: VcpuState, code: _Code, end: ends.End | None, names: Namer
) -> Iterable[Section]:
    if vcpu.mp_state in spec.NOT_STARTED:
        yield Section(f"vCPU {vcpu.cpu} {spec.NOT_STARTED[vcpu.mp_state]}", ())
        return
    if vcpu.regs is None or vcpu.sregs is None:
        yield Section(f"vCPU {vcpu.cpu}: its registers cannot be read", ())
    else:
        halted = ", halted" if vcpu.mp_state == spec.MP_HALTED else ""
        title = f"vCPU {vcpu.cpu}: {_mode(vcpu.sregs)[0]}, CPL {vcpu.sregs.cs.dpl}{halted}"
        yield Section(title, [*_registers(vcpu.regs, vcpu.sregs, names), code.line()])
    if vcpu.last_exits:
        yield Section(f"Last exits of vCPU {vcpu.cpu}", _exits(vcpu.last_exits, names))


def _registers(regs: Any, sregs: Any, names: Namer) -> list[str]:
    flags = " ".join(name for bit, name in spec.FLAGS.items() if regs.rflags >> bit & 1)
    lines = [f"RIP {regs.rip:016x}  {names(regs.rip) or ''}".rstrip()]
    for row in ("rax rbx rcx rdx", "rsi rdi rbp rsp", "r8 r9 r10 r11", "r12 r13 r14 r15"):
        lines.append("  ".join(f"{n.upper():3} {getattr(regs, n):016x}" for n in row.split()))
    lines.append(f"RFLAGS {regs.rflags:08x} [{flags}]  EFER {sregs.efer:x}")
    lines.append(
        "  ".join(f"{n.upper()} {getattr(sregs, n):x}" for n in ("cr0", "cr2", "cr3", "cr4"))
    )
    selectors = ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt")
    lines.append("  ".join(f"{n.upper()} {getattr(sregs, n).selector:04x}" for n in selectors))
    lines.append(f"FS base {sregs.fs.base:x}  GS base {sregs.gs.base:x}  CS base {sregs.cs.base:x}")
    lines.append(
        "  ".join(
            f"{n.upper()} {getattr(sregs, n).base:x} limit {getattr(sregs, n).limit:x}"
            for n in ("gdt", "idt")
        )
    )
    return lines


def _exits(last: Sequence[LastExit], names: Namer) -> list[str]:
    """The last exits, oldest first; the same one again and again is one line."""
    lines = []
    for exit, again in groupby(last):
        what = exit.kind.replace("_", " ")
        if exit.size:
            place = spec.place_of(exit.kind, exit.address)
            what += f" {exit.address:#x}"
            what += f" ({place})" if place else ""
            what += f", {exit.size} byte{'s' if exit.size > 1 else ''}"
        name = names(exit.rip)
        times = sum(1 for _ in again)
        repeated = f", {times} times" if times > 1 else ""
        lines.append(f"{what}, at {exit.rip:#x}{f' {name}' if name else ''}{repeated}")
    return lines[-EXITS:]
