"""pyvmm and the VMMs that it is measured against, as the commands that run one guest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from measure import ARTEFACTS, TREE, Subject

MEMORY_MIB = 512
LIBKRUN_WHEEL = "smolmachines"  # a PyPI package that ships libkrun.so
CFLAGS = ("-O2", "-Wall", "-Wextra")
GUEST_FLAGS = (
    *("-nostdlib", "-static", "-Wl,--build-id=none,-n"),
    "-Wl,-Ttext=0x1000000,-z,max-page-size=0x1000",
)
DISK_GUEST, NET_GUEST = "blk_guest.elf", "net_guest.elf"
TINY_GUEST_FLAGS = (
    *("-std=gnu11", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fcf-protection=none"),
    *("-fno-asynchronous-unwind-tables", "-mgeneral-regs-only", "-mno-red-zone", "-no-pie"),
    "-Wl,--no-warn-rwx-segments",
)
EXITS = 100_000
LINE_STATUS, SCRATCH = 0x3FD, 0x3FF  # of COM1: one register that C answers, one that Python does
DATA = 0x3F8  # of COM1
ENDLESS = 0xFFFF_FFFF  # exits: more than a day of them


def build() -> dict[str, str]:
    """Compile the guests and the peers; what cannot be had, and why."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    _compile("bare_kvm", "bare_kvm.c", *CFLAGS)
    _compile("krun", "krun.c", *CFLAGS)
    _compile("pingpong", "pingpong.c", *CFLAGS, "-static")  # for guests too
    _compile("tiny.elf", "tiny.S", *GUEST_FLAGS)
    for name, port in (("exits-c.elf", LINE_STATUS), ("exits-python.elf", SCRATCH)):
        _compile(name, "tiny.S", *GUEST_FLAGS, f"-DEXITS={EXITS}", f"-DPORT={port}")
    endless = (*GUEST_FLAGS, f"-DEXITS={ENDLESS}")
    _compile("exits-endless.elf", "tiny.S", *endless, f"-DPORT={LINE_STATUS}")
    _compile("output-endless.elf", "tiny.S", *endless, f"-DPORT={DATA}", "-DOUTPUT")
    include = TREE / "guests/include"
    parts = (f"-I{include}", TREE / "bench/blk_start.S", include / "guest.c", include / "virtio.c")
    flags = (*CFLAGS, *GUEST_FLAGS, *TINY_GUEST_FLAGS, *map(str, parts))
    _compile(DISK_GUEST, "blk_guest.c", *flags)
    _compile(NET_GUEST, "net_guest.c", *flags)
    _compile("flood", "flood.c", *CFLAGS)
    missing = {}
    if shutil.which("qemu-system-x86_64") is None:
        missing["QEMU"] = "qemu-system-x86_64 is not installed"
    if not libkrun().exists():
        try:
            _fetch_libkrun()
        except subprocess.CalledProcessError:
            missing["libkrun"] = f"pip could not download {LIBKRUN_WHEEL}"
    return missing


def _compile(target: str, source: str, *flags: str) -> None:
    subprocess.run(["gcc", *flags, "-o", ARTEFACTS / target, TREE / "bench" / source], check=True)


def libkrun() -> Path:
    """Where libkrun is, or would be."""
    return ARTEFACTS / "libkrun/smol/libkrun.so"


def _fetch_libkrun() -> None:
    folder = ARTEFACTS / "libkrun.partial"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    subprocess.run([*command, LIBKRUN_WHEEL], check=True)
    folder.rename(ARTEFACTS / "libkrun")


def pyvmm(kernel: str, *options: str) -> Subject:
    """pyvmm as a user runs it."""
    memory = f"{MEMORY_MIB}M"
    argv = [sys.executable, "-m", "pyvmm", "run", kernel, "--memory", memory, *options]
    return Subject("pyvmm", argv)


def qemu(machine: str, kernel: str, *options: str, cpu: Sequence[str] = ()) -> Subject:
    """QEMU with the given machine and nothing that was not asked for."""
    name = "QEMU " + machine.split(",")[0]
    command = ["qemu-system-x86_64", "-machine", f"{machine},accel=kvm", *cpu]
    quiet = ["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]
    memory = ["-m", str(MEMORY_MIB), "-serial", "stdio"]
    return Subject(name, [*command, *quiet, *memory, "-kernel", kernel, *options])


def krun(kernel: str, *options: str, folder: Path = ARTEFACTS) -> Subject:
    """libkrun in the smallest program that drives it."""
    library = str(folder / "libkrun/smol/libkrun.so")
    return Subject("libkrun", [str(folder / "krun"), library, str(MEMORY_MIB), kernel, *options])
