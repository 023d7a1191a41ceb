"""The debugger of a machine: breakpoints, watchpoints, single steps.

It owns KVM_SET_GUEST_DEBUG of every vCPU. A vCPU that meets what was asked for stops, and all the
others with it. To go on from a breakpoint, a vCPU takes one step without it: that is due when it
next runs, whoever lets it. Meanwhile the others may run, as the debug registers are each vCPU's
own; not so where an int3 instruction is the breakpoint, which they would miss.

The guest has no hardware breakpoints of its own while there are any here (KVM api.rst 4.87).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from pyvmm import debug_spec as spec
from pyvmm import events
from pyvmm.breakpoints import BREAK, HARDWARE_BREAK, Point, execute, int3_can_be_caught, pieces_of
from pyvmm.errors import HostError, MemoryAccessError, UnmappedError, UsageError
from pyvmm.inspection.registers import Registers
from pyvmm.inspection.views import virtual_memory
from pyvmm.kvm import Vcpu, exits
from pyvmm.log import Log
from pyvmm.machine import Machine
from pyvmm.native import lib
from pyvmm.value import Value

log = Log(__name__)

# Why the machine was stopped: the reason of events.Stopped.
BREAKPOINT, WATCHPOINT, STEP = STOPS = ("breakpoint", "watchpoint", "step")

POLL_SECONDS = 0.1  # how often who waits for a step is asked whether it still does
ADDRESS_SPACE = 1 << 64
DISARMED = (0,) * 9


class Stop(Value):
    """vCPU `cpu` has stopped the machine: why, one of STOPS, and at which linear address.

    That is of its next instruction, or, for a watchpoint, of the watched bytes.
    """

    cpu: int
    reason: str
    address: int


class Debugger:
    """See Machine.debugger. Unless a method says so, any thread but a vCPU's.

    Methods raise KvmError where a vCPU's state cannot be had.
    """

    def __init__(self, machine: Machine) -> None:
        self.points: list[Point] = []
        self.stop: Stop | None = None  # why the machine stands still, if that was the debugger
        self._machine = machine
        self._lock = threading.RLock()  # what the vCPUs' threads share; nobody waits with it held
        self._numbered = 0
        self._registers: list[tuple[int, int, int]] = []  # address, access, length
        self._patches: dict[int, int] = {}  # the guest's own bytes, by guest-physical address
        self._past: dict[int, int] = {}  # the breakpoints that vCPUs have yet to go past
        self._turn: int | None = None  # the vCPU that alone may run, past its int3
        self._steps: frozenset[int] = frozenset()  # the vCPUs that are to take one step
        self._owed: dict[int, Stop] = {}  # of vCPUs that met something as another one did
        self._armed: dict[int, tuple[int, ...]] = {}  # what KVM was last told of each
        self._settled = threading.Event()
        flags = machine.board.kvm.capability("SET_GUEST_DEBUG2")
        self._step_flags = lib.KVM_GUESTDBG_SINGLESTEP | flags & lib.KVM_GUESTDBG_BLOCKIRQ
        self._forget = machine.listen(self._on_event)

    def close(self) -> None:
        """Hear no more of the machine, which is closed."""
        self._forget()

    # ---- breakpoints and watchpoints ----

    def insert(
        self, kind: str, address: int, length: int = 1, *, cpu: int = 0, owner: object = None
    ) -> Point:
        """Stop the machine where a vCPU is about to execute `address`, or has touched it.

        `kind` is BREAK, HARDWARE_BREAK, WRITE or ACCESS. Raises UsageError if there are too many,
        HostError where this KVM has no int3, UnmappedError or MemoryAccessError where there is no
        memory for one.
        """
        if not 0 <= address <= address + length - 1 < ADDRESS_SPACE:
            raise UsageError(f"There must be {length} bytes at {address:#x} to stop at")
        point = Point(kind, address, length, cpu, owner)
        with self._machine.paused(), self._lock:
            self._place([*self.points, point])
            self._numbered += 1
            point.number = self._numbered
        return point

    def remove(self, *points: Point) -> None:
        """Take them away; again, it does nothing."""
        with self._machine.paused(), self._lock:
            self._place([point for point in self.points if point not in points])

    def _place(self, points: list[Point]) -> None:
        """Distribute them over the debug registers and int3."""
        registers: list[tuple[int, int, int]] = []
        for point in points:
            if point.kind != BREAK:
                registers += [one for one in pieces_of(point) if one not in registers]
        if len(registers) > spec.REGISTERS:
            raise UsageError(f"There must be no more hardware breakpoints than {spec.REGISTERS}")
        patched: dict[Point, int] = {}
        for point in points:
            (one,) = pieces_of(point) if point.kind == BREAK else (None,)
            if one is None or one in registers:
                continue
            if len(registers) < spec.REGISTERS:
                registers.append(one)
            else:
                patched[point] = self._physical(point)
        self._patch(set(patched.values()))
        self.points, self._registers = points, registers
        for point in points:
            point.physical = patched.get(point)

    def _physical(self, point: Point) -> int:
        """Where the int3 of a breakpoint goes."""
        if not int3_can_be_caught():
            raise HostError(
                f"All {spec.REGISTERS} debug registers are taken, and this host's KVM cannot catch "
                "the int3 that a further breakpoint needs"
            )
        physical = point.physical
        if physical is None:
            physical = virtual_memory(self._machine, point.cpu).translate(point.address)
        return physical

    def _patch(self, wanted: set[int]) -> None:
        """Have int3 at these guest-physical addresses and nowhere else."""
        memory = self._machine.memory
        added = {at: memory.u8(at) for at in wanted - self._patches.keys()}
        for at in self._patches.keys() - wanted:
            self._unpatch(at)
            del self._patches[at]
        for at in added:
            memory.write(at, spec.INT3)
        self._patches |= added

    def _unpatch(self, at: int) -> None:
        """Give the guest its byte back, unless it has put another one there."""
        if self._machine.memory.read(at, 1) == spec.INT3:
            self._machine.memory.write_u8(at, self._patches[at])

    # ---- memory by linear address ----

    def read(self, cpu: int, address: int, length: int) -> bytes:
        """Up to `length` bytes in the page tables of vCPU `cpu`: fewer where no memory follows.

        They are the guest's own, without int3. Raises UnmappedError or MemoryAccessError if there
        are none.
        """
        data = bytearray()
        with self._machine.paused(), self._lock:
            try:
                for piece in virtual_memory(self._machine, cpu).pieces(address, length):
                    data += self._own_bytes(*piece)
            except (UnmappedError, MemoryAccessError):
                if not data:
                    raise
        return bytes(data)

    def _own_bytes(self, physical: int, length: int) -> bytes:
        data = bytearray(self._machine.memory.read(physical, length))
        for at, byte in self._patches.items():
            if physical <= at < physical + length:
                data[at - physical] = byte
        return bytes(data)

    def write(self, cpu: int, address: int, data: bytes) -> None:
        """Write memory as `read` reads it.

        Raises UnmappedError or MemoryAccessError; then nothing is written.
        """
        with self._machine.paused(), self._lock:
            memory = virtual_memory(self._machine, cpu)
            memory.write(address, data)
            for physical, length in memory.pieces(address, len(data)):
                for at in self._patches:
                    if physical <= at < physical + length:
                        self._patches[at] = self._machine.memory.u8(at)
            self._put_patches()

    # ---- going on ----

    def resume(self, steps: Collection[int] = (), only: Collection[int] | None = None) -> None:
        """As Machine.resume, but the vCPUs of `steps` take one step each, and the first ends it.

        With `only`, none but these vCPUs run until the machine stops.
        """
        with self._machine.paused():
            self._steps = frozenset(steps)
            self._put_patches()
            self._machine.run_state.resume(only)

    def step(self, cpu: int, check: Callable[[], object] = lambda: None) -> None:
        """Have vCPU `cpu` take one step while the others stand still, and wait for its end.

        What `check` raises, every 0.1 s at most, ends that. Interrupts are put off where KVM can;
        of a repeated string instruction a step is one repetition. Raises UsageError if the
        machine runs.
        """
        if self._machine.state != "paused":
            raise UsageError("The machine must be stopped before a vCPU can take a step")
        self._settled.clear()
        self.resume([cpu], [cpu])
        try:
            while not self._settled.wait(POLL_SECONDS):
                check()
        except BaseException:
            self._machine.pause()
            raise
        self._machine.run_state.wait_parked()

    def _on_event(self, event: events.Event) -> None:
        with self._lock:
            match event:
                case events.Resumed():
                    self.stop = None
                case events.Stopped():
                    self._steps = frozenset()
                    self._settled.set()
                case events.Ended():
                    self._settled.set()
                case events.Restarted():
                    self._restart()

    def _restart(self) -> None:
        """Memory has been cleared, and the kernel is loaded again."""
        self._owed.clear()
        for cpu in list(self._past):
            del self._past[cpu]
            self._end_turn(cpu)
        memory = self._machine.memory
        lost = {at for at, byte in self._patches.items() if memory.u8(at) != byte}
        for point in [point for point in self.points if point.physical in lost]:
            log.warning("The breakpoint at %#x is gone: its code is, after a reset", point.address)
            self.points.remove(point)
        self._patches = {at: byte for at, byte in self._patches.items() if at not in lost}
        self._put_patches()

    # ---- on the vCPUs' threads ----

    def prepare(self, vcpu: Vcpu) -> bool:
        """Before a vCPU runs; False if it must not, as it owes a stop. Its own thread."""
        cpu = vcpu.index
        with self._lock:
            owed = self._owed.pop(cpu, None)
            if owed is not None and any(owed.address == at for at, *_ in self._registers):
                self._halt(vcpu, owed)
                return False
            past = self._past.get(cpu)
            if past is not None and (
                past != Registers(vcpu, 0).linear_pc or not self._breaks(past)
            ):
                del self._past[cpu]
                past = None
            patch = None if past is None else self._patch_at(vcpu, past)
            if patch is not None:
                self._unpatch(patch)
            else:
                self._end_turn(cpu)
            self._arm(vcpu, past is not None or cpu in self._steps, past)
            return True

    def take(self, vcpu: Vcpu, exit: exits.Debug) -> None:
        """After a vCPU's KVM_EXIT_DEBUG. Its own thread."""
        cpu, pc = vcpu.index, exit.pc
        with self._lock:
            if exit.exception == spec.BP_VECTOR:
                if self._patch_at(vcpu, pc) is not None:
                    self._halt(vcpu, Stop(cpu, BREAKPOINT, pc))
                else:
                    self._arm(vcpu, inject=lib.KVM_GUESTDBG_INJECT_BP)
                return
            # Not what is to be stepped: a stop of another one may have ended that meanwhile.
            stepping = exit.dr6 & spec.DR6_STEP and self._armed[cpu][0] & self._step_flags
            if stepping and self._past.pop(cpu, None) is not None:
                self._end_turn(cpu)
            hits = [one for n, one in enumerate(self._registers) if exit.dr6 >> n & 1]
            watched = [at for at, access, _ in hits if access != spec.EXECUTE]
            if watched:
                self._halt(vcpu, Stop(cpu, WATCHPOINT, watched[0]))
            elif execute(pc) in hits:
                self._halt(vcpu, Stop(cpu, BREAKPOINT, pc))
            elif cpu in self._steps and stepping:
                self._halt(vcpu, Stop(cpu, BREAKPOINT if self._breaks(pc) else STEP, pc))
            elif not (stepping or hits):  # the guest's own
                state = vcpu.debugregs
                state.dr6 |= exit.dr6 & spec.DR6_CAUSES
                vcpu.debugregs = state
                self._arm(vcpu, inject=lib.KVM_GUESTDBG_INJECT_DB)

    def _halt(self, vcpu: Vcpu, stop: Stop) -> None:
        """Stop the machine; only the first of several counts now.

        A breakpoint will be met again, but what happened to watched memory is owed.
        """
        if self.stop is None:
            self.stop = stop
            if stop.reason == BREAKPOINT:
                self._past[stop.cpu] = stop.address
                if self._patch_at(vcpu, stop.address) is not None:
                    self._turn = stop.cpu
                    self._machine.run_state.gate.put_first(stop.cpu)
            self._machine.run_state.halt(stop.reason)
        elif stop.reason == WATCHPOINT:
            self._owed[stop.cpu] = stop

    def _end_turn(self, cpu: int) -> None:
        """It is past its int3, which is put back; the others may run again."""
        if self._turn == cpu:
            self._put_patches()
            self._turn = None
            self._machine.run_state.gate.put_first(None)

    def _put_patches(self) -> None:
        for at in self._patches:
            self._machine.memory.write(at, spec.INT3)

    def _breaks(self, address: int) -> bool:
        return any(
            point.address == address and point.kind in (BREAK, HARDWARE_BREAK)
            for point in self.points
        )

    def _patch_at(self, vcpu: Vcpu, address: int) -> int | None:
        physical = vcpu.translate(address) if self._patches else None
        return physical if physical in self._patches else None

    def _arm(
        self, vcpu: Vcpu, step: bool = False, past: int | None = None, inject: int = 0
    ) -> None:
        """Tell KVM, without the breakpoint at `past`; `inject` is an exception for the guest."""
        control = inject | (self._step_flags if step else 0)
        debugreg = [0] * 8
        for n, one in enumerate(self._registers):
            if past is None or one != execute(past):
                debugreg[n], access, length = one
                debugreg[7] |= spec.DR7_FIXED | spec.dr7_bits(n, access, length)
        if debugreg[7]:
            control |= lib.KVM_GUESTDBG_USE_HW_BP
        if self._patches:
            control |= lib.KVM_GUESTDBG_USE_SW_BP
        if control:
            control |= lib.KVM_GUESTDBG_ENABLE
        wanted = (control, *debugreg)
        # A step begins with the call itself, and an exception is queued by it.
        if step or inject or self._armed.get(vcpu.index, DISARMED) != wanted:
            vcpu.set_guest_debug(control, debugreg)
            self._armed[vcpu.index] = wanted
