"""Networks under Debian's cloud kernel: TCP streams and round trips; runs in the nested host.

Every VMM has the same guest with one vCPU, and the nested host is at the other end. One boot runs
everything on one network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import boot
import disk
from boot import COPY
from measure import ARTEFACTS, TIMEOUT, TREE, Broken, Running, Subject, in_turn, time_to
from peers import pyvmm, qemu

from build import initramfs

ROUNDS = 3
SECONDS = 4  # of each stream
ROUND_TRIPS = 2000
STREAM_PORT, PORTS = 5201, {"TCP": 5202, "UDP": 5203}
TAP, TAP_ADDRESS = "bench0", "10.9.0.1/24"
MIB, GIB = 1 << 20, 1 << 30
MAC = "02:00:00:00:00:02"  # of either guest, for the nested host remembers whose its address is
INITRD = COPY / "net-initrd.img"
PINGPONG = COPY / "pingpong"
# The guest's part; the Debian disk is vda, and the address an option of the kernel's command line.
SCRIPT = f"""#!/bin/sh
mount -o ro,noload /dev/vda /mnt
for folder in proc sys dev tmp; do
	mount --bind /$folder /mnt/$folder
done
ip link set lo up
ip addr add $address dev eth0
ip link set eth0 up
/pingpong tcp {PORTS["TCP"]} &
/pingpong udp {PORTS["UDP"]} &
chroot /mnt /usr/bin/iperf3 --server --port {STREAM_PORT} --forceflush
"""
# By network: pyvmm's option, QEMU's, the guest's address, and where the nested host calls it.
FORWARDS = {"tcp": (STREAM_PORT, PORTS["TCP"]), "udp": (PORTS["UDP"],)}
FORWARDED = [(kind, port) for kind, ports in FORWARDS.items() for port in ports]
NETWORKS = {
    "tap with vhost": (
        f"tap,ifname={TAP},vhost=on",
        f"tap,ifname={TAP},script=no,downscript=no,vhost=on",
        ("10.9.0.2/24", "10.9.0.2"),
    ),
    "tap without vhost": (
        f"tap,ifname={TAP},vhost=off",
        f"tap,ifname={TAP},script=no,downscript=no,vhost=off",
        ("10.9.0.2/24", "10.9.0.2"),
    ),
    "user": (
        "user" + "".join(f",forward={kind}:{port}:{port}" for kind, port in FORWARDED),
        "user" + "".join(f",hostfwd={kind}:127.0.0.1:{port}-:{port}" for kind, port in FORWARDED),
        ("10.0.2.15/24", "127.0.0.1"),
    ),
}


def copy() -> None:
    """Put all that is measured on tmpfs, and make the tap."""
    boot.copy()
    shutil.copy(ARTEFACTS / "pingpong", PINGPONG)
    ours = initramfs({"bench": SCRIPT.encode(), "pingpong": PINGPONG})
    guests = TREE / "build/guests"
    parts = [(guests / name).read_bytes() for name in ("initramfs.img", "virtio.img")]
    INITRD.write_bytes(b"".join([*parts, ours]))
    for command in (
        f"tuntap add {TAP} mode tap",
        f"addr add {TAP_ADDRESS} dev {TAP}",
        f"link set {TAP} up",
    ):
        subprocess.run(["ip", *command.split()], check=True)


def subjects(network: str) -> list[Subject]:
    """pyvmm and QEMU on a network."""
    ours, theirs, (address, _) = NETWORKS[network]
    append = f"{disk.APPEND} address={address} run=/bench"
    start = ("--initrd", str(INITRD), "--append", append)
    disk_option = ("--disk", f"{disk.DEBIAN},ro")
    first = pyvmm(disk.KERNEL, *start, *disk_option, "--net", f"{ours},mac={MAC}")
    first.env = {"PYTHONPYCACHEPREFIX": ""}  # beside the copy, where they were compiled to
    drive = f"id=debian,if=none,format=raw,readonly=on,file={disk.DEBIAN}"
    options = ("-drive", drive, "-device", "virtio-blk-pci,drive=debian")
    options += (
        "-netdev",
        f"{theirs},id=net",
        "-device",
        f"virtio-net-pci,netdev=net,romfile=,mac={MAC}",
    )
    start = ("-initrd", str(INITRD), "-append", append)
    second = qemu("q35", disk.KERNEL, *start, *options, cpu=("-cpu", "host"))
    second.name = "QEMU"
    return [first, second]


def busy() -> float:
    """Seconds that the nested host's processors were busy since its start (proc(5), /proc/stat)."""
    user, nice, system, _idle, _wait, irq, softirq, *_ = (
        int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def output(*command: str) -> str:
    """What a command printed. Raises Broken."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise Broken(f"{command[0]} hung") from None
    if done.returncode:
        raise Broken(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def figures(address: str) -> Iterator[tuple[str, str, float]]:
    """Title, unit and value of everything that is measured against one guest."""
    for name, direction in (("to the guest", ()), ("from the guest", ("--reverse",))):
        command = ("iperf3", "--client", address, "--port", str(STREAM_PORT), "--json")
        before = busy()
        said = output(*command, "--time", str(SECONDS), *direction)
        spent = busy() - before
        received = json.loads(said)["end"]["sum_received"]
        speed = received["bytes"] / received["seconds"] / MIB
        yield f"TCP stream {name}", "MiB/s, more is better", speed
        yield f"processor time for a stream {name}", "s/GiB", spent / (received["bytes"] / GIB)
    for protocol, port in PORTS.items():
        command = (str(PINGPONG), protocol.lower(), str(port), address, str(ROUND_TRIPS))
        yield f"{protocol} round trip of one byte", "µs", float(output(*command))


def measure_one(address: str, subject: Subject) -> dict[tuple[str, str], float]:
    """All figures of one boot, by title and unit."""
    with Running(subject) as running:
        running.until(rb"Server listening")
        return {(title, unit): value for title, unit, value in figures(address)}


def measure() -> list[tuple[str, str, dict[str, list[float]], dict[str, str]]]:
    """Title, unit, samples and who is broken of each table."""
    tables = []
    for network, (*_, (_, address)) in NETWORKS.items():
        runs, broken = in_turn(subjects(network), partial(measure_one, address), ROUNDS)
        if not runs:
            tables.append((network, "", {}, broken))
            continue
        for kind in next(iter(runs.values()))[0]:
            samples = {name: [run[kind] for run in of_one] for name, of_one in runs.items()}
            tables.append((f"{network}: {kind[0]}", kind[1], samples, broken))
    return tables


if __name__ == "__main__":
    copy()
    os.chdir(COPY)  # the copy is the pyvmm that python -m finds
    with suppress(Broken):  # the kernel is unpacked into the cache
        time_to(subjects("user")[0], rb"init: ready")
    print(json.dumps(measure()), flush=True)
