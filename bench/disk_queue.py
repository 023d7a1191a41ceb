"""How many requests a second a disk's queue serves, and what one costs: 4 KiB, random, on tmpfs.

The guest (blk_guest.c) drives the queue itself and looks for answers without interrupts. The same
guest runs on QEMU, whose disk has an iothread. A sample's CPU time is all of the VMM's but the
vCPU's, which spends its own on looking.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from measure import ARTEFACTS, Report, Running, Subject, in_turn
from peers import DISK_GUEST, pyvmm, qemu

IMAGE = Path("/dev/shm/pyvmm-bench.img")
IMAGE_BYTES = 256 << 20
ROUNDS = 5
REQUESTS = {1: 10_000, 32: 60_000}  # by depth
SLOWER = 6  # how many times fewer the Python path is given
PYTHON_PATH, THREADS, IO_URING = "pyvmm, Python path", "QEMU, aio=threads", "QEMU, aio=io_uring"
VCPU = ("vcpu", "CPU ")  # how their threads' names begin


def requests(name: str, depth: int) -> int:
    """How many a sample has."""
    return REQUESTS[depth] // (SLOWER if name == PYTHON_PATH else 1)


def subjects(kind: str, depth: int) -> list[Subject]:
    """The VMMs."""
    guest = str(ARTEFACTS / DISK_GUEST)
    machine = "microvm,pcie=on"
    disk = "virtio-blk-pci-non-transitional,drive=disk,iothread=thread"
    made = [
        pyvmm(guest, "--disk", str(IMAGE)),
        pyvmm(guest, "--disk", str(IMAGE)),
        *(
            qemu(
                machine,
                guest,
                *("-name", "qemu,debug-threads=on", "-object", "iothread,id=thread"),
                *("-drive", f"file={IMAGE},if=none,id=disk,format=raw,aio={aio}"),
                *("-device", disk),
            )
            for aio in ("threads", "io_uring")
        ),
    ]
    made[1].env = {"PYVMM_NO_FASTPATH": "1"}
    for subject, name in zip(made, ("pyvmm", PYTHON_PATH, THREADS, IO_URING), strict=True):
        subject.name = name
        subject.argv = [*subject.argv, "--append" if "pyvmm" in name else "-append"]
        subject.argv = [*subject.argv, f"{kind} {depth} {requests(name, depth)}"]
    return made


def cpu_seconds(pid: int) -> float:
    """What all threads but the vCPUs' have used."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            if not (task / "comm").read_text().startswith(VCPU):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def measure_one(kind: str, depth: int, missing: dict[str, str]) -> Iterator[Report]:
    """The tables for one kind of request at one depth."""
    costs: dict[str, list[float]] = {}

    def sample(subject: Subject) -> float:
        count = requests(subject.name, depth)
        with Running(subject) as running:
            begun = running.until(b"S")
            cpu = cpu_seconds(running.process.pid)
            seconds = running.until(b"S.*E") - begun
            cpu = cpu_seconds(running.process.pid) - cpu
        costs.setdefault(subject.name, []).append(1e6 * cpu / count)
        return count / seconds

    able = [one for one in subjects(kind, depth) if one.name.split(",")[0] not in missing]
    samples, broken = in_turn(able, sample, ROUNDS)
    title = f"random {kind}s of 4 KiB at depth {depth}"
    yield Report(title, "requests/s", samples, broken)
    yield Report(f"{title}: CPU time of each", "µs", costs, broken)


def measure(missing: dict[str, str]) -> list[Report]:
    """All tables; QEMU is left out if it is missing."""
    IMAGE.write_bytes(bytes(IMAGE_BYTES))
    try:
        return [
            report
            for kind in ("read", "write")
            for depth in REQUESTS
            for report in measure_one(kind, depth, missing)
        ]
    finally:
        IMAGE.unlink()
