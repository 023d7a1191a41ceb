"""A vCPU's thread: run, match the exit, ask the bus, repeat."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pyvmm.bus import Bus
from pyvmm.kvm import exits
from pyvmm.kvm.vcpu import Vcpu


def run_vcpu(vcpu: Vcpu, pio: Bus, mmio: Bus) -> exits.Exit:
    """Run the guest and answer its accesses until something else happens: that exit.

    Only on the vCPU's thread.
    """
    while True:
        match vcpu.run():
            case exits.PioWrite(port, size, value):
                pio.write(port, size, value)
            case exits.PioRead(port, size):
                vcpu.answer(pio.read(port, size))
            case exits.MmioWrite(address, size, value):
                mmio.write(address, size, value)
            case exits.MmioRead(address, size):
                vcpu.answer(mmio.read(address, size))
            case other:
                return other


class Gate:
    """What the vCPU threads pass to run the guest. It begins shut."""

    def __init__(self, vcpus: Sequence[Vcpu]) -> None:
        self._vcpus = vcpus
        self._condition = threading.Condition()
        self._opened = False
        self._ended = False
        self._running = 0

    @property
    def opened(self) -> bool:
        """Whether vCPUs may run. Any thread."""
        return self._opened

    def enter(self) -> bool:
        """Wait until the gate is open; False if the machine has ended. A vCPU's thread."""
        with self._condition:
            self._condition.wait_for(lambda: self._opened or self._ended)
            self._running += not self._ended
            return not self._ended

    def leave(self) -> None:
        """Come back from `enter`. A vCPU's thread."""
        with self._condition:
            self._running -= 1
            self._condition.notify_all()

    def open(self) -> None:
        """Let the vCPUs run. Any thread."""
        with self._condition:
            self._opened = True
            self._condition.notify_all()

    def shut(self) -> None:
        """Ask every vCPU to come back, without waiting for it. Any thread."""
        with self._condition:
            self._opened = False
        for vcpu in self._vcpus:
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
