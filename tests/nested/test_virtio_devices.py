"""Random numbers, consoles and the balloon under Debian's own drivers."""

from __future__ import annotations

import re

import pytest
from linuxguest import BOOT_TIMEOUT, GUESTS, PROMPT, VIRTIO_DRIVERS, boot, power_off, told
from rig import NestedHost

PORT = "/tmp/agent.sock"
# What connects to a port from the nested host, says something, and prints what comes back.
TALK = f"""
import socket
peer = socket.socket(socket.AF_UNIX)
peer.connect("{PORT}")
peer.sendall(b"from the host\\n")
print("heard", peer.makefile().readline())
"""


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_the_guest_has_random_numbers(nested_host: NestedHost, transport: str) -> None:
    guest = boot(nested_host, "vmlinuz-cloud", "--rng", "--transport", transport, *VIRTIO_DRIVERS)
    assert told(guest, "cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
    size = int(told(guest, "head -c 4096 /dev/hwrng | gzip | wc -c"))
    assert size > 4096  # all of it, and there is no compressing it
    assert power_off(guest) == 0


def test_random_numbers_come_at_the_rate(nested_host: NestedHost) -> None:
    guest = boot(nested_host, "vmlinuz-cloud", "--rng=1000", *VIRTIO_DRIVERS)
    took = told(guest, "time -p head -c 4000 /dev/hwrng 2>&1 >/dev/null")
    assert float(re.search(r"real\s+([\d.]+)", took)[1]) > 2  # type: ignore[index]
    assert power_off(guest) == 0


def test_a_console_on_the_terminal_has_its_size_and_follows_it(nested_host: NestedHost) -> None:
    shell = "exec setsid sh -c 'exec sh -i </dev/hvc0 >/dev/hvc0 2>&1'"
    command = f"""tty >/tmp/tty; exec python3 -m pyvmm run {GUESTS}/vmlinuz-cloud \
        --initrd {GUESTS}/initramfs.img --initrd {GUESTS}/virtio.img \
        --serial file:/tmp/serial --console hvc0=stdio \
        --append "console=ttyS0 quiet run=\\"{shell}\\"" """
    guest = nested_host.spawn(["sh", "-c", command], tty=(33, 99))
    guest.expect(PROMPT, BOOT_TIMEOUT)
    assert told(guest, "stty size") == "33 99\n"
    nested_host.run(["sh", "-c", "stty -F $(cat /tmp/tty) rows 44 cols 122"])
    size = ""
    for _ in range(20):  # the guest is told, not waited for
        size = told(guest, "stty size")
        if size == "44 122\n":
            break
    assert size == "44 122\n"
    assert int(told(guest, "head -c 200000 /dev/zero | tr '\\0' x | wc -c")) == 200_000
    guest.write(b"\x01x")
    guest.wait()


def test_a_named_port_is_a_line_to_the_host(nested_host: NestedHost) -> None:
    options = ("--console", f"agent=unix:{PORT}", "--console", "second=none")
    guest = boot(nested_host, "vmlinuz-cloud", *options, *VIRTIO_DRIVERS)
    names = told(guest, "cd /sys/class/virtio-ports; for p in *; do echo $p $(cat $p/name); done")
    found = dict(reversed(line.split()) for line in names.splitlines())
    assert set(found) == {"agent", "second"}
    peer = nested_host.spawn(["python3", "-c", TALK])
    said = told(guest, f"exec 3<>/dev/{found['agent']}; read line <&3; echo $line; echo it >&3")
    assert said == "from the host\n"
    peer.expect(rb"heard it")
    assert peer.wait() == 0
    assert power_off(guest) == 0


def figures(host: NestedHost, how: str) -> dict[str, int]:
    command = ["python3", "tests/nested/host/memory_returns.py", how]
    status, output = host.run(command, timeout=900)
    assert status == 0, output
    return {name: int(value) for name, value in re.findall(r"^(\w+) (-?\d+)$", output, re.M)}


def test_memory_that_the_guest_frees_returns_to_the_host(nested_host: NestedHost) -> None:
    found = figures(nested_host, "report")
    assert found["grown"] > 200
    assert found["returned"] > 190
    assert 400 < found["total"] < 512


def test_the_balloon_returns_memory_to_the_host_and_gives_it_back(
    nested_host: NestedHost,
) -> None:
    found = figures(nested_host, "inflate")
    assert found["grown"] > 200
    assert found["kept"] > 200  # without a balloon, what is freed stays with the guest
    assert found["size"] == 160
    assert found["returned"] > 190
    assert found["lent"] == 0
