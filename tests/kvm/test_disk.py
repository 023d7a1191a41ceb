"""Disks under a guest that drives them itself (guests/virtio_blk.c)."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import TIMEOUT, numbered_disk, program

from pyvmm import DebugExit, Disk, Linux, Machine, Quit
from pyvmm.virtio.blk import Blk

PASSED = DebugExit(33)
FORMS: list[dict[str, Any]] = [
    {},
    {"cache": "none"},
    {"cache": "writethrough"},
    {"snapshot": True},
    {"queues": 1, "iops": 100000},
]


def machine(test: str, disk: Disk) -> Machine:
    boot = Linux(program("virtio_blk"), cmdline=test)
    return Machine(boot=boot, memory="64M", no_reboot=True, devices=(disk,))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return numbered_disk(tmp_path / "disk.img")


class Memory:
    """A Python disk; what is written to it waits while it is `full`."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.size = len(data)
        self.full = False
        self.failed = threading.Event()

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        if self.full:
            self.failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        self.data[offset : offset + len(data)] = data


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("test", ["requests", "depth"])
def test_every_kind_of_disk_does_what_a_guest_asks(
    image: Path, test: str, options: dict[str, Any]
) -> None:
    before = image.read_bytes()
    with machine(test, Disk("vda", image, serial="S1", **options)) as vm:
        vm.start()
        assert vm.wait(TIMEOUT) == PASSED, vm.serial.output
    assert (image.read_bytes() == before) == ("snapshot" in options)


@pytest.mark.parametrize("test", ["requests", "depth"])
def test_a_python_object_does_what_a_guest_asks(image: Path, test: str) -> None:
    backend = Memory(image.read_bytes())
    vm = machine(test, Disk("vda", backend=backend, serial="S1"))
    with vm:
        vm.start()
        if test == "requests":  # all but the discard, which it has not
            assert b"DISCARD" in vm.serial.expect(b"\n", TIMEOUT)
        else:
            assert vm.wait(TIMEOUT) == PASSED, vm.serial.output
    assert backend.data[5 * 512 : 5 * 512 + 2] == (b"\x34\x12" if test == "requests" else b"\5\0")


def test_a_disk_grows_while_the_guest_runs(image: Path) -> None:
    with machine("grow", Disk("vda", image)) as vm:
        vm.start()
        vm.serial.expect(b"ready\n", TIMEOUT)
        device = vm.board.virtio["vda"]
        assert isinstance(device, Blk)
        device.resize(2 * device.storage.size)
        assert vm.wait(TIMEOUT) == PASSED, vm.serial.output


def test_a_full_host_stops_the_machine_until_there_is_space(image: Path) -> None:
    backend = Memory(image.read_bytes())
    backend.full = True
    with machine("write", Disk("vda", backend=backend, werror="stop")) as vm:
        vm.start()
        assert backend.failed.wait(TIMEOUT)
        backend.failed.clear()
        assert backend.failed.wait(TIMEOUT)  # it has tried again
        assert vm.state == "paused"
        assert vm.stopped_by == "vda is out of space on the host; it goes on when there is"
        backend.full = False
        assert vm.wait(TIMEOUT) == PASSED
        assert vm.stopped_by is None
    assert backend.data[:2] == b"\x34\x12"


@pytest.mark.parametrize("how", ["quit", "reset"])
def test_a_machine_that_waits_for_space_can_be_ended_or_reset(image: Path, how: str) -> None:
    backend = Memory(image.read_bytes())
    backend.full = True
    disk = Disk("vda", backend=backend, werror="stop")
    with Machine(machine("write", disk).config, no_reboot=False) as vm:
        vm.start()
        assert backend.failed.wait(TIMEOUT)
        backend.full = False
        getattr(vm, how)()
        assert vm.wait(TIMEOUT) == (Quit() if how == "quit" else PASSED)
