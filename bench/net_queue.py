"""Frames between a network device's queues and a tap: how many a second, and what one costs.

The guest (net_guest.c) drives the queues itself and looks for answers without interrupts. The same
guest runs on QEMU with vhost=off. What it sends, the host drops; what it receives, flood.c sends as
fast as it can; and in a ping-pong there is one frame of this program's at a time. A sample's CPU
time is all of the VMM's but the vCPU's. Run in a network namespace of its own.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator

from disk_queue import PYTHON_PATH, cpu_seconds
from measure import ARTEFACTS, Broken, Report, Running, Subject, in_turn
from peers import NET_GUEST, pyvmm, qemu

ROUNDS = 5
SECONDS = 20.0  # until a frame of a ping-pong is lost
TAP = "tap0"
SLOWER = 6  # how many times fewer frames the Python path is given
FRAMES = {  # what the guest does, the bytes of a frame: how many
    ("send", 60): 120_000,
    ("send", 1514): 120_000,
    ("receive", 60): 120_000,
    ("receive", 1514): 120_000,
    ("echo", 60): 6_000,
}
TITLES = {"send": "sent", "receive": "received under a flood", "echo": "sent back, one at a time"}
BEGINNING = bytes.fromhex("ffffffffffff ffffffffffff 88b5")  # IEEE 802 §9.2.3


def subjects(what: str, size: int, count: int) -> list[Subject]:
    """The VMMs, each with the tap as it is."""
    guest = str(ARTEFACTS / NET_GUEST)
    tap = f"ifname={TAP},vhost=off"
    ours = [pyvmm(guest, "--net", f"tap,{tap}") for _ in range(2)]
    theirs = qemu(
        "microvm,pcie=on",
        guest,
        *("-name", "qemu,debug-threads=on"),
        *("-netdev", f"tap,id=net,{tap},script=no,downscript=no"),
        *("-device", "virtio-net-pci-non-transitional,netdev=net,romfile="),
    )
    ours[1].name, ours[1].env = PYTHON_PATH, {"PYVMM_NO_FASTPATH": "1"}
    theirs.name = "QEMU, vhost=off"
    for subject in (*ours, theirs):
        option = "--append" if subject in ours else "-append"
        frames = count // (SLOWER if subject is ours[1] else 1)
        subject.argv = [*subject.argv, option, f"{what} {frames} {size}"]
    return [*ours, theirs]


def play(count: int, size: int) -> None:
    """Send a frame and wait for its return, `count` times."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as wire:
        wire.bind((TAP, 0x88B5))
        wire.settimeout(SECONDS)
        frame = BEGINNING.ljust(size, b"\0")
        for _ in range(count):
            wire.send(frame)
            try:
                while wire.recvfrom(size)[1][2] == socket.PACKET_OUTGOING:
                    pass
            except TimeoutError:
                raise Broken("a frame did not come back") from None


def measure_one(what: str, size: int, count: int) -> Iterator[Report]:
    """The tables for one kind of traffic."""
    costs: dict[str, list[float]] = {}

    def sample(subject: Subject) -> float:
        frames = int(subject.argv[-1].split()[1])
        flood = ["true"] if what != "receive" else [str(ARTEFACTS / "flood"), TAP, str(size)]
        with Running(subject) as running:
            begun = running.until(b"S")
            cpu = cpu_seconds(running.process.pid)
            with subprocess.Popen(flood) as source:
                if what == "echo":
                    play(frames, size)
                seconds = running.until(b"S.*E") - begun
                source.kill()
            cpu = cpu_seconds(running.process.pid) - cpu
        costs.setdefault(subject.name, []).append(1e6 * cpu / frames)
        return frames / seconds

    samples, broken = in_turn(subjects(what, size, count), sample, ROUNDS)
    title = f"frames of {size} bytes {TITLES[what]}"
    yield Report(title, "frames/s", samples, broken)
    yield Report(f"{title}: CPU time of each", "µs", costs, broken)


def main() -> None:
    """Print all tables as JSON."""
    for words in (f"tuntap add {TAP} mode tap vnet_hdr", f"link set {TAP} up"):
        subprocess.run(["ip", *words.split()], check=True)
    tables = [
        (report.title, report.unit, report.samples, report.skipped)
        for (what, size), count in FRAMES.items()
        for report in measure_one(what, size, count)
    ]
    print(json.dumps(tables))


if __name__ == "__main__":
    main()
