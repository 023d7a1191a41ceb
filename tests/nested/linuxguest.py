"""A Linux guest of pyvmm in the nested host: its start, its shell, its end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rig import NestedHost, Process

GUESTS = "build/guests"
VIRTIO_DRIVERS = ("--initrd", f"{GUESTS}/virtio.img")  # a second initramfs
DEBIAN = "/dev/vdb"  # of the nested host: build/guests/debian.img, with writes that are lost
# Debian's programs, run as `chroot /mnt /bin/PROGRAM`; its disk must be vda. With a bare name,
# busybox would run its own.
TOOLS = (
    "mount -o ro,noload /dev/vda /mnt && "
    "for folder in proc sys dev tmp; do mount --bind /$folder /mnt/$folder; done"
)
PROMPT = rb"guest# "
BOOT_TIMEOUT = 180.0  # seconds; five to ten when nothing else runs
LOGIN_TIMEOUT = 300.0  # thirty when nothing else runs


def start(
    host: NestedHost,
    kernel: str,
    *options: str,
    initrd: str = "initramfs.img",
    append: str = "quiet",
    env: Mapping[str, str] | None = None,
    tty: tuple[int, int] | None = None,
) -> Process:
    """Start `pyvmm run` on a pipe or a terminal."""
    command = ["python3", "-m", "pyvmm", "run", f"{GUESTS}/{kernel}"]
    command += ["--initrd", f"{GUESTS}/{initrd}", "--append", f"console=ttyS0 {append}", *options]
    return host.spawn(command, env=env, tty=tty)


def boot(
    host: NestedHost,
    kernel: str,
    *options: str,
    append: str = "quiet",
    env: Mapping[str, str] | None = None,
    tty: tuple[int, int] | None = None,
) -> Process:
    """Start the guest of initramfs.img and wait for its shell."""
    process = start(host, kernel, *options, append=append, env=env, tty=tty)
    process.expect(rb"init: ready", BOOT_TIMEOUT)
    process.expect(PROMPT)
    return process


def log_in(guest: Process) -> None:
    """Log in to Debian as root, who has no password."""
    guest.expect(rb"login: ", LOGIN_TIMEOUT)
    guest.write(b"root\n")
    guest.expect(rb"root@debian:~# ")


def ask(guest: Process, command: str, timeout: float = BOOT_TIMEOUT) -> tuple[int, str]:
    """Run a command in the guest's shell; its exit status and what it printed."""
    # Quoted so that the terminal's echo of this line looks like neither mark.
    guest.write(f"echo 'be''gin'; {command}; echo 'status' $?\n".encode())
    begin = guest.expect(rb"begin\r*\n", timeout).end()
    status = guest.expect(rb"status (\d+)\r*\n", timeout)
    output = guest.output[begin : status.start()].replace(b"\r", b"")
    return int(status[1]), output.decode(errors="replace")


def told(guest: Process, command: str, timeout: float = BOOT_TIMEOUT) -> str:
    """What a command in the guest's shell printed; it must succeed."""
    status, output = ask(guest, command, timeout)
    assert status == 0, f"{command}: {output}"
    return output


@dataclass
class Findings:
    """What guests/linux/check found, its lines by name."""

    lines: dict[str, list[str]]

    def numbers(self, name: str) -> Sequence[int]:
        return [int(value) for value in self.lines[name]]


def check(guest: Process) -> Findings:
    """Run the guest's own check."""
    guest.write(b"check\n")
    start = guest.expect(rb"^check: cpus").start()
    end = guest.expect(rb"^check: done").start()
    lines: dict[str, list[str]] = {}
    for name, value in re.findall(rb"^check: (\w+) (.*?)\r*$", guest.output[start:end], re.M):
        lines.setdefault(name.decode(), []).append(value.decode())
    return Findings(lines)


def power_off(guest: Process) -> int:
    """Power off at once; the exit status of pyvmm."""
    guest.write(b"poweroff -f\n")
    return guest.wait(BOOT_TIMEOUT)
