"""Directories of the host under Debian's own virtiofs: shared, as the root, and with a command."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from hashlib import sha256

import pytest
from linuxguest import BOOT_TIMEOUT, GUESTS, power_off, told
from rig import NestedHost, Process

DEBIAN = "/dev/vdb"  # of the nested host: build/guests/debian.img, with writes that are lost
ROOT = "/tmp/root"
LOGIN_TIMEOUT = 300.0  # seconds; thirty when nothing else runs
PYVMM = ("python3", "-m", "pyvmm", "run", f"{GUESTS}/vmlinuz-cloud")


@pytest.fixture(autouse=True)
def root(nested_host: NestedHost) -> Iterator[str]:
    """A Debian's directory."""
    make = f"mkdir -p {ROOT} && mount {DEBIAN} {ROOT} && : >{ROOT}/etc/fstab"
    status, said = nested_host.run(["sh", "-c", make])
    assert status == 0, said
    yield ROOT
    nested_host.run(["umount", ROOT])


def run(
    host: NestedHost, command: str, *options: str, rootfs: str = ROOT, stdin: str = "/dev/null"
) -> tuple[int, str, str]:
    """Run a shell command in a guest: its exit status, its output, and its standard error."""
    words = [*PYVMM, "--rootfs", rootfs, *options, "--", "sh", "-c", command]
    line = f"{shlex.join(words)} <{stdin} >/tmp/out 2>/tmp/err"
    status, said = host.run(["sh", "-c", line], timeout=BOOT_TIMEOUT)
    assert said == ""
    output, error = (host.run(["cat", f"/tmp/{name}"])[1] for name in ("out", "err"))
    return status, output, error


def succeed(host: NestedHost, command: str, *options: str, **more: str) -> str:
    status, output, error = run(host, command, *options, **more)
    assert (status, error) == (0, ""), output
    return output


def test_a_command_has_its_files_and_gives_its_status(nested_host: NestedHost) -> None:
    host = nested_host
    host.run(["sh", "-c", "printf 'one\\ntwo\\0\\001x' >/tmp/in"])
    command = "echo out; cat; echo err >&2; echo again >/dev/stderr; exit 200"
    assert run(host, command, stdin="/tmp/in") == (200, "out\none\ntwo\0\x01x", "err\nagain\n")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("sh", "-c", "exit 0"), 0),
        (("sh", "-c", "kill -9 $$"), 137),
        (("no-such-program",), 127),
        (("/etc/fstab",), 126),
    ],
)
def test_every_end_of_a_command_has_a_status(
    nested_host: NestedHost, words: tuple[str, ...], status: int
) -> None:
    command = [*PYVMM, "--rootfs", f"{ROOT},ro", "--", *words]
    done, said = nested_host.run(command, timeout=BOOT_TIMEOUT)
    assert done == status, said


def test_much_output_arrives_whole(nested_host: NestedHost) -> None:
    host = nested_host
    host.run(["sh", "-c", "head -c 4000000 /dev/urandom >/tmp/in"])
    words = shlex.join([*PYVMM, "--rootfs", ROOT, "--", "cat"])
    pipe = f"cat /tmp/in | {words} | sha256sum; sha256sum </tmp/in"
    _, said = host.run(["sh", "-c", pipe], timeout=BOOT_TIMEOUT)
    ours, theirs = said.splitlines()
    assert ours == theirs


def test_a_command_on_a_terminal_has_one_of_its_size(nested_host: NestedHost) -> None:
    words = [*PYVMM, "--rootfs", ROOT, "--", "sh", "-c", "tty; stty size; read x; echo $x; exit 3"]
    process = nested_host.spawn(words, tty=(33, 101))
    process.expect(rb"/dev/hvc0\r*\n", BOOT_TIMEOUT)
    process.expect(rb"33 101\r*\n")
    process.write(b"typed\r")
    process.expect(rb"typed\r*\n.*typed\r*\n")
    assert process.wait(BOOT_TIMEOUT) == 3
    assert b"Linux version" not in process.output


def test_the_directory_does_not_change_unless_that_is_asked_for(nested_host: NestedHost) -> None:
    host = nested_host
    change = "echo changed >/etc/hostname && rm /etc/hosts && mkdir /made && cat /etc/hostname"
    before = listing(host)
    assert succeed(host, change) == "changed\n"
    assert listing(host) == before
    refused = "! touch /made 2>/dev/null && touch /tmp/made /run/made && ls /made 2>&1; mount"
    status, output, _ = run(host, refused, rootfs=f"{ROOT},ro")
    assert status == 0
    assert "virtiofs (ro" in output
    assert listing(host) == before
    assert succeed(host, change, rootfs=f"{ROOT},rw") == "changed\n"
    assert host.run(["cat", f"{ROOT}/etc/hostname"])[1] == "changed\n"
    assert host.run(["test", "-d", f"{ROOT}/made"])[0] == 0
    assert host.run(["test", "-e", f"{ROOT}/etc/hosts"])[0] == 1
    host.run(["sh", "-c", f"echo debian >{ROOT}/etc/hostname; touch {ROOT}/etc/hosts"])
    host.run(["rmdir", f"{ROOT}/made"])


def listing(host: NestedHost) -> str:
    script = f"cd {ROOT} && find . -xdev -printf '%p %m %s %T@\\n' | sort | sha256sum"
    return host.run(["sh", "-c", script])[1]


def test_shares_are_written_unless_they_are_read_only(nested_host: NestedHost) -> None:
    host = nested_host
    host.run(["sh", "-c", "mkdir -p /tmp/w /tmp/r && echo host | tee /tmp/w/file >/tmp/r/file"])
    shares = ("--share", "/tmp/w:one", "--share", "/tmp/r:two,ro")
    mounts = "mkdir /w /r && mount -t virtiofs one /w && mount -t virtiofs two /r"
    data = "head -c 3000000 /dev/zero | tr '\\0' x"
    command = f"{mounts} && cat /w/file /r/file && {data} >/w/new && ! echo no >/r/file"
    status, output, error = run(host, command, *shares)
    assert (status, output) == (0, "host\nhost\n")
    assert "Read-only file system" in error
    assert host.run(["cat", "/tmp/r/file"])[1] == "host\n"
    found = host.run(["sha256sum", "/tmp/w/new"])[1].split()[0]
    assert found == sha256(b"x" * 3000000).hexdigest()


def test_the_death_of_virtiofsd_is_reported(nested_host: NestedHost) -> None:
    process = nested_host.spawn([*PYVMM, "--rootfs", ROOT, "--", "sh", "-c", "echo ready; read x"])
    process.expect(rb"ready\r*\n", BOOT_TIMEOUT)
    kill = "for one in $(grep -lx virtiofsd /proc/[0-9]*/comm | cut -d/ -f3); do kill -9 $one; done"
    status, said = nested_host.run(["sh", "-c", kill])
    assert status == 0, said
    process.expect(rb"root: .*virtiofsd.*, and with it all that the guest had open")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130


def test_debian_starts_from_a_directory(nested_host: NestedHost) -> None:
    guest = start_debian(nested_host)
    assert "overlay / overlay" in told(guest, "cat /proc/mounts")
    assert told(guest, "touch /kept && ls /kept") == "/kept\n"
    assert power_off(guest) == 0
    assert nested_host.run(["test", "-e", f"{ROOT}/kept"])[0] == 1


def start_debian(host: NestedHost) -> Process:
    guest = host.spawn([*PYVMM, "--rootfs", ROOT, "--append", "console=ttyS0 quiet"])
    guest.expect(rb"login: ", LOGIN_TIMEOUT)
    guest.write(b"root\n")
    guest.expect(rb"root@debian:~# ")
    return guest
