"""A PCI function: its header, its BARs and its interrupt pin."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from pyvmm import layout
from pyvmm.errors import UsageError
from pyvmm.irq import IrqLine
from pyvmm.pci import pci_spec as spec
from pyvmm.pci.config import ConfigSpace
from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.pci.msix import Msix

PORT_WINDOW = range(layout.PCI_IO_WINDOW, layout.PCI_IO_WINDOW + layout.PCI_IO_WINDOW_SIZE)


class Bar:
    """A window that a function asks for: `size` bytes of memory or of ports.

    `address` is where the guest has put it, None while it is not decoded or lies outside the
    root's windows.
    """

    def __init__(self, index: int, size: int, flags: int) -> None:
        self.index = index
        self.size = size
        self.flags = flags
        self.address: int | None = None

    @property
    def is_io(self) -> bool:
        """Whether it is ports."""
        return bool(self.flags & spec.BAR_IO)

    @property
    def width(self) -> int:
        """Bytes of its registers."""
        return 8 if not self.is_io and self.flags & spec.BAR_64 else 4

    @property
    def registers(self) -> range:
        """The indices of its registers."""
        return range(self.index, self.index + self.width // 4)


class Function:
    """One PCI function. `class_code` is 24 bits: base class, subclass, interface.

    Subclasses, or whoever makes one, may set the two callbacks; both run with the root's lock
    held, on a vCPU's thread:
    `on_bar(bar)` after `bar.address` has changed, `on_command(command)` after a write of the
    command register has changed it. `opaque` are the registers whose reads do something. A `line`
    is what INTA# is wired to.
    """

    opaque = range(0)

    def __init__(
        self,
        vendor: int,
        device: int,
        class_code: int,
        *,
        revision: int = 0,
        subsystem: tuple[int, int] = (spec.SUBSYSTEM_VENDOR, spec.SUBSYSTEM),
        line: IrqLine | None = None,
    ) -> None:
        self.config = ConfigSpace()
        self.bars: list[Bar] = []
        self.msix: Msix | None = None  # made by whoever wants it
        self.windows: Sequence[range] = ()  # this and the next are set by the root
        self.publish: Callable[[], object] = lambda: None  # after every change of `config`
        self.on_bar: Callable[[Bar], object] = lambda bar: None
        self.on_command: Callable[[int], object] = lambda command: None
        self.config.set(spec.VENDOR_ID, 2, vendor)
        self.config.set(spec.DEVICE_ID, 2, device)
        self.config.set(spec.COMMAND, 2, 0, writable=spec.COMMAND_WRITABLE)
        self.config.set(spec.REVISION, 1, revision)
        self.config.set(spec.CLASS, 3, class_code)
        self.config.set(spec.SUBSYSTEM_VENDOR_ID, 2, subsystem[0])
        self.config.set(spec.SUBSYSTEM_ID, 2, subsystem[1])
        self.config.set(spec.INTERRUPT_LINE, 1, 0, writable=0xFF)
        self.config.set(spec.INTERRUPT_PIN, 1, spec.PIN_A if line else spec.PIN_NONE)
        self._line = line
        self._asserted = False
        self._line_lock = threading.Lock()

    def add_bar(self, index: int, size: int, flags: int = 0) -> Bar:
        """Ask for `size` bytes, a power of two, in BAR `index` (a 64-bit one takes two).

        `flags` are BAR_IO, or BAR_64 and BAR_PREFETCH. Raises UsageError for what PCI has not.
        """
        bar = Bar(index, size, flags)
        low_flags = spec.BAR_IO_FLAGS if bar.is_io else spec.BAR_MEMORY_FLAGS
        limit = 1 << 8 * bar.width - 1
        if size & (size - 1) or not low_flags < size <= limit:
            raise UsageError(f"A BAR's size must be a power of two up to {limit:#x}, not {size:#x}")
        taken = {register for other in self.bars for register in other.registers}
        if bar.registers.stop > spec.BARS or taken.intersection(bar.registers):
            raise UsageError(f"BAR {index} must be free and one of {spec.BARS}")
        mask = (1 << 8 * bar.width) - size
        self.config.set(spec.BAR0 + 4 * index, bar.width, flags, writable=mask)
        self.bars.append(bar)
        return bar

    def reset(self) -> None:
        """Switch everything off and forget the addresses; what the device is stays."""
        command = self.command
        for offset in (spec.COMMAND, *(spec.BAR0 + 4 * index for index in range(spec.BARS))):
            self.config.guest_write(offset, 4, 0)
        self.config.guest_write(spec.INTERRUPT_LINE, 1, 0)
        if self.msix is not None:
            self.msix.reset()
        self.set_interrupt(False)
        self._decode()
        if command:
            self.on_command(0)

    def read(self, offset: int, size: int) -> int:
        """Answer a read of configuration space."""
        return self.config.get(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of configuration space."""
        command = self.command
        self.config.guest_write(offset, size, value)
        if offset < spec.BAR0 + 4 * spec.BARS:
            self._decode()
        if self.msix is not None:
            self.msix.update()
        if self.command != command:
            self._drive()
            self.on_command(self.command)
        self.publish()

    def set_interrupt(self, asserted: bool) -> None:
        """Assert INTA# or stop doing so. Any thread; no lock is needed."""
        self._asserted = asserted
        self._drive()

    @property
    def command(self) -> int:
        """The command register."""
        return self.config.get(spec.COMMAND, 2)

    @property
    def bus_master(self) -> bool:
        """Whether the function may read and write memory, and so send messages."""
        return bool(self.command & spec.COMMAND_BUS_MASTER)

    def _drive(self) -> None:
        """Show INTA# in the status register and, unless it is disabled, on the line."""
        if self._line is None:
            return
        with self._line_lock:
            asserted = self._asserted
            status = self.config.data[spec.STATUS] & ~spec.STATUS_INTERRUPT
            self.config.data[spec.STATUS] = status | (spec.STATUS_INTERRUPT if asserted else 0)
            self._line.set(asserted and not self.command & spec.COMMAND_INTX_DISABLE)
        self.publish()

    def _decode(self) -> None:
        """Tell of every BAR that has moved, those that went away before those that came."""
        moved = [
            (bar, address) for bar in self.bars if (address := self._address(bar)) != bar.address
        ]
        for bar, address in sorted(moved, key=lambda move: move[1] is not None):
            bar.address = address
            self.on_bar(bar)

    def _address(self, bar: Bar) -> int | None:
        if not self.command & (spec.COMMAND_IO if bar.is_io else spec.COMMAND_MEMORY):
            return None
        address = self.config.get(spec.BAR0 + 4 * bar.index, bar.width) & -bar.size
        windows = (PORT_WINDOW,) if bar.is_io else self.windows
        inside = any(w.start <= address and address + bar.size <= w.stop for w in windows)
        return address if inside else None


class HostBridge(Function):
    """Device 0 of the root bus, which has nothing to set."""

    def __init__(self) -> None:
        super().__init__(spec.HOST_BRIDGE_VENDOR, spec.HOST_BRIDGE_DEVICE, spec.CLASS_HOST_BRIDGE)
