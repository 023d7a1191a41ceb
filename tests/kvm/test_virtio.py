"""Virtio devices in a machine: reset and closed while they work, stopping it, and of one's own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import pytest
from conftest import TIMEOUT, machine

from pyvmm import Machine
from pyvmm.errors import UsageError
from pyvmm.peripherals import Host, Peripheral, Rng
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.virtqueue import Virtqueue

REASON = "there is no space for what the guest writes"


class Own(VirtioDevice):
    """An entropy device that stops the machine at its first request, if it is told how."""

    ID = virtio_spec.ID_RNG

    def __init__(self, stop: Callable[[str], Callable[[], object]] | None = None) -> None:
        super().__init__("own", [64])
        self.stop = stop
        self.go_on: Callable[[], object] = lambda: None
        self.stopped = threading.Event()
        self.requests = 0

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        self.requests += 1
        if self.stop is not None and self.requests == 1:
            self.go_on = self.stop(REASON)
            self.stopped.set()
        chain.write(os.getrandom(sum(map(len, chain.writable))))
        return True


class Stopping(Peripheral):
    name: str = "own"

    def open(self, host: Host) -> VirtioDevice:
        return Own(host.stop)


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_a_device_of_ones_own_is_one_like_the_others(transport: str) -> None:
    device = Own()
    word = "msix" if transport == "pci" else "mmio"
    with machine("virtio_rng", word, transport=transport, devices=[device]) as vm:
        assert vm.device("own") is device
        assert vm.wait(TIMEOUT).status == 33
        assert device.requests >= 20
        with pytest.raises(UsageError, match="no device 'other'"):
            vm.device("other")


@pytest.mark.parametrize("who", ["device", "user"])
def test_a_device_stops_the_machine_for_a_reason(
    who: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        machine("virtio_rng", "msix", devices=[Stopping()]) as vm,
    ):
        device = vm.device("own")
        assert isinstance(device, Own)
        assert device.stopped.wait(TIMEOUT)
        assert (vm.stopped_by, vm.state) == (REASON, "paused")
        assert REASON in caplog.text
        (device.go_on if who == "device" else vm.resume)()
        assert vm.stopped_by is None
        assert vm.wait(TIMEOUT).status == 33
        device.go_on()


def test_a_device_does_not_resume_what_the_user_has_paused() -> None:
    with machine("virtio_rng", "msix", devices=[Stopping()]) as vm:
        device = vm.device("own")
        assert isinstance(device, Own)
        assert device.stopped.wait(TIMEOUT)
        vm.pause()
        device.go_on()
        assert vm.state == "paused"
        vm.resume()
        assert vm.wait(TIMEOUT).status == 33


def test_the_machine_is_reset_with_requests_in_flight() -> None:
    with machine("virtio_rng", "forever", no_reboot=False, devices=[Rng(), Rng("other")]) as vm:
        for _ in range(5):
            vm.serial.expect(b"ready\n", timeout=TIMEOUT)
            vm.reset()
        vm.serial.expect(b"ready\n", timeout=TIMEOUT)


def test_what_a_machine_had_open_is_closed_with_it() -> None:
    def descriptors() -> list[str]:
        return sorted(os.listdir("/proc/self/fd"))

    before, threads = descriptors(), threading.active_count()
    for transport in ("pci", "mmio"):
        with machine("virtio_rng", "forever", transport=transport, devices=[Rng()]) as vm:
            if transport == "pci":
                vm.serial.expect(b"ready\n", timeout=TIMEOUT)
    assert descriptors() == before
    assert threading.active_count() == threads


def test_a_kernel_without_acpi_is_told_of_mmio_transports_on_its_command_line() -> None:
    devices = [Rng("one"), Rng("two")]
    places = "virtio_mmio.device=4K@0xfeb00000:5 virtio_mmio.device=4K@0xfeb01000:10"
    for given, seen in (("acpi=off", f"acpi=off {places}\n"), ("acpi=on", "acpi=on\n")):
        with machine("hello", given, transport="mmio", devices=devices) as vm:
            assert vm.wait(TIMEOUT).status == 33
            assert f"hello {seen}" in vm.serial.output.decode()


def test_the_bus_has_room_for_31_devices() -> None:
    def devices(count: int) -> Sequence[Rng]:
        return [Rng(f"rng{number}") for number in range(count)]

    with machine("virtio_rng", "wire", devices=devices(31)) as vm:
        assert vm.wait(TIMEOUT).status == 33
    with pytest.raises(UsageError, match="31 devices, not 32"):
        Machine(devices=devices(32)).open()


def test_a_machine_without_virtio_devices_does_not_import_them() -> None:
    script = (
        "import sys; from pyvmm import Machine\n"
        "with Machine(): pass\n"
        "print(*(name for name in sys.modules if 'virtio' in name or name == 'pyvmm.msi'))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert loaded.stdout.split() == []
