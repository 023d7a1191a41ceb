"""Directories that virtiofsd serves: the real one, with FUSE requests in a driver's rings."""

from __future__ import annotations

import errno
import logging
import os
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.backends import daemon
from pyvmm.errors import HostError
from pyvmm.share_config import Rootfs, Share
from pyvmm.virtio import fs_spec as spec
from pyvmm.virtio.device import VirtioDevice
from tests.fakes.driver import PATIENCE, Guest

# <linux/fuse.h>
IN_HEADER, OUT_HEADER = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
INIT_IN = struct.Struct("<IIII")
MAJOR, MINOR = 7, 31
OPEN_IN, OPEN_OUT = struct.Struct("<II"), struct.Struct("<QII")
READ_IN, WRITE_IN = struct.Struct("<QQIIQII"), struct.Struct("<QQIIQII")
LOOKUP, MKDIR, OPEN, READ, WRITE, INIT = 1, 9, 14, 15, 16, 26
ENTRY_SIZE, ROOT_ID = 128, 1
REQUESTS = 1  # the queue for them


def find_or_skip(program: str) -> None:
    try:
        daemon.find(program)
    except HostError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def programs() -> None:
    for program in ("virtiofsd", "setpriv", "unshare"):
        find_or_skip(program)


class Client:
    """A guest that has mounted the directory."""

    def __init__(self, device: VirtioDevice) -> None:
        self.guest = Guest(device)
        self.guest.start()
        self._unique = 0
        error, _ = self.ask(INIT, 0, INIT_IN.pack(MAJOR, MINOR, 0, 0), 64)
        assert error == 0

    def ask(self, opcode: int, node: int, body: bytes, room: int) -> tuple[int, bytes]:
        """A request's errno, and its answer."""
        self._unique += 1
        length = IN_HEADER.size + len(body)
        header = IN_HEADER.pack(length, opcode, self._unique, node, 0, 0, 1, 0, 0)
        answer = self.guest.queues[REQUESTS].request([header, body], [OUT_HEADER.size, room])
        size, error, unique = OUT_HEADER.unpack_from(answer)
        assert unique == self._unique
        return -error, answer[OUT_HEADER.size : size]

    def look_up(self, name: bytes) -> tuple[int, int]:
        """The errno, and the node's number."""
        error, entry = self.ask(LOOKUP, ROOT_ID, name + b"\0", ENTRY_SIZE)
        return error, int.from_bytes(entry[:8], "little")

    def open(self, name: bytes, flags: int) -> tuple[int, int, int]:
        """The errno, the node's number and the handle."""
        error, node = self.look_up(name)
        assert error == 0
        error, opened = self.ask(OPEN, node, OPEN_IN.pack(flags, 0), OPEN_OUT.size)
        return error, node, int.from_bytes(opened[:8], "little")

    def read(self, name: bytes) -> bytes:
        error, node, handle = self.open(name, os.O_RDONLY)
        assert error == 0
        error, data = self.ask(READ, node, READ_IN.pack(handle, 0, 4096, 0, 0, 0, 0), 4096)
        assert error == 0
        return data

    def write(self, name: bytes, data: bytes) -> int:
        error, node, handle = self.open(name, os.O_WRONLY)
        if error:
            return error
        head = WRITE_IN.pack(handle, 0, len(data), 0, 0, 0, 0)
        return self.ask(WRITE, node, head + data, 8)[0]

    def make_directory(self, name: bytes) -> int:
        return self.ask(MKDIR, ROOT_ID, struct.pack("<II", 0o755, 0) + name + b"\0", ENTRY_SIZE)[0]


Mount = Callable[[Share | Rootfs], Client]


@pytest.fixture
def mount() -> Iterator[Mount]:
    clients: list[Client] = []

    def make(what: Share | Rootfs) -> Client:
        clients.append(Client(what.open(None)))
        return clients[-1]

    yield make
    for client in clients:
        client.guest.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "a, b\\c"
    path.mkdir()
    (path / "file").write_bytes(b"content")
    return path


def pid_of(client: Client) -> int:
    pid = client.guest.device.back_end.daemon.pid
    assert pid is not None
    return pid


def test_the_guest_reads_and_writes_the_directory(mount: Mount, directory: Path) -> None:
    client = mount(Share("tag", directory))
    assert client.read(b"file") == b"content"
    assert client.write(b"file", b"CONT") == 0
    assert (directory / "file").read_bytes() == b"CONTent"
    assert client.make_directory(b"made") == 0
    assert stat.S_IMODE((directory / "made").stat().st_mode) == 0o755
    assert client.look_up(b"missing")[0] == errno.ENOENT


@pytest.mark.parametrize("kind", ["share", "overlay", "ro"])
def test_a_read_only_directory_does_not_change(mount: Mount, directory: Path, kind: str) -> None:
    read_only = Share("tag", directory, ro=True)
    client = mount(read_only if kind == "share" else Rootfs(path=directory, mode=kind))
    assert client.read(b"file") == b"content"
    assert client.write(b"file", b"CONT") == errno.EROFS
    assert client.make_directory(b"made") == errno.EROFS
    assert sorted(os.listdir(directory)) == ["file"]
    assert (directory / "file").read_bytes() == b"content"
    (directory / "by the host").touch()  # to which it is as writable as it was


def test_a_root_directory_can_be_written_if_that_is_asked_for(
    mount: Mount, directory: Path
) -> None:
    assert mount(Rootfs(path=directory, mode="rw")).write(b"file", b"CONT") == 0
    assert (directory / "file").read_bytes() == b"CONTent"


def test_the_guest_does_not_leave_the_directory(mount: Mount, directory: Path) -> None:
    (directory.parent / "secret").write_bytes(b"secret")
    client = mount(Share("tag", directory))
    assert client.look_up(b"../secret")[0] in (errno.EINVAL, errno.ENOENT)


def test_the_configuration_space_has_the_tag(mount: Mount, directory: Path) -> None:
    device = mount(Share("t" * spec.TAG_SIZE, directory)).guest.device
    assert device.read_config() == b"t" * spec.TAG_SIZE + struct.pack("<I", 1)
    assert len(device.queue_sizes) == 2


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, tmp_path / "missing"):
        with pytest.raises(HostError, match="must exist"):
            Share("tag", path).open(None)


def test_a_missing_program_is_named_with_its_package(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **more: None if name == "virtiofsd" else found(name, **more)
    )
    with pytest.raises(HostError) as caught:
        Share("tag", directory).open(None)
    assert str(caught.value) == (
        "virtiofsd must be installed; "
        "it is in Debian's package qemu-system-common (12) or virtiofsd (13)"
    )


def test_what_the_daemon_says_when_it_cannot_start_is_told(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "virtiofsd").write_text("#!/bin/sh\necho it is one\necho 'it is broken' >&2\nexit 1\n")
    (fake / "virtiofsd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    with pytest.raises(HostError) as caught:
        Share("tag", directory).open(None)
    assert str(caught.value) == f"{directory}: it is broken"


def test_its_death_is_reported_and_not_passed_over(
    mount: Mount, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = mount(Share("tag", directory))
    with caplog.at_level(logging.WARNING):
        os.kill(pid_of(client), signal.SIGKILL)
        client.guest.wait_reset_wanted()
    (message,) = caplog.messages
    assert message == (
        f"tag: {directory}: virtiofsd was killed by signal 9, and with it all that the guest had "
        "open; it does nothing until its driver resets it"
    )


def test_after_a_reset_there_is_another(mount: Mount, directory: Path) -> None:
    client = mount(Share("tag", directory))
    os.kill(pid_of(client), signal.SIGKILL)
    client.guest.wait_reset_wanted()
    client.guest.reset()
    client.guest.start()
    assert client.ask(INIT, 0, INIT_IN.pack(MAJOR, MINOR, 0, 0), 64)[0] == 0
    assert client.read(b"file") == b"content"


@pytest.mark.parametrize("ro", [False, True])
def test_it_ends_with_a_process_that_is_killed(directory: Path, ro: bool) -> None:
    script = (
        "import sys; from pyvmm.share_config import Share\n"
        f"device = Share('tag', sys.argv[1], ro={ro}).open(None)\n"
        "print(device.back_end.daemon.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pidfd = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(PATIENCE * 1000), "the daemon outlives what started it"
    os.close(pidfd)


AS_ANOTHER_USER = """
import os, shutil, sys, tempfile
from pyvmm.backends.virtiofsd import Virtiofsd
from pyvmm.virtio.vhost_user import VhostUser
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
back_end = Virtiofsd(sys.argv[1], read_only=sys.argv[2] == "True")
link = None
try:
    link = VhostUser(back_end.connect())
    print(link.queue_count())
    link.close()
except Exception as error:
    print(back_end.explain(str(error)))
back_end.disconnect()
"""


@pytest.mark.parametrize("ro", [False, True])
@pytest.mark.skipif(os.geteuid() != 0, reason="must be root to become another user")
def test_an_ordinary_user_can_have_it(ro: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:  # not below pytest's, which is root's alone
        os.chmod(directory, 0o755)
        command = [sys.executable, "-c", AS_ANOTHER_USER, directory, str(ro)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    if "unshare" in done.stdout:
        pytest.skip(f"the host allows no user namespaces: {done.stdout}")
    assert (done.stdout, done.stderr) == ("2\n", "")
