"""Interrupts and doorbells as a device sees them."""

from __future__ import annotations

import threading

from pyvmm.typed import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pyvmm.kvm.vm import Vm  # devices import this module and must not need the C extension


class IrqLine(Protocol):
    """A wire to an interrupt controller. Any thread may call it."""

    def set(self, level: bool) -> None:
        """Drive the wire high or low; driving it to the level that it has changes nothing."""


class MsiVector(Protocol):
    """One message-signalled interrupt, raised by eventfds. Any thread may call it."""

    def route(self, address: int, data: int) -> None:
        """Set the message that it sends."""

    def connect(self, eventfd: int) -> None:
        """Send the message whenever `eventfd` is signalled; at once if it is signalled already."""

    def disconnect(self, eventfd: int) -> None:
        """No longer. What is signalled meanwhile stays in the eventfd."""


class Doorbells(Protocol):
    """Addresses whose writes signal an eventfd without an exit. Any thread may call it."""

    def connect(self, address: int, eventfd: int, datamatch: int | None = None) -> None:
        """Signal `eventfd` on writes at the MMIO `address`; with `datamatch`, of that value."""

    def disconnect(self, address: int, eventfd: int, datamatch: int | None = None) -> None:
        """No longer."""


class GsiLine:
    """A level-triggered or edge-triggered line of the in-kernel interrupt controllers.

    One device drives it, with its lock held.
    """

    def __init__(self, vm: Vm, gsi: int) -> None:
        self._vm = vm
        self.gsi = gsi
        self.level = False
        self.raised = 0  # how often it went high

    def set(self, level: bool) -> None:
        """See IrqLine."""
        if level != self.level:
            self.level = level
            self.raised += level
            self._vm.irq_line(self.gsi, level)


class SharedLine:
    """A line that is high while any of those who share it drives theirs high. Any thread."""

    def __init__(self, line: IrqLine) -> None:
        self._line = line
        self._lock = threading.Lock()
        self._high: set[object] = set()

    def share(self) -> IrqLine:
        """One more that drives it."""
        return _Share(self)

    def set(self, who: object, level: bool) -> None:
        """Drive it high or low for one of them."""
        with self._lock:
            (self._high.add if level else self._high.discard)(who)
            self._line.set(bool(self._high))


class _Share:
    def __init__(self, shared: SharedLine) -> None:
        self._shared = shared

    def set(self, level: bool) -> None:
        """See IrqLine."""
        self._shared.set(self, level)
