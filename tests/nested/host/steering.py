"""Runs in the nested host: does to a Linux guest what the monitor's commands about devices can do.

Prints what was found, as JSON; test_monitor_devices.py says what it must be.
"""

from __future__ import annotations

import json
import queue
import re
from pathlib import Path
from typing import Any

from pyvmm import Disk, Linux, Machine, UserNet, events
from pyvmm.peripherals import Balloon
from pyvmm.virtio.blk import Blk

GUESTS = "build/guests"
DISK, SNAPSHOT = Path("/tmp/steered.img"), Path("/tmp/snapshot.img")
MIB = 1 << 20
SIZE = 64 * MIB
PATIENCE = 300.0  # seconds
PROMPT = b"guest# "
LEFT_MIB = 256  # by the balloon


class Guest:
    """The guest's shell and the machine's commands; `found` is what both say."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm
        self.found: dict[str, Any] = {}
        self.events: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
        vm.listen(self.events.put)

    def sh(self, command: str) -> str:
        """What a command in the guest prints."""
        self.vm.serial.write(f"echo 'be''gin'; {command}; echo 'e''nd'\r".encode())
        self.vm.serial.expect(b"begin\r\n", PATIENCE)
        output = self.vm.serial.expect(b"end\r\n", PATIENCE)
        self.vm.serial.expect(PROMPT, PATIENCE)
        return output.removesuffix(b"end\r\n").replace(b"\r", b"").decode()

    def until(self, command: str, wanted: str) -> str:
        """What it prints in the end: the driver is told of a change, not waited for."""
        output = ""
        for _ in range(100):
            output = self.sh(command).strip()
            if output == wanted:
                break
        return output

    def command(self, line: str) -> Any:
        """The data that a command of the monitor gives."""
        result = self.vm.command(line)
        return None if result is None else result.data


def disks(guest: Guest) -> None:
    """Counting, a new size, and a snapshot."""
    vda = guest.vm.device("vda")
    assert isinstance(vda, Blk)
    before = vda.statistics()
    guest.sh("dd if=/dev/zero of=/dev/vda bs=64k count=32 conv=fsync 2>/dev/null")
    guest.sh("echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=64k count=48")
    after = vda.statistics()
    guest.found["written"] = after.write.bytes - before.write.bytes
    guest.found["read"] = after.read.bytes - before.read.bytes
    guest.found["flushed"] = after.flush.operations - before.flush.operations
    guest.found["errors"] = after.read.errors + after.write.errors
    guest.found["block"] = guest.command("info block")
    size = "cat /sys/block/vda/size"
    guest.found["sectors"] = [int(guest.sh(size))]
    for mib in (96, 32):
        guest.command(f"block resize vda {mib}M")
        guest.found["sectors"].append(int(guest.until(size, str(mib << 11))))
    guest.sh("echo kept >/dev/vdb; sync")
    guest.found["image before"] = SNAPSHOT.read_bytes()[:4].decode()
    guest.command("block commit vdb")
    guest.found["image after"] = SNAPSHOT.read_bytes()[:4].decode()
    guest.sh("echo lost >/dev/vdb; sync")


def network(guest: Guest) -> None:
    """The cable, and frames."""
    guest.sh("ip link set eth0 up; udhcpc -q -n -i eth0 >/dev/null 2>&1; ping -c 3 10.0.2.2")
    carrier = "cat /sys/class/net/eth0/carrier"
    guest.found["carrier"] = [guest.sh(carrier).strip()]
    for state, wanted in (("down", "0"), ("up", "1")):
        guest.command(f"link eth0 {state}")
        guest.found["carrier"].append(guest.until(carrier, wanted))
    guest.found["network"] = guest.command("info network")


def registers(guest: Guest) -> None:
    """What the driver has set up."""
    guest.found["virtio"] = guest.command("info virtio vda")
    guest.found["pci"] = guest.command("info pci")


def balloon(guest: Guest) -> None:
    """It is blown up, and the machine says so."""
    guest.command(f"balloon {LEFT_MIB}M")
    while guest.events.get(timeout=PATIENCE) != events.BalloonChanged(LEFT_MIB * MIB):
        pass
    guest.found["balloon"] = guest.command("info balloon")


def keys(guest: Guest) -> None:
    """SysRq by a break, an NMI, and at last a reset by the keyboard."""
    guest.found["input"] = guest.sh("cat /proc/bus/input/devices")
    guest.sh("echo 1 >/proc/sys/kernel/sysrq; echo 7 >/proc/sys/kernel/printk")
    guest.command("sysrq h")
    said = guest.vm.serial.expect(b"show-registers", PATIENCE)
    guest.found["sysrq"] = said.decode(errors="replace")
    guest.command("nmi 0")
    said = guest.vm.serial.expect(b"NMI received", PATIENCE)
    guest.found["nmi"] = re.sub(r"\s+", " ", said.decode(errors="replace"))
    guest.command("send-key ctrl-alt-delete")
    guest.found["end"] = repr(guest.vm.wait(PATIENCE))


def main() -> None:
    """Boot, do it all, and print what was found."""
    for path in (DISK, SNAPSHOT):
        path.write_bytes(b"")
        path.open("r+b").truncate(SIZE)
    boot = Linux(
        f"{GUESTS}/vmlinuz-cloud",
        [f"{GUESTS}/initramfs.img", f"{GUESTS}/virtio.img"],
        "console=ttyS0 quiet",
    )
    devices = (
        Disk("vda", DISK),
        Disk("vdb", SNAPSHOT, snapshot=True),
        UserNet("eth0"),
        Balloon(),
    )
    with Machine(memory="512M", boot=boot, devices=devices, no_reboot=True) as vm:
        vm.start()
        vm.serial.expect(PROMPT, PATIENCE)
        guest = Guest(vm)
        for part in (disks, network, registers, balloon, keys):
            part(guest)
    print(json.dumps(guest.found))


if __name__ == "__main__":
    main()
