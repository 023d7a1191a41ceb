"""A machine's virtio devices: each made and put behind a transport. Imported if there are any."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache

from pyvmm import layout
from pyvmm.board import Board
from pyvmm.errors import UsageError
from pyvmm.irq import SharedLine
from pyvmm.msi import KvmDoorbells, MsiRouter
from pyvmm.pci.pci_spec import DEVICES
from pyvmm.peripherals import Host, Peripheral
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.transport import RegisterTransport

PCI_SLOTS = range(1, DEVICES)  # 0 is the host bridge's


def plug_all(board: Board, stack: ExitStack) -> None:
    """Make the machine's devices and their transports; `stack` undoes it.

    Raises UsageError or HostError.
    """
    config = board.config
    pci = config.transport == "pci"
    limit = len(PCI_SLOTS) if pci else layout.VIRTIO_MMIO_MAX
    if len(config.devices) > limit:
        raise UsageError(f"A machine has room for {limit} devices, not {len(config.devices)}")
    host = Host(
        config.cpus,
        board.loop,
        board.callbacks.stop,
        board.callbacks.tell,
        board.callbacks.open_line,
        stack,
        config.name,
    )
    plug = PciBus(board).plug if pci else MmioBus(board).plug
    for what in config.devices:
        if isinstance(what, Peripheral):
            _add_archive(board, what, stack)
        device = what.open(host) if isinstance(what, Peripheral) else what
        assert isinstance(device, VirtioDevice)  # MachineConfig.check
        try:
            transport = plug(device)
        except BaseException:
            device.close()
            raise
        stack.callback(transport.close)
        board.devices.append(transport)
        board.virtio[device.name] = device


def _add_archive(board: Board, what: Peripheral, stack: ExitStack) -> None:
    """Keep what a device adds to the initial RAM file system in a file without a name."""
    boot = board.config.boot
    content = what.initramfs(None if boot is None else os.fspath(boot.kernel))
    if content:
        fd = os.memfd_create("initramfs", os.MFD_CLOEXEC)
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        stack.callback(os.close, fd)
        board.archives.append(f"/proc/self/fd/{fd}")


class PciBus:
    """Slots of the root bus, in order; a slot's INTA# is wired as the DSDT's _PRT says."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._doorbells = KvmDoorbells(board.vm)
        self._router = MsiRouter(board.vm)
        self._shared = cache(SharedLine)
        self._slots = iter(PCI_SLOTS)

    def plug(self, device: VirtioDevice) -> RegisterTransport:
        """Put `device` into the next slot."""
        from pyvmm.virtio.pci import PciTransport

        board, slot = self._board, next(self._slots)
        gsi = layout.PCI_INTX_GSIS[slot % len(layout.PCI_INTX_GSIS)]
        transport = PciTransport(
            device,
            board.memory,
            board.loop,
            self._doorbells,
            mmio=board.mmio,
            line=self._shared(board.line(gsi, device.name)).share(),
            vectors=[self._router.vector() for _ in range(len(device.queue_sizes) + 1)],
        )
        board.pci.add(slot, transport.function)
        return transport


class MmioBus:
    """Places in the window of the virtio-mmio transports, in order."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._doorbells = KvmDoorbells(board.vm)
        self._shared = cache(SharedLine)

    def plug(self, device: VirtioDevice) -> RegisterTransport:
        """Put `device` into the next place."""
        from pyvmm.virtio import mmio_spec
        from pyvmm.virtio.mmio import MmioTransport

        board, number = self._board, len(self._board.virtio_mmio)
        base = layout.VIRTIO_MMIO + number * layout.VIRTIO_MMIO_STRIDE
        gsi = layout.VIRTIO_MMIO_GSIS[number % len(layout.VIRTIO_MMIO_GSIS)]
        transport = MmioTransport(
            device,
            board.memory,
            board.loop,
            self._doorbells,
            base=base,
            line=self._shared(board.line(gsi, device.name)).share(),
        )
        board.mmio.claim(base, mmio_spec.SIZE, transport, width=mmio_spec.WIDTH)
        board.virtio_mmio.append((base, gsi))
        return transport


def command_line(places: Sequence[tuple[int, int]]) -> str:
    """What tells a kernel without ACPI of the transports (admin-guide/kernel-parameters)."""
    size = layout.VIRTIO_MMIO_STRIDE >> 10
    return "".join(f" virtio_mmio.device={size}K@{base:#x}:{gsi}" for base, gsi in places)
