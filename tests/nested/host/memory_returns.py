"""Runs in the nested host: what a guest lends or leaves free comes back to this process.

    memory_returns.py report|inflate

Prints a line for each figure: what this process has resident in MiB, or what the guest says.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pyvmm import Linux, Machine
from pyvmm.virtio import balloon_spec
from pyvmm.virtio.balloon import Balloon

GUESTS = "build/guests"
FILL_MIB = 256
PATIENCE = 120.0  # seconds


def resident() -> int:
    """MiB."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) >> 10


def until(condition: object, low: int) -> int:
    """Wait until `condition()` is below `low`, and give it."""
    deadline = time.monotonic() + PATIENCE
    while (value := condition()) >= low and time.monotonic() < deadline:
        time.sleep(0.2)
    return value


def main(how: str) -> None:
    """Boot, fill, free, and say what that did."""
    balloon = Balloon("balloon")
    if how == "inflate":
        balloon.features &= ~balloon_spec.F_PAGE_REPORTING
    boot = Linux(
        f"{GUESTS}/vmlinuz-cloud",
        [f"{GUESTS}/initramfs.img", f"{GUESTS}/virtio.img"],
        "console=ttyS0 quiet",
    )
    with Machine(memory="512M", boot=boot, devices=(balloon,)) as vm:
        vm.start()
        vm.serial.expect(b"guest# ", 300)
        before = resident()
        vm.serial.write(b"dd if=/dev/zero of=/tmp/fill bs=1M count=%d; echo filled\n" % FILL_MIB)
        vm.serial.expect(b"\nfilled", 120)
        full = resident()
        print("grown", full - before)
        vm.serial.write(b"rm /tmp/fill; echo removed\n")
        vm.serial.expect(b"\nremoved", 60)
        if how == "inflate":
            print("kept", resident() - before)
            balloon.resize("160M")
            print("size", until(lambda: balloon.size >> 20, 161))
        print("returned", full - until(resident, full - FILL_MIB * 3 // 4))
        print("total", balloon.guest_statistics(60)["total"] >> 20)
        if how == "inflate":
            balloon.resize("512M")
            print("lent", until(lambda: (vm.memory.size - balloon.size) >> 20, 1))
            vm.serial.write(b"dd if=/dev/zero of=/tmp/fill bs=1M count=%d; echo again\n" % FILL_MIB)
            vm.serial.expect(b"\nagain", 120)


if __name__ == "__main__":
    main(sys.argv[1])
