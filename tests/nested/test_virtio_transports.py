"""Linux's own drivers find virtio devices by every transport, and their interrupts arrive."""

from __future__ import annotations

import re

import pytest
from linuxguest import BOOT_TIMEOUT, GUESTS, PROMPT, power_off, told
from rig import NestedHost, Process

SCRIPT = f"""
import sys
from pyvmm import Linux, Machine
from pyvmm.peripherals import Rng
transport, cpus, cmdline, *initrd = sys.argv[1:]
boot = Linux("{GUESTS}/vmlinuz-cloud", initrd=initrd, cmdline=cmdline)
devices = [Rng("first"), Rng("second")]
machine = Machine(boot=boot, cpus=int(cpus), transport=transport, devices=devices, serial=["stdio"])
with machine as vm:
    sys.exit(vm.run().status)
"""
INITRD = (f"{GUESTS}/initramfs.img", f"{GUESTS}/virtio.img")
COMPLAINTS = r"virtio|pci|rng|irq|acpi|resource|BAR"


def boot(host: NestedHost, transport: str, cpus: int, append: str) -> Process:
    cmdline = f"console=ttyS0 quiet {append}"
    guest = host.spawn(["python3", "-c", SCRIPT, transport, str(cpus), cmdline, *INITRD])
    guest.expect(rb"init: ready", BOOT_TIMEOUT)
    guest.expect(PROMPT)
    return guest


def interrupts(guest: Process) -> dict[str, tuple[str, int]]:
    """The lines of virtio in /proc/interrupts: by name, the controller and how many there were."""
    found = {}
    for line in told(guest, "grep virtio /proc/interrupts").splitlines():
        match = re.match(r" *\d+: +((?:\d+ +)+)(\S+) .*?((?:virtio\S+(?:, )?)+)$", line)
        assert match is not None, line
        found[match[3]] = (match[2], sum(map(int, match[1].split())))
    return found


def draw_random_numbers(guest: Process) -> None:
    rng = "/sys/class/misc/hw_random"
    assert told(guest, f"cat {rng}/rng_available").split() == ["virtio_rng.0", "virtio_rng.1"]
    for name in ("virtio_rng.1", "virtio_rng.0"):
        told(guest, f"echo {name} >{rng}/rng_current")
        drawn = told(
            guest, "dd if=/dev/hwrng bs=64 count=4 2>/dev/null | hexdump -v -e '/1 \"%u \"'"
        )
        numbers = [int(number) for number in drawn.split()]
        assert len(numbers) == 256
        assert len(set(numbers)) > 100


def check_log(guest: Process) -> None:
    """Nothing in the kernel's log is a warning about what concerns devices."""
    log = told(guest, "dmesg -r")
    complaints = [
        line
        for line in log.splitlines()
        if (match := re.match(r"<(\d+)>", line))
        and int(match[1]) & 7 <= 4  # KERN_WARNING
        and re.search(COMPLAINTS, line, re.IGNORECASE)
    ]
    assert complaints == []


@pytest.mark.parametrize("cpus", [1, 2])
def test_msix_has_a_vector_for_each_queue_and_one_for_the_configuration(
    nested_host: NestedHost, cpus: int
) -> None:
    guest = boot(nested_host, "pci", cpus, "")
    draw_random_numbers(guest)
    found = interrupts(guest)
    assert set(found) == {f"virtio{n}-{what}" for n in (0, 1) for what in ("config", "input")}
    assert all(controller == "PCI-MSI" for controller, _ in found.values())
    assert found["virtio0-input"][1] > 0
    assert found["virtio1-input"][1] > 0
    check_log(guest)
    assert power_off(guest) == 0


def test_the_functions_are_where_linux_puts_64_bit_windows(nested_host: NestedHost) -> None:
    guest = boot(nested_host, "pci", 1, "")
    found = told(guest, "cd /sys/bus/pci/devices; cat */vendor */device */class */revision; cd")
    values = found.split()
    identities = zip(values[:3], values[3:6], values[6:9], values[9:], strict=True)
    rng = ("0x1af4", "0x1044", "0x00ff00", "0x01")
    assert list(identities) == [("0x1b36", "0x0008", "0x060000", "0x00"), rng, rng]
    windows = told(guest, "head -qn1 /sys/bus/pci/devices/0000:00:0[12].0/resource").splitlines()
    for window in windows:
        start, end, flags = (int(number, 16) for number in window.split())
        assert start >= 1 << 32
        assert end - start + 1 == 0x8000
        assert flags & 0x100000  # IORESOURCE_MEM_64
    assert power_off(guest) == 0


def test_without_msi_both_wires_work(nested_host: NestedHost) -> None:
    guest = boot(nested_host, "pci", 2, "pci=nomsi")
    draw_random_numbers(guest)
    found = interrupts(guest)
    assert found
    assert all(controller == "IO-APIC" and count > 0 for controller, count in found.values())
    check_log(guest)
    assert power_off(guest) == 0


@pytest.mark.parametrize("cpus", [1, 2])
def test_mmio_transports_are_found_by_acpi(nested_host: NestedHost, cpus: int) -> None:
    guest = boot(nested_host, "mmio", cpus, "")
    draw_random_numbers(guest)
    found = interrupts(guest)
    assert set(found) == {"virtio0", "virtio1"}
    assert all(controller == "IO-APIC" and count > 0 for controller, count in found.values())
    check_log(guest)
    assert power_off(guest) == 0


def test_drivers_can_be_unbound_and_bound_again(nested_host: NestedHost) -> None:
    guest = boot(nested_host, "pci", 1, "")
    driver = "/sys/bus/virtio/drivers/virtio_rng"
    for _ in range(5):
        told(guest, f"echo virtio0 >{driver}/unbind && echo virtio0 >{driver}/bind")
    told(guest, "echo 0000:00:02.0 >/sys/bus/pci/drivers/virtio-pci/unbind")
    told(guest, "echo 0000:00:02.0 >/sys/bus/pci/drivers/virtio-pci/bind")
    told(guest, "echo 1 >/sys/bus/pci/devices/0000:00:02.0/remove && echo 1 >/sys/bus/pci/rescan")
    told(guest, "dd if=/dev/hwrng of=/dev/null bs=64 count=4")
    check_log(guest)
    assert power_off(guest) == 0
