"""A vCPU's thread: run, match the exit, ask the bus, repeat; and the gate that it passes."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from pyvmm import ends
from pyvmm.bus import Bus
from pyvmm.ends import End
from pyvmm.kvm import exits
from pyvmm.kvm.vcpu import Vcpu
from pyvmm.native import lib

PIO_READ, PIO_WRITE = lib.PV_EXIT_PIO_READ, lib.PV_EXIT_PIO_WRITE
MMIO_READ, MMIO_WRITE = lib.PV_EXIT_MMIO_READ, lib.PV_EXIT_MMIO_WRITE


def run_vcpu(vcpu: Vcpu, pio: Bus, mmio: Bus) -> exits.Exit:
    """Run the guest and answer its accesses until something else happens: that exit.

    This is `match vcpu.run()` without making an object of each access, which would cost as much as
    a device does. Only on the vCPU's thread.
    """
    native = vcpu.native
    while True:
        kind = lib.pv_vcpu_run(native)
        if kind == PIO_WRITE:
            pio.write(native.address, native.size, native.value)
        elif kind == PIO_READ:
            native.value = pio.read(native.address, native.size)
        elif kind == MMIO_WRITE:
            mmio.write(native.address, native.size, native.value)
        elif kind == MMIO_READ:
            native.value = mmio.read(native.address, native.size)
        else:
            return vcpu.describe(kind)


def end_of(cpu: int, exit: exits.Exit) -> End | None:
    """What `exit` of a vCPU means for the guest: its end, or None if it can go on. Any thread."""
    match exit:
        case exits.Interrupted():
            return None
        case exits.Shutdown():
            return ends.TripleFault(cpu)
        case exits.InternalError(suberror, data):
            return ends.EmulationFailed(cpu, suberror, _instruction(data))
        case exits.FailEntry(reason, _):
            return ends.EntryFailed(cpu, reason)
        case other:
            return ends.EntryFailed(cpu, getattr(other, "reason", 0))


def _instruction(data: Sequence[int]) -> bytes:
    """The bytes of the instruction that KVM could not emulate (struct kvm_run.emulation_failure):
    flags, then a size and up to 15 bytes."""
    flagged = lib.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
    if len(data) < 3 or not data[0] & flagged:
        return b""
    packed = b"".join(word.to_bytes(8, "little") for word in data[1:3])
    return packed[1 : 1 + min(packed[0], 15)]


class Gate:
    """What the vCPU threads pass to run the guest. It begins shut."""

    def __init__(self, vcpus: Sequence[Vcpu]) -> None:
        self.vcpus = vcpus
        self._condition = threading.Condition()
        self._opened = False
        self._ended = False
        self._running = 0
        self._only: Collection[int] | None = None
        self._first: int | None = None

    @property
    def opened(self) -> bool:
        """Whether vCPUs may run. Any thread."""
        return self._opened

    def enter(self, cpu: int) -> bool:
        """Wait until the gate is open for `cpu`; False if the machine has ended. Its own thread."""
        with self._condition:
            self._condition.wait_for(lambda: self._lets(cpu) or self._ended)
            self._running += not self._ended
            return not self._ended

    def _lets(self, cpu: int) -> bool:
        if not self._opened:
            return False
        if self._only is None:
            return self._first in (None, cpu)
        return cpu in self._only and (self._first not in self._only or self._first == cpu)

    def leave(self) -> None:
        """Come back from `enter`. A vCPU's thread."""
        with self._condition:
            self._running -= 1
            self._condition.notify_all()

    def open(self, only: Collection[int] | None = None) -> None:
        """Let the vCPUs run, or `only` some. Any thread."""
        with self._condition:
            self._opened = True
            self._only = only
            self._condition.notify_all()

    def put_first(self, cpu: int | None) -> None:
        """Of those that may run, let nobody but `cpu` enter; None ends that. Any thread."""
        with self._condition:
            self._first = cpu
            self._condition.notify_all()

    def shut(self) -> None:
        """Ask every vCPU to come back, without waiting for it. Any thread."""
        with self._condition:
            self._opened = False
        for vcpu in self.vcpus:
            vcpu.kick()

    def wait_parked(self) -> None:
        """Wait until no vCPU runs, or the gate is opened again. Any thread but a vCPU's."""
        with self._condition:
            self._condition.wait_for(lambda: self._opened or not self._running)

    def end(self) -> None:
        """Send the vCPU threads home. Any thread."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()
        self.shut()
