"""Who called whom on a vCPU: the frames of its stacks.

By the ORC tables of a Linux kernel that has them, else by frame pointers; where both fail, what
looks like a return address on the rest of the stack, which may be left from earlier calls. Linux's
interrupts and exceptions lead from one stack to the other through the registers that they saved, up
to user mode. All of it is what the guest wrote: it is bounded, and may be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Protocol

from pyvmm.errors import MemoryAccessError, UnmappedError
from pyvmm.inspection import orc_spec as spec
from pyvmm.inspection.kernel import ADDRESS_SPACE, GuestKernel
from pyvmm.inspection.orc import Entry, Orc
from pyvmm.inspection.symbols import Symbols
from pyvmm.value import Value

FRAMES_MAX = 256
WORD = 8
# With CONFIG_FRAME_POINTER an entry from elsewhere sets RBP to its pt_regs with this bit set;
# Linux, arch/x86/include/asm/frame.h, ENCODE_FRAME_POINTER.
ENCODED = 1


class Memory(Protocol):
    """Memory by virtual address."""

    def read(self, virtual: int, length: int, /) -> bytes:
        """Raises MemoryAccessError or UnmappedError."""


class Frame(Value):
    """`address` is where it goes on, `behind_call` unless something else led away from there.

    `sure` is False for a guess, `user` True in user mode.
    """

    address: int
    behind_call: bool
    sure: bool = True
    user: bool = False


def backtrace(
    memory: Memory,
    kernel: GuestKernel | None,
    symbols: Symbols,
    registers: Mapping[str, int],
    *,
    user: bool,
) -> list[Frame]:
    """The frames of a vCPU with these `registers`, innermost first; `user` if it is in user mode.

    `memory` is as the vCPU sees it, `kernel` Linux if it runs that. At most FRAMES_MAX. The vCPU
    must stand still. Raises nothing for what the guest did.
    """
    first = Frame(registers["rip"], behind_call=False, user=user)
    if user:
        return [first]
    return [first, *islice(_Unwinder(memory, kernel, symbols, registers).frames(), FRAMES_MAX - 1)]


class _Lost(Exception):
    """The way to the next frame is not known."""


class _Unwinder:
    def __init__(
        self,
        memory: Memory,
        kernel: GuestKernel | None,
        symbols: Symbols,
        registers: Mapping[str, int],
    ) -> None:
        self._memory = memory
        self._symbols = symbols
        self._orc: Orc | None = None
        if kernel is not None:
            with suppress(LookupError):
                self._orc = Orc(kernel, symbols.address)
        self._ip, self._sp, self._bp = (registers[name] for name in ("rip", "rsp", "rbp"))
        self._saved: Mapping[str, int] | None = registers  # all registers at this frame, if known
        self._exact = True  # `ip` is not behind a call but where an interrupt or a fault came
        self._sure = True

    def frames(self) -> Iterator[Frame]:
        """Those behind the first."""
        try:
            while (frame := self._next()) is not None:
                yield frame
                if frame.user:
                    return
        except (_Lost, MemoryAccessError, UnmappedError):
            yield from self._guesses()

    def _next(self) -> Frame | None:
        entry = self._orc.find(self._ip - (not self._exact)) if self._orc else None
        if entry is not None and entry.type == spec.END:
            return None
        old_sp, old_bp = self._sp, self._bp
        user = self._by_orc(entry) if entry is not None else self._by_frame_pointer()
        if self._ip == 0:  # where a kernel without ORC begins its stacks
            return None
        if not user and len(self._symbols) and not self._symbols.is_code(self._ip):
            self._sp, self._bp = old_sp, old_bp
            raise _Lost
        return Frame(self._ip, not self._exact, self._sure, user)

    def _by_orc(self, entry: Entry) -> bool:
        """Go to the caller; whether that is user mode."""
        sp = self._stack_pointer(entry)
        user = False
        if entry.type == spec.CALL:
            self._ip = self._u64(sp - WORD)
            self._saved, self._exact = None, False
        elif entry.type == spec.REGS:
            user, sp_before = self._take_registers(sp)
        else:
            user, sp_before = self._take_iret(sp)
        if entry.bp_reg == spec.PREV_SP:
            self._bp = self._u64(sp + entry.bp_offset)
        elif entry.bp_reg == spec.BP:
            self._bp = self._u64(self._bp + entry.bp_offset)
        elif self._saved is not None:
            self._bp = self._saved["rbp"]
        self._sp = sp if entry.type == spec.CALL else sp_before
        return user

    def _stack_pointer(self, entry: Entry) -> int:
        match entry.sp_reg:
            case spec.SP:
                return self._sp + entry.sp_offset
            case spec.BP:
                return self._bp + entry.sp_offset
            case spec.SP_INDIRECT:
                return self._u64(self._sp) + entry.sp_offset
            case spec.BP_INDIRECT:
                return self._u64(self._bp + entry.sp_offset)
            case register if register in spec.SAVED and self._saved is not None:
                return self._saved[spec.SAVED[register]]
        raise _Lost

    def _take_registers(self, place: int) -> tuple[bool, int]:
        """Go on from a struct pt_regs; whether it is of user mode, and its stack pointer."""
        saved = {name: self._u64(place + WORD * at) for at, name in enumerate(spec.PT_REGS)}
        self._ip, self._saved, self._exact = saved["rip"], saved, True
        return bool(saved["cs"] & spec.RPL_MASK), saved["rsp"]

    def _take_iret(self, place: int) -> tuple[bool, int]:
        """The same from what the CPU alone has pushed."""
        saved = {name: self._u64(place + WORD * at) for at, name in enumerate(spec.IRET)}
        self._ip, self._exact = saved["rip"], True
        return bool(saved["cs"] & spec.RPL_MASK), saved["rsp"]

    def _by_frame_pointer(self) -> bool:
        """The same where ORC knows nothing: a guess unless the kernel has no ORC at all."""
        self._sure = self._orc is None
        if self._bp & ENCODED:
            user, self._sp = self._take_registers(self._bp - ENCODED)
            assert self._saved is not None
            self._bp = self._saved["rbp"]
            return user
        if self._bp % WORD or not 0 <= self._bp - self._sp < spec.STACK_SIZE:
            raise _Lost
        self._sp = self._bp + 2 * WORD
        self._ip, self._bp = self._u64(self._bp + WORD), self._u64(self._bp)
        self._saved, self._exact = None, False
        return False

    def _guesses(self) -> Iterator[Frame]:
        """What may be return addresses, to the end of the stack."""
        start = self._sp & -WORD
        for place in range(start, (start | spec.STACK_SIZE - 1) + 1, WORD):
            try:
                word = self._u64(place)
            except (MemoryAccessError, UnmappedError):
                return
            if self._symbols.is_code(word):
                yield Frame(word, behind_call=True, sure=False)

    def _u64(self, address: int) -> int:
        return int.from_bytes(self._memory.read(address % ADDRESS_SPACE, WORD), "little")
