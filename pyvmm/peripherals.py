"""The virtio devices that a machine may have: values that say what, and the making of each.

A value's `open` imports what its device needs and makes it; only the board calls it. A device of
your own is a VirtioDevice, given as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from pyvmm.errors import UsageError
from pyvmm.loop import Loop
from pyvmm.typed import TYPE_CHECKING
from pyvmm.value import Value

if TYPE_CHECKING:
    from pyvmm.virtio.device import VirtioDevice


class Host(Value):
    """What a device may need of its machine when it is made."""

    cpus: int
    loop: Loop  # the machine's, for back ends that wait for something on the main thread
    # Stop the machine, for a reason told to the user, until what it returns is called. Any thread;
    # it does not wait for the vCPUs.
    stop: Callable[[str], Callable[[], object]]
    stack: ExitStack  # unwound when the machine is closed, after the devices


class Peripheral(Value):
    """The value of one device."""

    name: str

    def check(self) -> None:
        """Raise UsageError for what no host could make."""
        if not self.name:
            raise UsageError("A device must have a name")

    @property
    def shares_memory(self) -> bool:
        """Whether another process maps the guest's RAM."""
        return False

    def open(self, host: Host) -> VirtioDevice:
        """Make the device. Raises UsageError or HostError; nothing is left open then."""
        raise NotImplementedError


def check_all(devices: Sequence[object]) -> None:
    """Raise UsageError unless `devices` are such values or virtio devices, with different names."""
    from pyvmm.virtio.device import VirtioDevice

    names: set[str] = set()
    for device in devices:
        if isinstance(device, Peripheral):
            device.check()
        elif not isinstance(device, VirtioDevice):
            raise UsageError(f"A device must be one of pyvmm.peripherals, not {device!r}")
        if device.name in names:
            raise UsageError(f"A device's name must be its own; there are two {device.name!r}")
        names.add(device.name)


class Rng(Peripheral):
    """A source of random numbers from the host's getrandom(2): virtio-rng.

    `rate` bounds it, in bytes a second; 0 does not.
    """

    name: str = "rng"
    rate: int = 0

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        from pyvmm.virtio.rng import Rng as Device

        return Device(self.name, rate=self.rate)
