"""Runs in the nested host: a Linux guest, and the monitor's commands on standard input.

A line is a command, or with ! before it one for the guest's shell. Each is answered by a line of
JSON: what the command returned as `data` and `text`, or its `error`; the first one is of the start.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pyvmm import Balloon, Linux, Machine, Rng
from pyvmm.errors import PyvmmError
from pyvmm.monitor.session import Session

GUESTS = "build/guests"
PROMPT = b"guest# "
PATIENCE = 300.0  # seconds


def shell(vm: Machine, command: str) -> str:
    """What a command in the guest printed."""
    # Quoted so that the terminal's echo of this line looks like no mark.
    vm.serial.write(f"echo 'it be''gins'; {command}; echo 'it en''ds'\n".encode())
    vm.serial.expect(b"it begins\r\n", PATIENCE)
    output = vm.serial.expect(b"it ends\r\n", PATIENCE)
    vm.serial.expect(PROMPT, PATIENCE)
    return output.removesuffix(b"it ends\r\n").replace(b"\r", b"").decode()


def answer(vm: Machine, session: Session, line: str) -> dict[str, Any]:
    """What a line of input leads to."""
    if line.startswith("!"):
        return {"text": shell(vm, line[1:])}
    try:
        result = session.execute(line)
    except PyvmmError as error:
        return {"error": str(error)}
    return {"data": result.data, "text": str(result)} if result else {}


def main() -> None:
    """Boot, and answer until the end of the input."""
    boot = Linux(
        f"{GUESTS}/vmlinuz-cloud",
        [f"{GUESTS}/initramfs.img", f"{GUESTS}/virtio.img"],
        "console=ttyS0 quiet",
    )
    with Machine(memory="512M", cpus=2, boot=boot, devices=(Rng(), Balloon())) as vm:
        session = Session(vm)
        vm.start()
        vm.serial.expect(PROMPT, PATIENCE)
        print(json.dumps({}), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(vm, session, line.rstrip("\n"))), flush=True)


main()
