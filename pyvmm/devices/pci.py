"""PCI: configuration space, functions, one root bus and the two ways by which a guest reaches it.

All functions of a bus share one lock, the root's: it is held when any method here is called by the
bus. Configuration reads have no side effects, so that all of them are answered from what is
published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from pyvmm import layout
from pyvmm.bus import Bus
from pyvmm.devices import pci_spec as spec
from pyvmm.devices.device import Device
from pyvmm.errors import UsageError

PORT_WINDOW = range(layout.PCI_IO_WINDOW, layout.PCI_IO_WINDOW + layout.PCI_IO_WINDOW_SIZE)
MEMORY_WINDOW = range(layout.PCI_WINDOW, layout.PCI_WINDOW + layout.PCI_WINDOW_SIZE)


class ConfigSpace:
    """A function's 4096 bytes, with what the guest may change of them.

    `writable` has a bit set where a write stores it, `clearable` where writing one clears it.
    """

    def __init__(self) -> None:
        self.data = bytearray(spec.CONFIG_SIZE)
        self.writable = bytearray(spec.CONFIG_SIZE)
        self.clearable = bytearray(spec.CONFIG_SIZE)
        self._free = spec.HEADER_SIZE
        self._link = spec.CAPABILITIES  # the byte that is to point to the next capability

    def get(self, offset: int, size: int) -> int:
        """The little-endian number of `size` bytes at `offset`."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    def set(self, offset: int, size: int, value: int, *, writable: int = 0) -> None:
        """Store a number; `writable` are the bits of it that the guest may change."""
        self.data[offset : offset + size] = value.to_bytes(size, "little")
        self.writable[offset : offset + size] = writable.to_bytes(size, "little")

    def guest_write(self, offset: int, size: int, value: int) -> None:
        """Change what a guest's write may change."""
        for at, byte in enumerate(value.to_bytes(size, "little"), offset):
            writable, cleared = self.writable[at], self.clearable[at] & byte
            self.data[at] = (self.data[at] & ~writable | byte & writable) & ~cleared

    def add_capability(self, identity: int, body: bytes, writable: bytes = b"") -> int:
        """Append a capability of `body`, the bytes after its two-byte header; give its offset.

        `writable` masks the body's first bytes. Raises UsageError if there is no room.
        """
        offset = self._free
        end = offset + spec.CAPABILITY_HEADER + len(body)
        if end > spec.LEGACY_SIZE:
            raise UsageError("Capabilities must fit into 192 bytes")
        start = offset + spec.CAPABILITY_HEADER
        self.data[offset + spec.CAPABILITY_ID] = identity
        self.data[start:end] = body
        self.writable[start : start + len(writable)] = writable
        self.data[self._link] = offset
        self._link = offset + spec.CAPABILITY_NEXT
        self._free = -(-end // spec.CAPABILITY_ALIGN) * spec.CAPABILITY_ALIGN
        self.data[spec.STATUS] |= spec.STATUS_CAPABILITIES
        return offset


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
    command register has changed it.
    """

    def __init__(
        self,
        vendor: int,
        device: int,
        class_code: int,
        *,
        revision: int = 0,
        subsystem: tuple[int, int] = (spec.SUBSYSTEM_VENDOR, spec.SUBSYSTEM),
        interrupt_pin: int = 0,
    ) -> None:
        self.config = ConfigSpace()
        self.bars: list[Bar] = []
        self.windows: Sequence[range] = ()  # set by the root
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
        self.config.set(spec.INTERRUPT_PIN, 1, interrupt_pin)

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
        for offset in (spec.COMMAND, *(spec.BAR0 + 4 * index for index in range(spec.BARS))):
            self.config.guest_write(offset, 4, 0)
        self.config.guest_write(spec.INTERRUPT_LINE, 1, 0)
        self._decode()

    def read(self, offset: int, size: int) -> int:
        """Answer a read of configuration space."""
        return self.config.get(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of configuration space."""
        command = self.command
        self.config.guest_write(offset, size, value)
        if offset < spec.BAR0 + 4 * spec.BARS:
            self._decode()
        if self.command != command:
            self.on_command(self.command)

    @property
    def command(self) -> int:
        """The command register."""
        return self.config.get(spec.COMMAND, 2)

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


class PciRoot(Device):
    """Bus 0. `reset_machine` is called with the lock held, on a vCPU's thread (port 0xCF9).

    `windows` are the memory addresses that BARs may take. The offsets of `read` and `write` are
    those of ECAM: place << 12 | register, where a place is device << 3 | function.
    """

    def __init__(
        self,
        name: str,
        reset_machine: Callable[[], object],
        windows: Sequence[range] = (MEMORY_WINDOW,),
    ) -> None:
        super().__init__(name)
        self._windows = windows
        self._functions: dict[int, Function] = {}  # by place
        self._ports = ConfigPorts(self, reset_machine)

    def add(self, device: int, function: Function, number: int = 0) -> None:
        """Put `function` on the bus as `device`.`number`, before `claim`.

        Raises UsageError if that place is taken or does not exist.
        """
        if not (0 <= device < spec.DEVICES and 0 <= number < spec.FUNCTIONS):
            raise UsageError(
                f"A PCI device must be 0 to 31 with functions 0 to 7, not {device}.{number}"
            )
        place = device * spec.FUNCTIONS + number
        if place in self._functions:
            raise UsageError(f"PCI device {device}.{number} must be free")
        if number:
            first = self._functions.get(place - number)
            if first is None:
                raise UsageError(f"PCI device {device} must have a function 0 first")
            first.config.data[spec.HEADER_TYPE] |= spec.HEADER_MULTIFUNCTION
        function.windows = self._windows
        self._functions[place] = function

    def claim(self, pio: Bus, mmio: Bus) -> None:
        """Take the configuration ports and ECAM. Raises UsageError if they are not free."""
        pio.claim(layout.PCI_CONFIG_ADDRESS, spec.PORTS, self._ports, width=spec.WIDTH)
        self.window = mmio.claim(layout.ECAM, layout.ECAM_SIZE, self, width=spec.WIDTH)
        places = [-1, *sorted(self._functions), spec.DEVICES * spec.FUNCTIONS]
        for before, after in pairwise(places):
            absent = after - before - 1
            if absent:
                self.window.publish_ones(
                    before + 1 << spec.FUNCTION_SHIFT, absent << spec.FUNCTION_SHIFT
                )

    def reset(self) -> None:
        """Reset all functions and forget the address latch."""
        self._ports.reset()
        for place, function in self._functions.items():
            function.reset()
            self.publish(place)

    def publish(self, place: int) -> None:
        """Show the exit loop the configuration space at `place`; after every change of it."""
        self.window.publish(place << spec.FUNCTION_SHIFT, bytes(self._functions[place].config.data))

    def read(self, offset: int, size: int) -> int:
        """Answer a read of configuration space."""
        function = self._functions.get(offset >> spec.FUNCTION_SHIFT)
        if function is None:
            return super().read(offset, size)
        return function.read(offset & spec.CONFIG_SIZE - 1, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of configuration space."""
        place = offset >> spec.FUNCTION_SHIFT
        function = self._functions.get(place)
        if function is not None:
            function.write(offset & spec.CONFIG_SIZE - 1, size, value)
            self.publish(place)


class ConfigPorts(Device):
    """The eight ports that reach the bus, and the reset control register that lies among them.

    It shares the root's lock.
    """

    def __init__(self, root: PciRoot, reset_machine: Callable[[], object]) -> None:
        super().__init__(root.name)
        self.lock = root.lock
        self._root = root
        self._reset_machine = reset_machine
        self.reset()

    def reset(self) -> None:
        """Forget the address."""
        self._address = 0
        self._reset_control = 0

    def read(self, offset: int, size: int) -> int:
        """Answer a read of the address or of what it names."""
        if offset >= spec.DATA:
            target = self._target(offset)
            return super().read(offset, size) if target is None else self._root.read(target, size)
        if size == spec.ADDRESS_SIZE:
            return self._address
        if offset == spec.RESET_CONTROL and size == 1:
            return self._reset_control
        return super().read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of the address or of what it names."""
        if offset >= spec.DATA:
            target = self._target(offset)
            if target is not None:
                self._root.write(target, size, value)
        elif size == spec.ADDRESS_SIZE:
            self._address = value & spec.ADDRESS_WRITABLE
        elif offset == spec.RESET_CONTROL and size == 1:
            self._reset_control = value & spec.RESET_SYS_RST
            if value & spec.RESET_RST_CPU:
                self._reset_machine()

    def _target(self, offset: int) -> int | None:
        """The ECAM offset that the latched address and the data port's byte name."""
        if not self._address & spec.ADDRESS_ENABLE:
            return None
        place = (self._address & ~spec.ADDRESS_ENABLE) >> spec.ADDRESS_FUNCTION_SHIFT
        register = (self._address & spec.ADDRESS_REGISTER_MASK) + offset - spec.DATA
        return place << spec.FUNCTION_SHIFT | register


class HostBridge(Function):
    """Device 0 of the root bus, which has nothing to set."""

    def __init__(self) -> None:
        super().__init__(spec.HOST_BRIDGE_VENDOR, spec.HOST_BRIDGE_DEVICE, spec.CLASS_HOST_BRIDGE)
