"""The virtio devices that a machine may have: values that say what, and the making of each.

A value's `open` imports what its device needs and makes it; only the board calls it. A device of
your own is a VirtioDevice, given as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from pyvmm.config import BUFFER, SERIAL_KINDS, check_serial
from pyvmm.errors import UsageError
from pyvmm.events import Event
from pyvmm.loop import Loop
from pyvmm.memory import parse_size
from pyvmm.typed import TYPE_CHECKING, Any
from pyvmm.value import Value

if TYPE_CHECKING:
    from pyvmm.backends.chardev import Chardev
    from pyvmm.virtio.device import VirtioDevice

MAX_PORTS = 31  # of one device: Linux's own limit where the host names none
MAX_PORT_NAME = 64  # bytes
HVC = "hvc"  # how the names of consoles begin in Linux


class Host(Value):
    """What a device may need of its machine when it is made."""

    cpus: int
    loop: Loop  # the machine's, for back ends that wait for something on the main thread
    # Stop the machine, for a reason told to the user, until what it returns is called. Any thread;
    # it does not wait for the vCPUs.
    stop: Callable[[str], Callable[[], object]]
    tell: Callable[[Event], object]  # those who listen to the machine; any thread
    # Open the host's end of a line, by its name and one of config.SERIAL_KINDS; the machine closes
    # it. Raises HostError.
    open_line: Callable[[str, str], Chardev]
    stack: ExitStack  # unwound when the machine is closed, after the devices
    name: str = "pyvmm"  # the machine's


class Peripheral(Value):
    """The value of one device."""

    name: str

    @property
    def lines(self) -> dict[str, str]:
        """Its lines by name, each with one of config.SERIAL_KINDS or BUFFER."""
        return {}

    @property
    def claims(self) -> tuple[str, ...]:
        """What no other device may have too, as a person would call it."""
        return ()

    def check(self) -> None:
        """Raise UsageError for what no host could make."""
        if not self.name:
            raise UsageError("A device must have a name")
        for kind in self.lines.values():
            check_serial(kind, (*SERIAL_KINDS, BUFFER), "A console")

    @property
    def shares_memory(self) -> bool:
        """Whether another process maps the guest's RAM."""
        return False

    def initramfs(self, kernel: str | None) -> bytes:
        """What it adds to the guest's initial RAM file system: a cpio archive, or nothing.

        `kernel` is the image's path, None for the built-in guest. Raises UsageError or ImageError.
        """
        return b""

    def open(self, host: Host) -> VirtioDevice:
        """Make the device. Raises UsageError or HostError; nothing is left open then."""
        raise NotImplementedError


def check_all(devices: Sequence[object]) -> list[str]:
    """Raise UsageError unless `devices` are such values or virtio devices, with different names.

    Returns what all their lines are connected to.
    """
    from pyvmm.virtio.device import VirtioDevice

    names: set[str] = set()
    claims: set[str] = set()
    lines: dict[str, str] = {}
    for device in devices:
        if isinstance(device, Peripheral):
            device.check()
            if both := lines.keys() & device.lines.keys():
                raise UsageError(f"A line's name must be its own; there are two {both.pop()!r}")
            lines |= device.lines
            if twice := claims.intersection(device.claims):
                raise UsageError(f"{twice.pop()} must be one device's only; two have it")
            claims.update(device.claims)
        elif not isinstance(device, VirtioDevice):
            raise UsageError(f"A device must be one of pyvmm.peripherals, not {device!r}")
        if device.name in names:
            raise UsageError(f"A device's name must be its own; there are two {device.name!r}")
        names.add(device.name)
    consoles = [device.name for device in devices if isinstance(device, Console)]
    if consoles != [f"{HVC}{index}" for index in range(len(consoles))]:
        raise UsageError(f"Consoles must be hvc0, hvc1 and so on, not {', '.join(consoles)}")
    return list(lines.values())


class Rng(Peripheral):
    """A source of random numbers from the host's getrandom(2): virtio-rng.

    `rate` bounds it, in bytes a second, also as `64K`; 0 does not.
    """

    name: str = "rng"
    rate: int | str = 0

    def check(self) -> None:
        """See Peripheral."""
        super().check()
        if parse_size(self.rate, "rng") < 0:
            raise UsageError(f"rng must be a number of bytes a second, not {self.rate}")

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        from pyvmm.virtio.rng import Rng as Device

        return Device(self.name, rate=parse_size(self.rate))


class Console(Peripheral):
    """A terminal of the guest's, /dev/hvc0 and so on in the order of the devices: virtio-console.

    `backend` is what it is connected to: one of config.SERIAL_KINDS, or `buffer`.
    """

    name: str = "hvc0"
    backend: str = "buffer"

    @property
    def lines(self) -> dict[str, str]:
        """See Peripheral."""
        return {self.name: self.backend}

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        from pyvmm.virtio.console import Console as Device

        return Device(self.name, host.open_line(self.name, self.backend))


class Ports(Peripheral):
    """Streams of bytes between guest and host, /dev/virtio-ports/NAME: virtio-console's ports.

    `ports` are their names, and what each is connected to, as for Console.
    """

    name: str = "ports"
    ports: Mapping[str, str] = {}

    @property
    def lines(self) -> dict[str, str]:
        """See Peripheral."""
        return dict(self.ports)

    def check(self) -> None:
        """See Peripheral."""
        super().check()
        if not 1 <= len(self.ports) <= MAX_PORTS:
            raise UsageError(f"There must be 1 to {MAX_PORTS} ports, not {len(self.ports)}")
        for name in self.ports:
            if not 1 <= len(name.encode()) <= MAX_PORT_NAME or not name.isprintable():
                raise UsageError(f"A port's name must be up to {MAX_PORT_NAME} bytes, not {name!r}")

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        from pyvmm.virtio.console import Ports as Device

        lines = [(name, host.open_line(name, kind)) for name, kind in self.ports.items()]
        return Device(self.name, lines)


class Balloon(Peripheral):
    """A way to take memory from the guest while it runs, and to get back what it does not use.

    `memory` is what it is left with at first, in bytes or as `256M`: all, if not given.
    """

    name: str = "balloon"
    memory: int | str | None = None

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        from pyvmm.virtio.balloon import Balloon as Device

        return Device(self.name, target=self.memory, tell=host.tell)


def parse_devices(settings: Mapping[str, Any]) -> list[Peripheral]:
    """The devices of the settings --rng, --console and --balloon. Raises UsageError."""
    devices: list[Peripheral] = []
    ports: dict[str, str] = {}
    consoles = settings.get("console", ())
    for text in [consoles] if isinstance(consoles, str) else consoles:
        name, equals, kind = text.partition("=")
        if not name or not equals:
            raise UsageError(f"A console must be NAME=KIND, as hvc0=stdio, not {text!r}")
        check_serial(kind, SERIAL_KINDS, "A console")
        if name.startswith(HVC) and name.removeprefix(HVC).isdigit():
            devices.append(Console(name, kind))
        elif name in ports:
            raise UsageError(f"A console's name must be its own; there are two {name!r}")
        else:
            ports[name] = kind
    if ports:
        devices.append(Ports(ports=ports))
    rate, memory = settings.get("rng", False), settings.get("balloon", False)
    if rate is not False:
        devices.append(Rng(rate=0 if rate is True else rate))
    if memory is not False:
        devices.append(Balloon(memory=None if memory is True else memory))
    return devices
