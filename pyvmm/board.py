"""The board: every part of an open machine, made and wired in boot order.

The order matters for speed: a memory slot costs a grace period once interrupt controllers exist.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from pyvmm import layout
from pyvmm.backends.chardev import Chardev
from pyvmm.boot import acpi, start
from pyvmm.boot.entry import Entry
from pyvmm.bus import Bus, Device
from pyvmm.config import MachineConfig
from pyvmm.devices import acpi_pm_spec, debugexit, i8042_spec, rtc_spec, serial_spec
from pyvmm.devices.acpi_pm import AcpiPm
from pyvmm.devices.debugexit import DebugExit, ExitStatus
from pyvmm.devices.i8042 import I8042
from pyvmm.devices.postcode import DebugConsole, PostCode
from pyvmm.devices.pvpanic import PvPanic
from pyvmm.devices.rtc import Rtc
from pyvmm.devices.serial import CharBackend, Serial
from pyvmm.errors import UsageError
from pyvmm.events import Event
from pyvmm.fastpath import FastPath
from pyvmm.fastpath import enabled as fastpath_enabled
from pyvmm.irq import GsiLine
from pyvmm.kvm import Kvm, Vcpu, Vm
from pyvmm.kvm.cpuid import guest_cpuid, parse_cpu_model, physical_bits
from pyvmm.kvm.system import host_brand
from pyvmm.kvm.vm import IRQCHIPS
from pyvmm.log import Log
from pyvmm.loop import Loop
from pyvmm.memory import GuestMemory
from pyvmm.pci.function import HostBridge
from pyvmm.pci.root import MEMORY_WINDOW, PciRoot
from pyvmm.typed import TYPE_CHECKING, Any
from pyvmm.value import Value

if TYPE_CHECKING:
    from pyvmm.virtio.device import VirtioDevice

log = Log(__name__)

REQUIRED = ("IRQCHIP", "PIT2", "USER_MEMORY", "IMMEDIATE_EXIT", "EXT_CPUID", "SYNC_REGS")


class Callbacks(Value):
    """What the board tells the machine; called on any thread, perhaps with a device's lock held."""

    power_off: Callable[[], object]
    reset: Callable[[], object]
    debug_exit: Callable[[int], object]
    exited: Callable[[int], object]
    panicked: Callable[[], object]
    output: Callable[[int, bytes], object]  # what serial port 0 or 1 sends
    open_line: Callable[[str, str], Chardev]  # see peripherals.Host
    stop: Callable[[str], Callable[[], object]]  # see peripherals.Host
    tell: Callable[[Event], object]  # see peripherals.Host


class Board:
    """All parts of one machine. Made, reset and closed while no vCPU runs."""

    def __init__(
        self,
        config: MachineConfig,
        loop: Loop,
        backends: Sequence[CharBackend],
        callbacks: Callbacks,
        progress: Callable[[str], object] | None = None,
    ) -> None:
        """Make them all. Raises UsageError, HostError or ImageError; nothing is left then."""
        self.config = config
        self.loop = loop
        self.callbacks = callbacks
        self.progress = progress
        with ExitStack() as stack:
            self.kvm = stack.enter_context(Kvm())
            self.kvm.require(*REQUIRED)
            self._check_limits()
            self.memory = GuestMemory(
                config.memory_size,
                shared=any(what.shares_memory for what in config.devices),
                hugepages=config.hugepages,
                prealloc=config.prealloc,
            )
            stack.callback(self.memory.close)
            self.vm: Vm = stack.enter_context(self.kvm.create_vm())
            self._make_memory()
            self._make_interrupt_controllers()
            self._make_buses(stack)
            self._make_devices(backends)
            self._make_virtio(stack)
            for device in self.devices:
                device.reset()
            self.vcpus: list[Vcpu] = []
            for index in range(config.cpus):
                self.vcpus.append(stack.enter_context(self.vm.create_vcpu(index)))
            self._make_cpus()
            self._initial = None if config.no_reboot else self._save()
            self._load()
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Release everything; no vCPU may be in use."""
        self._stack.close()

    # ---- making, in this order ----

    def _check_limits(self) -> None:
        limit = self.kvm.capability("MAX_VCPUS")
        if self.config.cpus > limit:
            raise UsageError(f"This host allows {limit} CPUs, not {self.config.cpus}")
        self.supported_cpuid = self.kvm.supported_cpuid()
        self.cpu_model = parse_cpu_model(self.config.cpu)
        # The top quarter of the guest's physical addresses is the 64-bit PCI window.
        quarter = 1 << physical_bits(self.supported_cpuid) - 2
        self.pci_window64 = (3 * quarter, quarter)
        largest = 3 * quarter - (layout.HOLE_END - layout.HOLE)
        if self.config.memory_size > largest:
            raise UsageError(f"This host allows {largest >> 30}G of memory for a machine")

    def _make_memory(self) -> None:
        for slot, region in enumerate(self.memory.regions):
            self.vm.set_memory(slot, region.base, region.view)

    def _make_interrupt_controllers(self) -> None:
        self.vm.set_identity_map_address(layout.IDENTITY_MAP)
        self.vm.set_tss_address(layout.TSS)
        self.vm.create_irqchip()
        self.vm.create_pit()

    def _make_buses(self, stack: ExitStack) -> None:
        self.fastpath = FastPath(self.loop) if fastpath_enabled() else None
        make_window = None
        if self.fastpath is not None:
            stack.callback(self.fastpath.close)
            make_window = self.fastpath.window
        self.pio = Bus("pio", make_window)
        self.mmio = Bus("mmio", make_window)

    def _make_devices(self, backends: Sequence[CharBackend]) -> None:
        on = self.callbacks
        self.devices: list[Device] = []
        self.wired: dict[int, tuple[GsiLine, list[str]]] = {}  # by GSI: the line, who drives it
        self.serials = [
            self._add(
                Serial(
                    f"COM{index + 1}",
                    self.line(layout.COM_GSIS[index], f"COM{index + 1}"),
                    backend,
                    partial(on.output, index),
                ),
                (layout.COM_PORTS[index], serial_spec.PORTS),
            )
            for index, backend in enumerate(backends)
        ]
        self.i8042 = self._add(
            I8042("i8042", self.line(layout.KEYBOARD_GSI, "i8042"), on.reset),
            (layout.I8042_DATA, 1, i8042_spec.DATA),
            (layout.I8042_COMMAND, 1, i8042_spec.COMMAND),
        )
        self.rtc = self._add(
            Rtc("RTC", self.line(layout.RTC_GSI, "RTC"), self.loop),
            (layout.RTC_PORT, rtc_spec.PORTS),
        )
        self.acpi_pm = self._add(
            AcpiPm("ACPI PM", self.line(layout.SCI_GSI, "ACPI PM"), self.loop, on.power_off),
            (layout.ACPI_PM_PORT, acpi_pm_spec.BLOCK_SIZE),
            width=4,
        )
        self.post = self._add(PostCode("POST"), (layout.POST_PORT, 1))
        self._add(DebugConsole("debugcon", _log_debug_output), (layout.DEBUGCON_PORT, 1))
        self._add(
            DebugExit("debug exit", on.debug_exit),
            (layout.DEBUG_EXIT_PORT, debugexit.PORTS),
            width=4,
        )
        self._add(ExitStatus("exit status", on.exited), (layout.EXIT_STATUS_PORT, 1))
        self._add(PvPanic("pvpanic", on.panicked), (layout.PVPANIC_PORT, 1))
        windows = [MEMORY_WINDOW, _span(self.pci_window64)]
        self.pci = PciRoot("PCI", on.reset, windows)
        self.pci.add(0, HostBridge())

    def _make_virtio(self, stack: ExitStack) -> None:
        self.virtio: dict[str, VirtioDevice] = {}
        self.virtio_mmio: list[tuple[int, int]] = []  # base and GSI of each transport
        self.archives: list[str] = []  # files that devices add to the initial RAM file system
        if self.config.devices:
            from pyvmm.wiring import plug_all

            plug_all(self, stack)
        self.pci.claim(self.pio, self.mmio)
        self.devices.append(self.pci)

    def line(self, gsi: int, who: str) -> GsiLine:
        """The line of an interrupt, for one more device: whoever shares it needs a SharedLine."""
        line, names = self.wired.setdefault(gsi, (GsiLine(self.vm, gsi), []))
        names.append(who)
        return line

    def _add(self, device: Any, *claims: tuple[int, ...], width: int = 1) -> Any:
        for base, size, *offset in claims:
            device.window = self.pio.claim(
                base, size, device, offset=offset[0] if offset else 0, width=width
            )
        self.devices.append(device)
        return device

    def _make_cpus(self) -> None:
        deadline = bool(self.kvm.capability("TSC_DEADLINE_TIMER"))
        brand = host_brand()
        for vcpu in self.vcpus:
            if self.fastpath is not None:
                vcpu.native.fastpath = self.fastpath.native
            vcpu.set_cpuid(
                guest_cpuid(
                    self.supported_cpuid,
                    self.cpu_model,
                    vcpu.index,
                    len(self.vcpus),
                    tsc_deadline=deadline,
                    brand=brand,
                )
            )
            start.set_common_msrs(vcpu)

    # ---- boot and reset ----

    def _load(self) -> None:
        """Write the ACPI tables and the kernel into memory, which is all zeros; set vCPU 0."""
        tables = acpi.build(
            layout.ACPI_TABLES,
            acpi.Board(
                cpus=self.config.cpus,
                com_ports=tuple(range(len(self.serials))),
                pci_window64=self.pci_window64,
                virtio_mmio=tuple(self.virtio_mmio),
            ),
        )
        self.memory.write(layout.ACPI_TABLES, tables)
        start.enter(self.vcpus[0], self._load_kernel())

    def _load_kernel(self) -> Entry:
        what = self.config.boot
        if what is None:
            from pyvmm.boot import builtin

            self.cmdline = ""
            return builtin.load(self.memory)
        from pyvmm.boot import image

        cmdline = what.cmdline
        if self.virtio_mmio and "acpi=off" in (cmdline or "").split():
            from pyvmm.wiring import command_line

            cmdline = f"{cmdline}{command_line(self.virtio_mmio)}"
        self.cmdline = image.DEFAULT_CMDLINE if cmdline is None else cmdline
        return image.load(
            os.fspath(what.kernel),
            self.memory,
            cmdline=cmdline,
            initrds=[*what.initrds, *self.archives],
            rsdp=layout.ACPI_TABLES,
            kaslr=what.kaslr,
            protocol=what.entry,
            progress=self.progress,
        )

    def reset(self) -> None:
        """Start again, as after power-on: RAM is cleared. Raises what making the board raises."""
        if self._initial is None:
            raise UsageError("A machine made with no_reboot cannot be reset")
        for device in self.devices:
            with device.lock:
                device.reset()
        self._initial.restore(self.vm, self.vcpus)
        self.memory.discard()
        self._load()

    def _save(self) -> PowerOnState:
        return PowerOnState(
            self.vm,
            self.vcpus,
            self.kvm.msr_indices(),
            max(self.kvm.capability("XSAVE2"), 4096),
        )

    def drain(self) -> None:
        """Hand every device what the exit loop has queued for it. Any thread."""
        if self.fastpath is not None:
            self.fastpath.drain()


def _log_debug_output(data: bytes) -> None:
    log.info("Debug port: %s", data.decode("ascii", "backslashreplace"))


def _span(window: tuple[int, int]) -> range:
    base, size = window
    return range(base, base + size)


class PowerOnState:
    """What the kernel's parts of the board are after they were made, to put them back there."""

    _PIECES = ("sregs", "regs", "lapic", "xcrs", "debugregs", "events")

    def __init__(self, vm: Vm, vcpus: Sequence[Vcpu], msrs: Sequence[int], xsave_size: int) -> None:
        self._chips = [vm.get_irqchip(chip) for chip in IRQCHIPS]
        self._pit = vm.get_pit()
        self._vcpus = [
            (
                {name: getattr(vcpu, name) for name in self._PIECES},
                vcpu.get_xsave(xsave_size),
                vcpu.get_msrs(msrs),
                vcpu.mp_state,
            )
            for vcpu in vcpus
        ]

    def restore(self, vm: Vm, vcpus: Sequence[Vcpu]) -> None:
        """Put it back. Raises KvmError."""
        for chip in self._chips:
            vm.set_irqchip(chip)
        vm.set_pit(self._pit)
        for vcpu, (pieces, xsave, msrs, mp_state) in zip(vcpus, self._vcpus, strict=True):
            vcpu.set_xsave(xsave)
            for name, state in pieces.items():
                setattr(vcpu, name, state)
            now = vcpu.get_msrs(list(msrs))
            vcpu.set_msrs({msr: value for msr, value in msrs.items() if now.get(msr) != value})
            vcpu.mp_state = mp_state
