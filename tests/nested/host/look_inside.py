"""Runs in the nested host: what the monitor finds in a Linux guest, and what the guest says itself.

    look_inside.py KERNEL kaslr|fixed

Prints one line of JSON; the core file and the symbols stay in /tmp/guest.core and /tmp/guest.elf.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from pathlib import Path

from pyvmm import Linux, Machine, PyvmmError, UsageError

GUESTS = "build/guests"
PATIENCE = 120.0  # seconds
TRIES = 100
NAMES = ("_stext", "init_task", "linux_banner", "kernfs_iop_lookup", "start_secondary")


def ask(vm: Machine, command: str) -> str:
    """What a command prints in the guest."""
    # Quoted so that the terminal's echo of this line looks like neither mark.
    vm.serial.write(f"echo =be''gin=; {command}; echo =en''d=\n".encode())
    vm.serial.expect(b"=begin=\r\n", PATIENCE)
    shown = vm.serial.expect(b"=end=\r\n", PATIENCE)
    vm.serial.expect(b"guest# ", PATIENCE)
    return shown.decode(errors="replace").replace("\r", "").removesuffix("=end=\n")


def backtrace(vm: Machine, cpu: int) -> list[str]:
    return [frame["symbol"] or "" for frame in vm.command(f"backtrace {cpu}").data]


def when_idle(vm: Machine) -> list[list[str]]:
    """Pause it when no vCPU has anything to do; their backtraces."""
    for _ in range(TRIES):
        vm.pause()
        found = [backtrace(vm, cpu) for cpu in range(2)]
        if all(any(name.startswith("do_idle+") for name in names) for names in found):
            return found
        vm.resume()
        with suppress(TimeoutError):
            vm.wait(timeout=0.1)  # let it come further
    raise SystemExit(f"The vCPUs are never idle; they were last at {found}")


def refused(vm: Machine, command: str) -> str:
    try:
        return f"{command}: {vm.command(command)}"
    except UsageError as error:
        return str(error)


def look(vm: Machine) -> dict[str, object]:
    """What there is to see in a guest."""
    vm.start()
    vm.serial.expect(b"guest# ", PATIENCE)
    told: dict[str, object] = {}
    told["release"] = ask(vm, "uname -r").strip()
    told["own dmesg"] = ask(vm, "dmesg").splitlines()
    told["dmesg"] = str(vm.command("dmesg")).splitlines()
    told["own ps"] = [line.split() for line in ask(vm, "ps -o pid,ppid,comm").splitlines()[1:]]
    told["ps"] = vm.command("ps").data
    wanted = "|".join(NAMES)
    own = ask(vm, f"grep -E ' ({wanted})$' /proc/kallsyms").splitlines()
    told["own symbols"] = {line.split()[2]: int(line.split()[0], 16) for line in own}
    told["symbols"] = {name: vm.guest.symbols.address(name) for name in NAMES}
    told["from"] = vm.command("symbols").data
    told["idle"] = when_idle(vm)

    vm.command("symbols export /tmp/guest.elf")
    vm.command("symbols export /tmp/guest.map")
    told["rip"] = [vcpu.regs.rip for vcpu in vm.vcpus]
    told["rsp"] = [vcpu.regs.rsp for vcpu in vm.vcpus]
    vm.command("dump-guest-memory /tmp/guest.core")
    told["from elf"] = vm.command("symbols /tmp/guest.elf").data
    text = Path("/tmp/guest.map").read_text()
    first = re.compile(r"^f\S+", re.MULTILINE)
    shifted = first.sub(lambda match: f"{int(match[0], 16) - 64:x}", text, count=1000)
    Path("/tmp/other.map").write_text(shifted)
    told["other"] = refused(vm, "symbols /tmp/other.map")
    told["still"] = vm.guest.source

    vm.memory.write(vm.guest.kernel.place, bytes(64))
    vm.guest.forget_symbols()
    told["without note"] = vm.command("symbols").data
    told["idle without note"] = when_idle(vm)
    return told


def main(kernel: str, kaslr: str) -> None:
    boot = Linux(
        f"{GUESTS}/{kernel}",
        initrd=f"{GUESTS}/initramfs.img",
        cmdline="console=ttyS0 quiet",
        kaslr=kaslr == "kaslr",
    )
    with Machine(memory="192M", cpus=2, serial=["buffer"], boot=boot) as vm:
        try:
            print(json.dumps(look(vm)))
        except (PyvmmError, TimeoutError):
            print(vm.diagnose().text())
            raise


main(*sys.argv[1:])
