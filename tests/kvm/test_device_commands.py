"""The monitor's commands about devices, on machines with small guests."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest
from conftest import TIMEOUT, numbered_disk, program

from pyvmm import Disk, Linux, Machine, Net, TripleFault, events
from pyvmm.ends import DebugExit
from pyvmm.errors import UsageError
from pyvmm.peripherals import Balloon, Console, Peripheral, Rng

PASSED = DebugExit(33)
MIB = 1 << 20


class Quiet:
    """A network with nobody else in it."""

    def attach(self, receive: object) -> None:
        pass

    def send(self, frame: bytes) -> None:
        pass


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return numbered_disk(tmp_path / "disk.img")


def data(vm: Machine, line: str) -> Any:
    result = vm.command(line)
    assert result is not None
    assert str(result)
    return result.data


def everything(image: Path) -> tuple[Peripheral, ...]:
    return (
        Disk("vda", image, snapshot=True),
        Net("eth0", mac="52:54:00:12:34:56", backend=Quiet()),
        Balloon(),
        Rng(),
        Console("hvc0", "buffer"),
    )


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_every_device_can_be_looked_at(image: Path, transport: str) -> None:
    with Machine(memory="64M", devices=everything(image), transport=transport) as vm:
        vm.start()
        virtio = data(vm, "info virtio")
        assert [(one["device"], one["kind"], one["status"]) for one in virtio] == [
            ("vda", "block", "RESET"),
            ("eth0", "net", "RESET"),
            ("balloon", "balloon", "RESET"),
            ("rng", "rng", "RESET"),
            ("hvc0", "console", "RESET"),
        ]
        places = {"pci": ["00:01.0", "00:02.0"], "mmio": ["0xfeb00000", "0xfeb01000"]}
        assert [one["at"] for one in virtio][:2] == places[transport]
        for name in (one["device"] for one in virtio):
            assert "VERSION_1" in data(vm, f"info virtio {name}")[name]["offered"]
        vda = data(vm, "info virtio vda")["vda"]
        assert vda["settings"] == f"path={image} snapshot=True"
        functions = data(vm, "info pci")
        assert next(iter(functions)) == "00:00.0 host bridge"
        assert len(functions) == (6 if transport == "pci" else 1)
        (disk,) = data(vm, "info block")["Disks"]
        assert (disk["image"], disk["size"], disk["mode"]) == (str(image), MIB, "snapshot")
        (net,) = data(vm, "info network")["Networks"]
        assert (net["kind"], net["MAC"], net["link"]) == ("python", "52:54:00:12:34:56", "up")
        assert [line["line"] for line in data(vm, "info chardev")] == ["COM1", "hvc0"]


def test_a_machine_without_devices_says_so() -> None:
    with Machine(memory="64M") as vm:
        vm.start()
        assert data(vm, "info virtio") == []
        assert data(vm, "info block") == {"Disks": [], "Operations": []}
        for line in ("info balloon", "balloon 1M"):
            with pytest.raises(UsageError, match="must have a balloon, which --balloon gives it"):
                vm.command(line)
        with pytest.raises(UsageError, match="has no block device"):
            vm.command("block resize vda 1M")


def test_a_running_disk_is_resized_and_counted(image: Path) -> None:
    boot = Linux(program("virtio_blk"), cmdline="grow")
    with Machine(boot=boot, memory="64M", no_reboot=True, devices=(Disk("vda", image),)) as vm:
        vm.start()
        vm.serial.expect(b"ready\n", TIMEOUT)
        vda = data(vm, "info virtio vda")
        assert vda["vda"]["status"].split()[2] == "DRIVER_OK"
        (queue_,) = (one for one in vda["Queues"] if one["enabled"])
        assert queue_["available"] == queue_["used"] == queue_["seen"] == 1
        vm.command("block resize vda 2M")
        assert vm.wait(TIMEOUT) == PASSED, vm.serial.output
        (disk,) = data(vm, "info block")["Disks"]
        assert disk["size"] == 2 * MIB
        read, write, *_ = data(vm, "info block")["Operations"]
        assert (read["operations"], read["bytes"], read["errors"]) == (1, 512, 1)
        assert write["operations"] == 0
    assert image.stat().st_size == 2 * MIB


def test_what_a_snapshot_keeps_is_committed(image: Path) -> None:
    boot = Linux(program("virtio_blk"), cmdline="write")
    disk = Disk("vda", image, snapshot=True)
    with Machine(boot=boot, memory="64M", no_reboot=True, devices=(disk,)) as vm:
        vm.start()
        assert vm.wait(TIMEOUT) == PASSED, vm.serial.output
        assert image.read_bytes()[:2] == b"\0\0"
        with pytest.raises(UsageError, match="must keep the size of its image"):
            vm.command("block resize vda 2M")
        vm.command("block commit vda")
        assert image.read_bytes()[:2] == b"\x34\x12"


class Broken:
    """A disk that can be read only."""

    size = MIB

    def read(self, offset: int, length: int) -> bytes:
        return bytes(length)

    def write(self, offset: int, data: bytes) -> None:
        raise OSError(5, "Input/output error")


def test_who_listens_is_told_of_what_happens_to_devices(image: Path) -> None:
    told: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
    boot = Linux(program("virtio_blk"), cmdline="write")
    devices = (Disk("vda", backend=Broken()), Net("eth0", backend=Quiet()))
    with Machine(boot=boot, memory="64M", no_reboot=True, devices=devices) as vm:
        vm.listen(told.put)
        vm.command("link eth0 down")
        assert told.get(timeout=TIMEOUT) == events.LinkChanged("eth0", False)
        assert data(vm, "info network")["Networks"][0]["link"] == "down"
        vm.command("link eth0 up")
        assert told.get(timeout=TIMEOUT) == events.LinkChanged("eth0", True)
        vm.start()
        error = events.BlockError("vda", "write", "Input/output error", False)
        while told.get(timeout=TIMEOUT) != error:
            pass


def test_an_nmi_reaches_the_processor() -> None:
    with Machine(memory="64M", no_reboot=True) as vm:
        vm.start()
        vm.serial.expect(b"> ", TIMEOUT)
        with pytest.raises(UsageError, match="CPU must be 0 to 0, not 1"):
            vm.command("nmi 1")
        with pytest.raises(UsageError, match="A vCPU must be 0 to 0, not 7"):
            vm.nmi(7)
        vm.command("nmi")  # the guest has no handler for it
        assert vm.wait(TIMEOUT) == TripleFault(0)


def test_keys_and_breaks_need_a_guest_that_reads_them() -> None:
    with Machine(memory="64M") as vm:
        vm.start()
        many = ["a"] * 1024
        with pytest.raises(UsageError, match="must read its keyboard before"):
            vm.send_keys(many)
        vm.send_keys(["ctrl", "alt", "delete"])
        with pytest.raises(UsageError, match="COM2 must be one of the serial ports"):
            vm.command("send-break 2")
