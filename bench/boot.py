"""How long from exec to /init of Debian's cloud kernel; runs in the nested host.

Everything is copied to memory first. pyvmm is measured with the kernel unpacked in its cache, as on
every start but a user's first, and as on the first.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from measure import ARTEFACTS, TREE, Broken, Subject, in_turn, time_to
from peers import krun, pyvmm, qemu

COPY = Path("/tmp/bench")
APPEND = "console=ttyS0 quiet panic=-1"
MICROVM = "microvm,rtc=on,pit=on,pic=on"
EMPTY_CACHE = COPY / "empty-cache"
ROUNDS = 7


def copy() -> None:
    """Put all that is measured on tmpfs, compiled."""
    COPY.mkdir()
    for name in ("vmlinuz-cloud", "vmlinux-cloud", "initramfs.img"):
        shutil.copy(TREE / "build/guests" / name, COPY)
    shutil.copytree(TREE / "pyvmm", COPY / "pyvmm", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", COPY / "pyvmm"],
        check=True,
        env=os.environ | {"PYTHONPYCACHEPREFIX": ""},
    )
    if (ARTEFACTS / "libkrun").exists():
        shutil.copytree(ARTEFACTS / "libkrun", COPY / "libkrun")
        shutil.copy(ARTEFACTS / "krun", COPY)


def subjects() -> list[Subject]:
    """The VMMs; libkrun takes only an unpacked kernel."""
    image, elf, initrd = (
        str(COPY / name) for name in ("vmlinuz-cloud", "vmlinux-cloud", "initramfs.img")
    )
    boot = ("-initrd", initrd, "-append", APPEND)
    ours, first = (pyvmm(image, "--initrd", initrd, "--append", APPEND) for _ in range(2))
    ours.env = {"PYTHONPYCACHEPREFIX": ""}  # beside the copy, where they were compiled to
    first.env = ours.env | {"XDG_CACHE_HOME": str(EMPTY_CACHE)}
    first.name = "pyvmm, first start"
    return [
        ours,
        first,
        qemu("q35", image, *boot, cpu=("-cpu", "host")),
        qemu(MICROVM, image, *boot, cpu=("-cpu", "host")),
        krun(elf, initrd, APPEND, folder=COPY),
    ]


def to_init(subject: Subject) -> float:
    """Seconds."""
    shutil.rmtree(EMPTY_CACHE, ignore_errors=True)
    return time_to(subject, rb"init: ready")


if __name__ == "__main__":
    copy()
    os.chdir(COPY)  # the copy is the pyvmm that python -m finds
    with suppress(Broken):  # it is told again when it is measured
        to_init(subjects()[0])
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(json.dumps(in_turn(subjects(), to_init, rounds)), flush=True)
