"""pyvmm: a KVM virtual machine monitor.

General layout
machine.py    Machine: what a program or the command line drives
board.py      every part of an open machine, made and wired in boot order
config.py     what a machine is made of, as values; ends.py: how its run can end
layout.py     the guest-physical map and the interrupt numbers
runloop.py    a vCPU's thread; loop.py: the thread that owns the machine's state
memory.py     guest RAM; bus.py: who answers an address; irq.py: interrupt lines
fastpath.py   what the C exit loop (csrc/) answers without Python
kvm/          /dev/kvm and nothing else, a binding that stands on its own
boot/         from a kernel image to a machine ready to enter it; ACPI tables
devices/      the board's chips; backends/: the host's side of them
pci/          the PCI bus, its functions, MSI-X; msi.py: messages and doorbells by KVM
virtio/       virtio devices, queues and transports; peripherals.py: their values, wiring.py: where
              they are plugged in
registry/     the machines that run, for other processes; metrics/: what they count
cli.py        the `pyvmm` command; doctor.py, diagnosis.py: what is wrong, in words
"""

from pyvmm.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyvmm.config import Linux, MachineConfig
    from pyvmm.disk_config import Disk
    from pyvmm.ends import (
        DebugExit,
        EmulationFailed,
        End,
        EntryFailed,
        Exited,
        GuestPanic,
        PoweredOff,
        Quit,
        Reset,
        TripleFault,
    )
    from pyvmm.errors import (
        HostError,
        ImageError,
        KvmError,
        MemoryAccessError,
        PyvmmError,
        UsageError,
    )
    from pyvmm.machine import Machine
    from pyvmm.net_config import Net, StreamNet, TapNet, UserNet, VhostUserNet
    from pyvmm.peripherals import Balloon, Console, Ports, Rng
    from pyvmm.registry.machines import RunningMachine, running
    from pyvmm.share_config import Rootfs, Share, StandardFiles
    from pyvmm.vsock_config import Vsock

__all__ = [
    "Balloon",
    "Console",
    "DebugExit",
    "Disk",
    "EmulationFailed",
    "End",
    "EntryFailed",
    "Exited",
    "GuestPanic",
    "HostError",
    "ImageError",
    "KvmError",
    "Linux",
    "Machine",
    "MachineConfig",
    "MemoryAccessError",
    "Net",
    "Ports",
    "PoweredOff",
    "PyvmmError",
    "Quit",
    "Reset",
    "Rng",
    "Rootfs",
    "RunningMachine",
    "Share",
    "StandardFiles",
    "StreamNet",
    "TapNet",
    "TripleFault",
    "UsageError",
    "UserNet",
    "VhostUserNet",
    "Vsock",
    "running",
]

# Where a name is when it is first asked for: the command and pyvmm.kvm start without the rest.
_HOMES = {
    "Disk": "disk_config",
    "Linux": "config",
    "Machine": "machine",
    "MachineConfig": "config",
    "Vsock": "vsock_config",
    **dict.fromkeys((name for name in __all__ if name.endswith("Net")), "net_config"),
    **dict.fromkeys(("Balloon", "Console", "Ports", "Rng"), "peripherals"),
    **dict.fromkeys(("RunningMachine", "running"), "registry.machines"),
    **dict.fromkeys(("Rootfs", "Share", "StandardFiles"), "share_config"),
    **dict.fromkeys((name for name in __all__ if name.endswith("Error")), "errors"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pyvmm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"pyvmm.{_HOMES.get(name, 'ends')}"), name)
