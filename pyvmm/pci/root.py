"""The PCI root bus, and the two ways by which a guest reaches its functions' configuration space.

All functions share one lock, the root's: it is held when any method here is called by the bus.
Configuration reads have no side effects but those of a function's `opaque` registers, so that all
others are answered from what is published.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from pyvmm import layout
from pyvmm.bus import Bus, Device
from pyvmm.errors import UsageError
from pyvmm.pci import pci_spec as spec
from pyvmm.pci.function import Function

MEMORY_WINDOW = range(layout.PCI_WINDOW, layout.PCI_WINDOW + layout.PCI_WINDOW_SIZE)


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
        self.functions: dict[int, Function] = {}  # by place
        self._publishing = threading.Lock()
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
        if place in self.functions:
            raise UsageError(f"PCI device {device}.{number} must be free")
        if number:
            first = self.functions.get(place - number)
            if first is None:
                raise UsageError(f"PCI device {device} must have a function 0 first")
            first.config.data[spec.HEADER_TYPE] |= spec.HEADER_MULTIFUNCTION
        function.windows = self._windows
        function.publish = partial(self._publish, place)
        self.functions[place] = function

    def claim(self, pio: Bus, mmio: Bus) -> None:
        """Take the configuration ports and ECAM. Raises UsageError if they are not free."""
        pio.claim(layout.PCI_CONFIG_ADDRESS, spec.PORTS, self._ports, width=spec.WIDTH)
        self.window = mmio.claim(layout.ECAM, layout.ECAM_SIZE, self, width=spec.WIDTH)
        places = [-1, *sorted(self.functions), spec.DEVICES * spec.FUNCTIONS]
        for before, after in pairwise(places):
            absent = after - before - 1
            if absent:
                self.window.publish_ones(
                    before + 1 << spec.FUNCTION_SHIFT, absent << spec.FUNCTION_SHIFT
                )

    def reset(self) -> None:
        """Reset all functions and forget the address latch."""
        self._ports.reset()
        for function in self.functions.values():
            function.reset()
            function.publish()

    def _publish(self, place: int) -> None:
        """Show the exit loop the configuration space at `place`. Any thread."""
        function, base = self.functions[place], place << spec.FUNCTION_SHIFT
        opaque = function.opaque or range(spec.CONFIG_SIZE, spec.CONFIG_SIZE)
        with self._publishing:
            data = bytes(function.config.data)
            self.window.publish(base, data[: opaque.start])
            if opaque.stop < spec.CONFIG_SIZE:
                self.window.publish(base + opaque.stop, data[opaque.stop :])

    def read(self, offset: int, size: int) -> int:
        """Answer a read of configuration space."""
        function = self.functions.get(offset >> spec.FUNCTION_SHIFT)
        if function is None:
            return super().read(offset, size)
        return function.read(offset & spec.CONFIG_SIZE - 1, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of configuration space."""
        function = self.functions.get(offset >> spec.FUNCTION_SHIFT)
        if function is not None:
            function.write(offset & spec.CONFIG_SIZE - 1, size, value)


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
