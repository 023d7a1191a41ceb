"""Disks under fio in Debian's cloud kernel, and Debian's way to its login; runs in the nested host.

One boot runs all jobs, on an image on tmpfs and on one on the nested host's own disk. Every VMM has
the same guest, one vCPU, cache=writeback and a thread of its own for each disk.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import boot
from boot import COPY
from measure import TREE, Broken, Running, Subject, in_turn, time_to
from peers import pyvmm, qemu

sys.path.insert(0, str(TREE / "guests/linux"))
from build import initramfs

ROUNDS = 3
DEBIAN = Path("/dev/vdb")  # of the nested host: build/guests/debian.img
PLACES = {"tmpfs": COPY / "scratch.img", "disk": Path("/var/tmp/scratch.img")}
SCRATCH_MIB = 256
SECONDS, RAMP_SECONDS = 2, 1  # of each job
JOBS = {  # read or write, block size, depth
    "4 KiB random read, depth 1": ("randread", "4k", 1),
    "4 KiB random read, depth 32": ("randread", "4k", 32),
    "4 KiB random write, depth 1": ("randwrite", "4k", 1),
    "4 KiB random write, depth 32": ("randwrite", "4k", 32),
    "128 KiB sequential read, depth 8": ("read", "128k", 8),
}
READ_IOPS, WRITE_IOPS = 7, 48  # fio(1), terse output, version 3
APPEND = "console=ttyS0 quiet panic=-1"
INITRD, DEBIAN_INITRD = COPY / "disk-initrd.img", COPY / "debian-initrd.img"
KERNEL = str(COPY / "vmlinuz-cloud")
# The guest's part; the Debian disk is vda, the images are vdb and vdc.
SCRIPT = b"""#!/bin/sh
mount -o ro,noload /dev/vda /mnt
for folder in proc sys dev tmp; do
	mount --bind /$folder /mnt/$folder
done
cp /jobs /tmp
chroot /mnt /bin/fio --minimal /tmp/jobs
echo bench: done
"""


def jobs() -> str:
    """The job file for fio, with every job on every image."""
    text = "[global]\ndirect=1\nioengine=libaio\ntime_based\n"
    text += f"runtime={SECONDS}\nramp_time={RAMP_SECONDS}\n"
    for letter, place in zip("bc", PLACES, strict=True):
        for name, (kind, size, depth) in JOBS.items():
            text += f"[{name}, {place}]\nstonewall\nfilename=/dev/vd{letter}\n"
            text += f"rw={kind}\nbs={size}\niodepth={depth}\n"
    return text


def copy() -> None:
    """Put all that is measured on tmpfs; the images are full, so that nothing is allocated."""
    boot.copy()
    guests = TREE / "build/guests"
    shutil.copy(guests / "debian-initrd.img", COPY)
    ours = initramfs({"bench": SCRIPT, "jobs": jobs().encode()})
    parts = [(guests / name).read_bytes() for name in ("initramfs.img", "virtio.img")]
    INITRD.write_bytes(b"".join([*parts, ours]))
    for image in PLACES.values():
        image.write_bytes(os.urandom(1 << 20) * SCRATCH_MIB)


def with_qemu(aio: str, initrd: Path, append: str, disks: Sequence[Path]) -> Subject:
    """QEMU's virtio-blk-pci, each disk with an iothread."""
    options = ["-initrd", str(initrd), "-append", append]
    for number, disk in enumerate(disks):
        file = f"file={disk},format=raw,cache=writeback,aio={aio}"
        options += ["-object", f"iothread,id=thread{number}"]
        options += ["-drive", f"id=disk{number},if=none,{file}"]
        device = f"virtio-blk-pci,drive=disk{number},iothread=thread{number}"
        options += ["-device", device]
    subject = qemu("q35", KERNEL, *options, cpu=("-cpu", "host"))
    subject.name = f"QEMU, iothread, aio={aio}"
    return subject


def with_pyvmm(name: str, initrd: Path, append: str, disks: Sequence[Path]) -> Subject:
    """Ourselves."""
    options = [word for disk in disks for word in ("--disk", str(disk))]
    subject = pyvmm(KERNEL, "--initrd", str(initrd), "--append", append, *options)
    subject.name = name
    subject.env = {"PYTHONPYCACHEPREFIX": ""}  # beside the copy, where they were compiled to
    return subject


def under_fio() -> list[Subject]:
    """Those whose requests are counted."""
    guest = (INITRD, f"{APPEND} run=/bench", (DEBIAN, *PLACES.values()))
    slow = with_pyvmm("pyvmm, fast path off", *guest)
    slow.env = {**slow.env, "PYVMM_NO_FASTPATH": "1"}
    peers = [with_qemu(aio, *guest) for aio in ("threads", "io_uring")]
    return [with_pyvmm("pyvmm", *guest), *peers, slow]


def requests_per_second(subject: Subject) -> dict[str, float]:
    """By job, of one boot."""
    with Running(subject) as running:
        running.until(rb"bench: done")
        lines = running.output.decode(errors="replace").splitlines()
    results = [line.split(";") for line in lines if line.startswith("3;fio-")]
    if len(results) != len(JOBS) * len(PLACES):
        raise Broken(f"fio ended early: {lines[-3:]}")
    return {job[2]: float(job[READ_IOPS]) + float(job[WRITE_IOPS]) for job in results}


def to_login(subject: Subject) -> float:
    """Seconds from exec to Debian's login, from a disk that was never started."""
    disk = COPY / DEBIAN.name
    subprocess.run(["dd", f"if={DEBIAN}", f"of={disk}", "bs=1M", "conv=sparse", "status=none"])
    return time_to(subject, rb"debian login: ")


def measure() -> list[tuple[str, str, dict[str, list[float]], dict[str, str]]]:
    """Title, unit, samples and who is broken of each table."""
    samples, broken = in_turn(under_fio(), requests_per_second, ROUNDS)
    tables = []
    for job in next(iter(samples.values()))[0] if samples else ():
        of_job = {name: [one[job] for one in runs] for name, runs in samples.items()}
        tables.append((job, "requests a second, more is better", of_job, broken))
    guest = (DEBIAN_INITRD, "console=ttyS0 root=/dev/vda quiet", [COPY / DEBIAN.name])
    subjects = [with_pyvmm("pyvmm", *guest), with_qemu("threads", *guest)]
    seconds, broken = in_turn(subjects, to_login, ROUNDS)
    return [*tables, ("exec to login: of Debian on its disk", "s", seconds, broken)]


if __name__ == "__main__":
    copy()
    os.chdir(COPY)  # the copy is the pyvmm that python -m finds
    with suppress(Broken):  # the kernel is unpacked into the cache
        time_to(under_fio()[0], rb"init: ready")
    print(json.dumps(measure()), flush=True)
