"""What a guest's kernel, if it is Linux, keeps in its memory: symbols, stacks, log and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pyvmm.errors import UsageError
from pyvmm.inspection.backtrace import Frame, backtrace
from pyvmm.inspection.log import LogLine
from pyvmm.inspection.views import virtual_memory
from pyvmm.monitor.command import command
from pyvmm.monitor.commands.cpu import OptionalCpu
from pyvmm.monitor.kinds import Choice, Path
from pyvmm.monitor.result import Cell, Fields, Hex, Result, Table
from pyvmm.monitor.session import Session
from pyvmm.printable import printable

# Of printk, include/linux/kern_levels.h, 0 to 7; the names are those of dmesg(1).
LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
DEBUG = 7
USER_LEVEL = 3  # SDM 3A §5.5: the privilege level of user mode
REGISTERS = "rip rsp rbp rax rbx rcx rdx rsi rdi r8 r9 r10 r11 r12 r13 r14 r15"


class LevelKind(Choice):
    """A level of the kernel's log, by name or number, as its number."""

    def __init__(self) -> None:
        super().__init__(LEVELS)
        self.metavar = "LEVEL"

    def matches(self, text: str) -> bool:
        """See Kind."""
        return True

    def parse(self, session: Session, text: str) -> object:
        """See Kind."""
        if text.isascii() and text.isdigit() and int(text[:2]) < len(LEVELS):
            return int(text)
        return self.choices.index(str(super().parse(session, text)))


Level = Annotated[int, LevelKind()]


class Frames(Result):
    """A backtrace, with the symbol of each frame."""

    frames: Sequence[tuple[Frame, str | None]]

    @property
    def data(self) -> list[dict[str, Any]]:
        """See Result."""
        return [
            {"address": f.address, "symbol": symbol, "sure": f.sure, "user": f.user}
            for f, symbol in self.frames
        ]

    def __str__(self) -> str:
        return "\n".join(
            (
                f"#{number:<3} {frame.address:#018x} {'' if frame.sure else '? '}"
                + ("in user mode" if frame.user else symbol or "")
            ).rstrip()
            for number, (frame, symbol) in enumerate(self.frames)
        )


class LogText(Result):
    """Records of the kernel's log."""

    lines: Sequence[LogLine]

    @property
    def data(self) -> list[dict[str, Any]]:
        """See Result."""
        return [line._asdict() for line in self.lines]

    def __str__(self) -> str:
        return "\n".join(
            printable(prefix + text)  # tabs count from the line's start
            for line in self.lines
            for prefix in ["" if line.timestamp_ns is None else f"[{_seconds(line.timestamp_ns)}] "]
            for text in line.text.split("\n")
        )


def _seconds(nanoseconds: int) -> str:
    """As the kernel's printk.time has it: cut off after microseconds, not rounded."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{seconds:5}.{rest // 1000:06}"


@command("symbols", examples=["symbols vmlinux", "symbols /boot/System.map-6.1.0-18-amd64"])
def symbols(session: Session, file: Path = "") -> Result:
    """Show where symbols come from, or load those of a file.

    The file is a vmlinux that is not stripped, a System.map, or a copy that root made of
    /proc/kallsyms. It must be of the kernel that the guest runs; by how much KASLR has moved that
    is found. Without one the kernel's own table is used, which is found in its memory.
    """
    guest = session.machine.guest
    if file:
        guest.load_symbols(file)
    table = guest.symbols
    fields: dict[str, Cell] = {"from": guest.source or "the kernel's own table"}
    if guest.found is not None:
        kernel = guest.kernel
        fields["kernel"] = printable(kernel.release)
        fields["build id"] = printable(kernel.build_id)
        fields["KASLR offset"] = Hex(kernel.kaslr_offset)
    fields["symbols"] = len(table)
    return Fields(fields)


@command("symbols export", examples=["symbols export guest.elf", "symbols export System.map"])
def symbols_export(session: Session, file: Path) -> None:
    """Write the symbols, where they are in the running guest, to a file for other programs.

    It is an ELF file, which gdb takes as its program or by `symbol-file`; or, if its name is a
    System.map's or ends in .map, text as nm(1) writes it.
    """
    from pyvmm.inspection.symbolfile import export

    export(session.machine.guest.symbols, file)


@command("backtrace", examples=["backtrace", "backtrace 1"])
def backtrace_(session: Session, cpu: OptionalCpu = None) -> Result:
    """Show who called whom on a vCPU, innermost first.

    By the ORC tables of a Linux kernel that has them, else by frame pointers. A frame after a ? is
    a guess: an address on the stack that may be left from an earlier call.
    """
    machine, symbols = session.machine, session.symbols
    cpu = session.cpu if cpu is None else cpu
    with machine.paused():
        regs, sregs = machine.vcpus[cpu].regs, machine.vcpus[cpu].sregs
        registers = {name: int(getattr(regs, name)) for name in REGISTERS.split()}
        kernel = machine.guest.kernel if machine.guest.found else None
        memory, user = virtual_memory(machine, cpu), sregs.cs.dpl == USER_LEVEL
        frames = backtrace(memory, kernel, symbols, registers, user=user)
    return Frames(
        [
            (frame, _printable(symbols.lookup(frame.address, behind_call=frame.behind_call)))
            for frame in frames
        ]
    )


def _printable(name: str | None) -> str | None:
    return None if name is None else printable(name)


@command("dmesg", examples=["dmesg", "dmesg err"])
def dmesg(session: Session, level: Level = DEBUG) -> Result:
    """Show the guest's kernel log, as it is in its memory.

    Only records of this LEVEL and the more urgent ones: emerg, alert, crit, err, warn, notice,
    info or debug, or 0 to 7. Of a guest that has hardly started, times and levels are not known.
    """
    with session.machine.paused():
        lines = session.machine.guest.log
    if not lines:
        raise UsageError("The guest must run Linux: no kernel log is in its memory")
    return LogText([line for line in lines if line.level is None or line.level <= level])


@command("ps")
def ps(session: Session) -> Result:
    """Show the guest's processes: those of the kernel in brackets.

    STATE is ps(1)'s letter, CPU where a process runs or last ran, KIB its resident memory. The
    kernel must have type information (CONFIG_DEBUG_INFO_BTF).
    """
    with session.machine.paused():
        tasks = session.machine.guest.read_tasks(session.check)
    rows: list[list[Cell]] = []
    for task in tasks:
        name = printable(task.name)
        kib = task.resident >> 10
        shown = f"[{name}]" if task.kernel else name
        rows.append([task.pid, task.parent, task.state, task.cpu, task.threads, kib, shown])
    return Table(["pid", "parent", "state", "cpu", "threads", "KiB", "name"], rows)


@command("dump-guest-memory", examples=["dump-guest-memory guest.core"])
def dump_guest_memory(session: Session, file: Path) -> None:
    """Write memory and registers to an ELF core file, for gdb and crash.

    The machine stands still meanwhile. Ctrl-C ends it; the file appears when it is whole.
    """
    from pyvmm.inspection.coredump import dump

    dump(session.machine, file, session.check)
