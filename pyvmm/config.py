"""What a machine is made of: plain values, from arguments, options or a TOML file.

The devices of a machine are values too; `devices` is where disks, networks and their like go.
"""

import os
from collections.abc import Mapping, Sequence

from pyvmm.errors import HostError, UsageError
from pyvmm.memory import parse_size
from pyvmm.typed import TYPE_CHECKING, Any
from pyvmm.value import Value

if TYPE_CHECKING:
    from pyvmm.peripherals import Peripheral
    from pyvmm.virtio.device import VirtioDevice

ENTRIES = ("auto", "linux", "pvh")
SERIAL_KINDS = ("stdio", "none", "pty", "file:PATH", "unix:PATH")
TRANSPORTS = ("pci", "mmio")
BUFFER = "buffer"
SERIAL_PORTS = 2
MAX_NAME = 64
_PATH, _LIST = (str, os.PathLike), (tuple, list)


class Linux(Value):
    """A kernel image and what it is started with: a bzImage, a vmlinux, or a Multiboot image.

    Which of them `kernel` is, and how it is compressed, is found from its content. Without a
    `cmdline` Linux gets console=ttyS0. `initrd` is one path or several, which are concatenated
    (for Multiboot: one module each); paths may be pathlib's. `kaslr` lets a bzImage unpack itself
    at an address of its own choice. `entry` is one of ENTRIES: the Linux 64-bit boot protocol, PVH,
    or whichever of them the image has, in this order.
    """

    kernel: str | os.PathLike[str]
    initrd: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = ()
    cmdline: str | None = None
    kaslr: bool = False
    entry: str = "auto"

    @property
    def initrds(self) -> tuple[str, ...]:
        """The initrds' paths, also if only one was given."""
        if isinstance(self.initrd, (str, os.PathLike)):
            return (os.fspath(self.initrd),)
        return tuple(os.fspath(path) for path in self.initrd)

    def check(self) -> None:
        """Raise UsageError for what cannot be started."""
        _check_types(self, kernel=_PATH, initrd=(*_PATH, *_LIST), cmdline=(str, type(None)))
        if isinstance(self.initrd, _LIST):
            for path in self.initrd:
                _check_type("initrd", path, _PATH)
        if self.entry not in ENTRIES:
            raise UsageError(f"entry must be one of {', '.join(ENTRIES)}, not {self.entry!r}")


class MachineConfig(Value):
    """Everything about a machine before it is opened.

    `memory` is a size in bytes or as `512M`; `cpu` a CPU model as `host,-avx512f`; `serial` what
    COM1 and COM2 are connected to, each one of SERIAL_KINDS, or BUFFER, which keeps the output for
    Machine.serial. No `boot` means the built-in guest. `devices` are of pyvmm/peripherals.py, or
    virtio devices of your own, each with a name that no other has; how the guest reaches them is
    `transport`, one of TRANSPORTS.
    """

    boot: Linux | None = None
    memory: int | str = "512M"
    cpus: int = 1
    cpu: str = "host"
    serial: tuple[str, ...] = ("buffer",)
    no_reboot: bool = False
    name: str = "pyvmm"
    hugepages: bool = False
    prealloc: bool = False
    devices: "tuple[Peripheral | VirtioDevice, ...]" = ()
    transport: str = "pci"

    @property
    def memory_size(self) -> int:
        """The RAM's size in bytes. Raises UsageError if `memory` is no size."""
        return parse_size(self.memory, "memory")

    def check(self) -> None:
        """Raise UsageError for what no host could make."""
        _check_types(self, boot=(Linux, type(None)), memory=(int, str), cpus=(int,), cpu=(str,))
        _check_types(self, serial=_LIST, name=(str,))
        _ = self.memory_size
        if self.cpus < 1:
            raise UsageError(f"A machine must have at least 1 CPU, not {self.cpus}")
        if not self.name or len(self.name) > MAX_NAME or not self.name.isprintable():
            raise UsageError(f"A name must have 1 to {MAX_NAME} printable characters")
        if len(self.serial) > SERIAL_PORTS:
            raise UsageError(f"A machine has {SERIAL_PORTS} serial ports, not {len(self.serial)}")
        for kind in self.serial:
            _check_type("serial", kind, (str,))
            check_serial(kind, (*SERIAL_KINDS, BUFFER))
        if self.boot is not None:
            self.boot.check()
        if self.transport not in TRANSPORTS:
            raise UsageError(
                f"transport must be one of {', '.join(TRANSPORTS)}, not {self.transport!r}"
            )
        lines = list(self.serial)
        if self.devices:
            from pyvmm.peripherals import check_all

            lines += check_all(self.devices)
        if lines.count("stdio") > 1:
            raise UsageError("Only one serial port or console can be on stdio")


def _check_types(value: object, **kinds: tuple[type, ...]) -> None:
    for name, allowed in kinds.items():
        _check_type(name, getattr(value, name), allowed)


def _check_type(name: str, value: object, allowed: tuple[type, ...]) -> None:
    if not isinstance(value, allowed) or isinstance(value, bool):
        kinds = " or ".join(kind.__name__.removesuffix("Type") for kind in allowed)
        raise UsageError(f"{name} must be {kinds}, not {value!r}")


def check_serial(kind: str, kinds: Sequence[str], what: str = "A serial port") -> None:
    """Raise UsageError unless `kind` is one of `kinds`, in which PATH stands for any path."""
    name, colon, path = kind.partition(":")
    if (f"{name}:PATH" if colon and path else kind) not in kinds or "\0" in path:
        raise UsageError(f"{what} must be one of {', '.join(kinds)}, not {kind!r}")


_BOOT_KEYS = {"kernel": str, "initrd": (str, list), "append": str, "kaslr": bool, "entry": str}
_MACHINE_KEYS = {
    "memory": (str, int),
    "cpus": int,
    "cpu": str,
    "disk": (str, list),
    "net": (str, list),
    "vsock": (int, str),
    "serial": (str, list),
    "no_reboot": bool,
    "name": str,
    "hugepages": bool,
    "prealloc": bool,
    "transport": str,
    "rng": (bool, int, str),
    "console": (str, list),
    "balloon": (bool, int, str),
    "share": (str, list),
    "rootfs": str,
}


def load_toml(path: str) -> dict[str, Any]:
    """The settings of a TOML file, by the names of the options of `pyvmm run`.

    Raises HostError if it cannot be read, UsageError for what is no setting or of a wrong type.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            settings = tomllib.load(file)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from None
    known: Mapping[str, Any] = _BOOT_KEYS | _MACHINE_KEYS
    for key, value in settings.items():
        if key not in known:
            raise UsageError(f"{path}: {key!r} is none of {', '.join(sorted(known))}")
        kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise UsageError(f"{path}: {key} cannot be {value!r}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise UsageError(f"{path}: {key} must be a list of strings")
    return settings
