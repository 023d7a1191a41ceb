"""What is known of the operating system in a guest: found in its memory when it is asked for.

Finding costs a search through all of memory, so it is done once, and again only when what was found
is no longer where it was: after a reset, or when the guest has started another kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from pyvmm.errors import MemoryAccessError, UsageError
from pyvmm.inspection import kallsyms
from pyvmm.inspection.btf import SIZE_MAX as BTF_MAX
from pyvmm.inspection.btf import Btf
from pyvmm.inspection.kernel import GuestKernel, describe, find_kernels
from pyvmm.inspection.log import LogLine, read_log
from pyvmm.inspection.symbols import Symbols, from_file
from pyvmm.layout import MIB, PAGE
from pyvmm.memory import GuestMemory
from pyvmm.printable import printable

if TYPE_CHECKING:
    from pyvmm.inspection.tasks import Task
    from pyvmm.machine import Machine

# Symbols whose run-time addresses are known without a table: the note has them, and the CPU.
ANCHORS = ("_stext", "init_uts_ns", "swapper_pg_dir", "init_top_pgt")
ENTRY = "entry_SYSCALL_64"  # MSR_LSTAR; Linux, arch/x86/kernel/cpu/common.c, syscall_init
MSR_LSTAR = 0xC000_0082  # Intel SDM 4, table 2-2
KASLR_UNIT = 2 * MIB  # CONFIG_PHYSICAL_ALIGN is at least that on x86-64
ANCHOR_SIZE = PAGE  # bytes that are compared to see whether what was found is still there


class Found:
    """A kernel that was found, with what has been read of it."""

    def __init__(self, memory: GuestMemory, kernel: GuestKernel, own: Symbols | None) -> None:
        self.kernel = kernel
        self._memory = memory
        self._own = own
        self.has_note = own is None  # or it was found by its table of symbols
        end = memory.region_at(kernel.place, 1).end
        self._anchor_size = min(ANCHOR_SIZE, end - kernel.place)
        self._anchor = memory.read(kernel.place, self._anchor_size)

    @property
    def there(self) -> bool:
        """Whether it still is."""
        return self._memory.read(self.kernel.place, self._anchor_size) == self._anchor

    @cached_property
    def symbols(self) -> Symbols | None:
        """Its own table."""
        return self._own or kallsyms.by_note(self.kernel) or self._symbols_by_content()

    def _symbols_by_content(self) -> Symbols | None:
        for _, table in kallsyms.by_content(self._memory):
            with suppress(LookupError):
                if table.address("_stext") == self.kernel.symbol("_stext"):
                    return table
        return None

    @cached_property
    def btf(self) -> Btf | None:
        """Its types."""
        if self.symbols is None:
            return None
        try:
            start = self.symbols.address("__start_BTF")
            size = self.symbols.address("__stop_BTF") - start
            return Btf(self.kernel.read(start, min(size, BTF_MAX)))
        except (LookupError, ValueError, MemoryAccessError):
            return None


class Guest:
    """The operating system in a guest. Not on a vCPU's thread.

    Its properties raise UsageError for what the guest does not have. While the guest runs they may
    find a state that never was: pause it for more than symbols.
    """

    def __init__(self, memory: GuestMemory, entry: Callable[[], int]) -> None:
        """`entry` tells where the guest's CPU goes at a system call, 0 if nowhere."""
        self._memory = memory
        self._entry = entry
        self._found: Found | None = None
        self._loaded: Symbols | None = None
        self._placed: tuple[str, Symbols] | None = None  # with the note that it was placed by
        self.source = ""  # where the symbols come from: a file's name, or nothing

    # ---- the kernel ----

    @property
    def found(self) -> Found | None:
        """The kernel with what has been read of it."""
        if self._found is None or not self._found.there:
            self._found = self._find()
        return self._found

    def _find(self) -> Found | None:
        for kernel in find_kernels(self._memory):
            if kernel.alive:
                return Found(self._memory, kernel, None)
        for place, table in kallsyms.by_content(self._memory):
            described = describe(self._memory, table.address)
            if described is not None:
                kernel = GuestKernel(self._memory, described.note, place)
                return Found(self._memory, kernel, table)
        return None

    @property
    def kernel(self) -> GuestKernel:
        """The running kernel. What it caches is true as long as the machine stands still."""
        found = self.found
        if found is None:
            raise UsageError(
                "The guest must run Linux, and have come as far as its page tables: no kernel "
                "shows itself in memory"
            )
        return GuestKernel(self._memory, found.kernel.note, found.kernel.place)

    # ---- symbols ----

    @property
    def symbols(self) -> Symbols:
        """Those of the file that was loaded, else the kernel's own table; at run-time addresses."""
        if self._loaded is not None:
            return self._place(self._loaded, self.source)
        found = self.found
        if found is None or found.symbols is None:
            raise UsageError(
                "The guest shows no symbols of its own: load those of its image with `symbols FILE`"
            )
        return found.symbols

    def load_symbols(self, path: str) -> None:
        """Use the symbols of a vmlinux, a System.map or a copy of /proc/kallsyms.

        Raises ImageError for what is none, UsageError if it is of another kernel than the guest's.
        """
        loaded = from_file(path)
        self._place(loaded, path)
        self._loaded, self.source = loaded, path

    def forget_symbols(self) -> None:
        """Use the kernel's own table again."""
        self._loaded, self._placed, self.source = None, None, ""

    def _place(self, loaded: Symbols, path: str) -> Symbols:
        found = self.found
        note = found.kernel.note if found else ""
        if self._placed is None or self._placed[0] != note or loaded is not self._loaded:
            self._placed = note, loaded.moved(self._offset(loaded, path, found))
        return self._placed[1]

    def _offset(self, loaded: Symbols, path: str, found: Found | None) -> int:
        """By how many bytes the guest's kernel lies above where the file has it."""
        anchors: dict[str, int] = {}
        build_id = release = ""
        if found is not None:
            build_id, release = found.kernel.build_id, printable(found.kernel.release)
            for name in ANCHORS:
                with suppress(LookupError, ValueError):
                    anchors[name] = found.kernel.symbol(name)
        elif entry := self._entry():
            anchors[ENTRY] = entry
        offsets = set()
        for name, address in anchors.items():
            with suppress(LookupError):
                offsets.add(address - loaded.address(name))
        other_build = build_id and loaded.build_id and build_id != loaded.build_id
        if other_build or len(offsets) > 1 or any(offset % KASLR_UNIT for offset in offsets):
            raise UsageError(
                f"{path} must be of the guest's kernel{f', {release}' if release else ''}: "
                + (
                    f"its build id is {loaded.build_id}, the guest's {build_id}"
                    if other_build
                    else "its symbols do not lie as the guest's do"
                )
            )
        return offsets.pop() if offsets else 0

    # ---- what the kernel keeps ----

    @property
    def btf(self) -> Btf:
        """The kernel's types."""
        found = self.found
        if found is None or found.btf is None:
            raise UsageError(
                "The guest's kernel must have its type information in memory "
                "(CONFIG_DEBUG_INFO_BTF) and show its symbols (CONFIG_KALLSYMS_ALL)"
            )
        return found.btf

    @property
    def log(self) -> list[LogLine]:
        """The kernel's log, oldest first; empty if there is none."""
        return read_log(self._memory)

    @property
    def tasks(self) -> list[Task]:
        """The processes, in the order in which they were made."""
        return self.read_tasks(lambda: None)

    def read_tasks(self, check: Callable[[], object]) -> list[Task]:
        """The same; `check` is called for each and may raise to end it."""
        from pyvmm.inspection.tasks import read_tasks

        try:
            return read_tasks(self.kernel, self.symbols.address, self.btf, check)
        except (LookupError, ValueError) as error:
            raise UsageError(f"The guest's kernel must show its tasks: {error}") from error


def open_guest(machine: Machine) -> Guest:
    """What Machine.guest is."""

    def entry() -> int:
        with machine.paused():
            vcpu = machine.board.vcpus[0]
            return vcpu.get_msrs([MSR_LSTAR]).get(MSR_LSTAR, 0)

    return Guest(machine.memory, entry)
