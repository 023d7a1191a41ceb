"""Streams between Linux guests and the nested host, by vhost-vsock and by Unix sockets."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from linuxguest import (
    BOOT_TIMEOUT,
    DEBIAN,
    PROMPT,
    TOOLS,
    VIRTIO_DRIVERS,
    boot,
    power_off,
    told,
)
from rig import NestedHost, Process

PEER = "tests/nested/host/vsock_peer.py"
SCRIPT = "/tmp/peer.img"  # the same as a disk of the guest's
SOCKET = "/tmp/v.sock"
CID, HOST_CID = 3, 2
MIB, MANY = 16, 1000
TIMEOUT = 300.0  # seconds


@dataclass
class Setting:
    host: NestedHost
    guest: Process
    to_guest: str  # addresses as PEER's, without the port
    at_host: str

    def run_in_guest(self, words: str) -> str:
        return told(self.guest, f"chroot /mnt /usr/bin/python3 /tmp/peer.py {words}", TIMEOUT)

    def run_in_host(self, words: str) -> str:
        status, output = self.host.run(["python3", PEER, *words.split()], timeout=TIMEOUT)
        assert status == 0, output
        return output


@pytest.fixture(scope="module", params=["kernel", "kernel-mmio", "sockets"])
def setting(nested_host: NestedHost, request: pytest.FixtureRequest) -> Iterator[Setting]:
    by_kernel = request.param.startswith("kernel")
    transport = "mmio" if request.param.endswith("mmio") else "pci"
    nested_host.run(["sh", "-c", f"cp {PEER} {SCRIPT}; truncate --size 64K {SCRIPT}"])
    guest = boot(
        nested_host,
        "vmlinuz-cloud",
        *(*VIRTIO_DRIVERS, "--disk", f"{DEBIAN},ro", "--disk", f"{SCRIPT},ro"),
        *("--cpus", "2", "--transport", transport),
        *("--vsock", f"{CID}" if by_kernel else f"{CID},uds={SOCKET}"),
    )
    prepare(guest)
    to_guest = f"vsock:{CID}" if by_kernel else f"unix:{SOCKET}"
    at_host = f"vsock:{HOST_CID}" if by_kernel else f"unix:{SOCKET}"
    yield Setting(nested_host, guest, to_guest, at_host)
    assert power_off(guest) == 0
    guest.send_signal(signal.SIGKILL)
    nested_host.run(["sh", "-c", f"rm -f {SOCKET}_* {SCRIPT}"])


def prepare(guest: Process) -> None:
    """Have Debian's Python and PEER at hand, after every boot."""
    told(guest, f"{TOOLS} && tr -d '\\0' </dev/vdb >/tmp/peer.py")


def serve_in_guest(setting: Setting, port: int, count: int) -> None:
    command = f"chroot /mnt /usr/bin/python3 /tmp/peer.py serve vsock:{CID}:{port} {count}"
    wait = "until grep -q listening /tmp/served; do usleep 100000; done"
    told(setting.guest, f"{command} >/tmp/served & {wait}")


def test_the_guest_reaches_the_host(setting: Setting) -> None:
    server = setting.host.spawn(["python3", PEER, "serve", f"{setting.at_host}:7001", "1"])
    server.expect(rb"^listening")
    assert setting.run_in_guest(f"send vsock:{HOST_CID}:7001 {MIB}") == f"{MIB} MiB came back\n"
    server.expect(rb"^served 1")


def test_the_host_reaches_the_guest(setting: Setting) -> None:
    serve_in_guest(setting, 7002, 1)
    assert setting.run_in_host(f"send {setting.to_guest}:7002 {MIB}") == f"{MIB} MiB came back\n"
    assert "served 1\n" in told(setting.guest, "wait; cat /tmp/served")


def test_the_guest_has_a_thousand_streams(setting: Setting) -> None:
    server = setting.host.spawn(["python3", PEER, "serve", f"{setting.at_host}:7003", str(MANY)])
    server.expect(rb"^listening")
    assert setting.run_in_guest(f"crowd vsock:{HOST_CID}:7003 {MANY}") == f"{MANY} answered\n"
    server.expect(rb"^served 1000")


def test_the_host_has_a_thousand_streams(setting: Setting) -> None:
    serve_in_guest(setting, 7004, MANY)
    assert setting.run_in_host(f"crowd {setting.to_guest}:7004 {MANY}") == f"{MANY} answered\n"
    assert f"served {MANY}\n" in told(setting.guest, "wait; cat /tmp/served")


def test_where_nobody_listens_there_is_no_stream(setting: Setting) -> None:
    assert setting.run_in_guest(f"refused vsock:{HOST_CID}:7005") == "refused\n"
    assert setting.run_in_host(f"refused {setting.to_guest}:7005") == "refused\n"


def test_after_a_reset_of_the_guest_there_are_streams_again(setting: Setting) -> None:
    setting.guest.write(b"reboot -f\n")
    setting.guest.expect(rb"init: ready", BOOT_TIMEOUT)
    setting.guest.expect(PROMPT)
    prepare(setting.guest)
    serve_in_guest(setting, 7006, 1)
    assert setting.run_in_host(f"send {setting.to_guest}:7006 1") == "1 MiB came back\n"


def test_a_cid_is_one_guests_only(nested_host: NestedHost) -> None:
    guest = boot(nested_host, "vmlinuz-cloud", "--vsock", "77")
    status, output = nested_host.run(["python3", "-m", "pyvmm", "run", "--vsock", "77"])
    assert (status, "The CID 77 must not be another machine's" in output) == (1, True)
    assert power_off(guest) == 0
