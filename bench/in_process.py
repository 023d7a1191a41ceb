"""What pyvmm costs a program that has imported it: prints JSON for start.py and resident.py."""

from __future__ import annotations

import json
import os
import sys
import time

from measure import beyond_guest_ram

from pyvmm import Linux, Machine

ROUNDS = 41
IDLE_MACHINES = 20


def machine(kernel: str) -> Machine:
    """The same guest as everybody else's."""
    return Machine(memory="512M", cpus=1, boot=Linux(kernel))


def start(kernel: str) -> list[float]:
    """Milliseconds from Machine() to the guest's first byte, time after time."""
    samples = []
    for _ in range(ROUNDS):
        before = time.monotonic()
        with machine(kernel) as vm:
            vm.start()
            vm.serial.expect(b"S", timeout=10)
            samples.append(1000 * (time.monotonic() - before))
    return samples


def idle(kernel: str) -> list[float]:
    """MiB beyond guest RAM that each further machine adds to this process."""
    machines = [machine(kernel)]
    samples = []
    try:
        for _ in range(IDLE_MACHINES):
            before = beyond_guest_ram(os.getpid())
            machines.append(machine(kernel).__enter__())
            machines[-1].start()
            machines[-1].serial.expect(b"S", timeout=10)
            samples.append(beyond_guest_ram(os.getpid()) - before)
    finally:
        for one in machines[1:]:
            one.close()
    return samples[1:]  # the first also loads what all of them use


if __name__ == "__main__":
    print(json.dumps({"start": start, "idle": idle}[sys.argv[1]](sys.argv[2])), flush=True)
