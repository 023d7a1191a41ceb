"""The guest's memory. Source: QEMU, qapi/machine.json, dump.json and misc.json."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal, TypedDict

from pyvmm.inspection.newfile import new_file
from pyvmm.kvm import Vcpu
from pyvmm.layout import MIB, PAGE
from pyvmm.machine import Machine
from pyvmm.qmp.client import Client
from pyvmm.qmp.command import command
from pyvmm.qmp.errors import DEVICE_NOT_ACTIVE, QmpError
from pyvmm.virtio.balloon import Balloon

FILE = "file:"  # of dump-guest-memory's protocols, the only one here

MemoryInfo = TypedDict("MemoryInfo", {"base-memory": int, "plugged-memory": int})


class BalloonInfo(TypedDict):
    """How many bytes of memory the guest has."""

    actual: int


@command("query-memory-size-summary")
def query_memory_size_summary(client: Client) -> MemoryInfo:
    """Tell how much memory the machine has, in bytes."""
    return {"base-memory": client.machine.memory.size, "plugged-memory": 0}


@command("query-balloon")
def query_balloon(client: Client) -> BalloonInfo:
    """Tell how much of it the balloon leaves."""
    return {"actual": _balloon(client.machine).size}


@command("balloon")
def balloon(client: Client, value: int) -> None:
    """Ask the guest to make do with `value` bytes."""
    _balloon(client.machine).resize(value)


def _balloon(machine: Machine) -> Balloon:
    for device in machine.board.virtio.values():
        if isinstance(device, Balloon):
            return device
    raise QmpError("No balloon device has been activated", DEVICE_NOT_ACTIVE)


@command("memsave")
def memsave(client: Client, val: int, size: int, filename: str, cpu_index: int = 0) -> None:
    """Save `size` bytes at the virtual address `val` in a file."""
    cpus = client.machine.config.cpus
    if cpu_index not in range(cpus):
        raise QmpError(f"Parameter 'cpu-index' must be 0 to {cpus - 1}, not {cpu_index}")
    vcpu = client.machine.board.vcpus[cpu_index]
    with client.machine.paused():
        _save(client, _virtual(client.machine, vcpu, _range(val, size)), filename)


@command("pmemsave")
def pmemsave(client: Client, val: int, size: int, filename: str) -> None:
    """Save `size` bytes at the physical address `val` in a file."""
    places = _range(val, size)
    memory = client.machine.memory
    pieces = (memory.read(at, min(MIB, places.stop - at)) for at in range(val, places.stop, MIB))
    with client.machine.paused():
        _save(client, pieces, filename)


def _range(val: int, size: int) -> range:
    if val < 0 or size < 1 or val + size > 1 << 64:
        raise QmpError("val and size must be a range of 64-bit addresses")
    return range(val, val + size)


def _virtual(machine: Machine, vcpu: Vcpu, places: range) -> Iterator[bytes]:
    """What is there, page by page."""
    at = places.start
    while at < places.stop:
        physical = vcpu.translate(at)
        if physical is None:
            raise QmpError(f"Address {at:#x} is not mapped on vCPU {vcpu.index}")
        length = min(PAGE - at % PAGE, places.stop - at)
        yield machine.memory.read(physical, length)
        at += length


def _save(client: Client, pieces: Iterator[bytes], filename: str) -> None:
    with new_file(filename) as fd, os.fdopen(fd, "wb", closefd=False) as file:
        for piece in pieces:
            client.session.check()
            file.write(piece)


@command("dump-guest-memory")
def dump_guest_memory(
    client: Client, paging: bool, protocol: str, format: Literal["elf"] = "elf"
) -> None:
    """Write an ELF core file to `protocol`, which is file:PATH.

    Its mappings are the kernel's own, whatever `paging` says.
    """
    from pyvmm.inspection.coredump import dump

    path = protocol.removeprefix(FILE)
    if path == protocol:
        raise QmpError(f"Parameter 'protocol' must be {FILE}PATH, not '{protocol}'")
    dump(client.machine, path, client.session.check)
