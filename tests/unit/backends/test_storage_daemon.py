"""Images that qemu-storage-daemon serves: the real one, with a driver's rings in memory."""

from __future__ import annotations

import os
import select
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends import storage_daemon
from pyvmm.backends.daemon import PACKAGES
from pyvmm.disk_config import Disk
from pyvmm.errors import HostError
from pyvmm.peripherals import Host
from pyvmm.virtio import blk_spec as spec
from pyvmm.virtio.vhost_user_blk import VhostUserBlk
from tests.fakes.driver import PATIENCE, Guest

pytestmark = [
    pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed ({package})")
    for program in (storage_daemon.PROGRAM, "qemu-img", "setpriv")
    for package in [PACKAGES[program]]
]

HOST = Host(**dict.fromkeys(Host.fields) | {"cpus": 2})  # these disks need nothing else of it
MIB = 1 << 20
SIZE = 8 * MIB
OK, IOERR = bytes([spec.S_OK]), bytes([spec.S_IOERR])


def qemu_img(*command: object) -> str:
    return subprocess.run(
        ["qemu-img", *map(str, command)], check=True, capture_output=True, text=True
    ).stdout


def content(image: Path, tmp_path: Path) -> bytes:
    """What is in a qcow2 image, by another program."""
    raw = tmp_path / "content.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", image, raw)
    return raw.read_bytes()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An empty qcow2 image on a backing file full of `b`."""
    (tmp_path / "base.raw").write_bytes(b"b" * SIZE)
    base, image = tmp_path / "base.qcow2", tmp_path / "disk.qcow2"
    qemu_img("convert", "-O", "qcow2", tmp_path / "base.raw", base)
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", image)
    return image


class Disks:
    """Guests with a disk each."""

    def __init__(self) -> None:
        self.guests: list[Guest] = []

    def open(self, path: Path, **options: object) -> Guest:
        device = Disk("vda", path, **options).open(HOST)
        self.guests.append(Guest(device))
        self.guests[-1].start()
        return self.guests[-1]

    def close(self) -> None:
        while self.guests:
            self.guests.pop().close()


@pytest.fixture
def disks() -> Iterator[Disks]:
    disks = Disks()
    yield disks
    disks.close()


def add(guest: Guest, kind: int, sector: int = 0, data: bytes = b"", room: int = 0) -> int:
    """Make a request; its answer is the data and the status."""
    header = spec.HEADER.pack(kind, sector)
    return guest.queues[0].add([header, data] if data else [header], [room, 1] if room else [1])


def request(
    guest: Guest, kind: int, sector: int = 0, data: bytes = b"", room: int = 0
) -> tuple[bytes, bytes]:
    token = add(guest, kind, sector, data, room)
    sent = guest.queues[0].requests[token]
    guest.queues[0].kick()
    guest.queues[0].wait()
    answer = b"".join(guest.memory.read(*part) for part in sent.writable)
    return answer[:-1], answer[-1:]


def write(guest: Guest, sector: int, data: bytes) -> bytes:
    return request(guest, spec.T_OUT, sector, data)[1]


def read(guest: Guest, sector: int, length: int = 512) -> bytes:
    data, status = request(guest, spec.T_IN, sector, room=length)
    assert status == OK
    return data


def daemon(guest: Guest) -> int:
    """The daemon's process ID."""
    assert isinstance(guest.device, VhostUserBlk)
    back_end = guest.device.back_end
    assert isinstance(back_end, storage_daemon.StorageDaemon)
    assert back_end.daemon.pid is not None
    return back_end.daemon.pid


def wait_end(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(PATIENCE * 1000), "the daemon outlives what started it"


def test_reads_come_from_the_backing_file_and_writes_do_not_reach_it(
    image: Path, disks: Disks, tmp_path: Path
) -> None:
    guest = disks.open(image)
    assert read(guest, 8) == b"b" * 512
    assert write(guest, 8, b"w" * 512) == OK
    assert read(guest, 8, 1024) == b"w" * 512 + b"b" * 512
    disks.close()
    assert content(image, tmp_path)[8 * 512 : 10 * 512] == b"w" * 512 + b"b" * 512
    assert content(tmp_path / "base.qcow2", tmp_path) == b"b" * SIZE


def test_the_configuration_space_says_what_the_disk_is(image: Path, disks: Disks) -> None:
    guest = disks.open(image, queues=3)
    fields = spec.CONFIG.unpack(guest.device.read_config())
    assert fields[0] == SIZE // spec.SECTOR
    assert struct.unpack("<H", guest.device.read_config()[spec.CONFIG_NUM_QUEUES]) == (3,)
    assert len(guest.device.queue_sizes) == 3
    assert guest.device.features & spec.F_FLUSH
    assert not guest.device.features & (spec.F_RO | spec.F_SIZE_MAX)


@pytest.mark.parametrize(("cache", "byte"), [("writeback", 1), ("none", 1), ("writethrough", 0)])
def test_the_cache_mode_is_the_one_asked_for(
    image: Path, disks: Disks, cache: str, byte: int
) -> None:
    guest = disks.open(image, cache=cache)
    assert guest.device.read_config()[spec.CONFIG_WRITEBACK] == byte
    assert write(guest, 0, b"w" * 4096) == OK
    assert request(guest, spec.T_FLUSH)[1] == OK


def test_a_flush_reaches_the_image_of_a_daemon_that_is_killed(
    image: Path, disks: Disks, tmp_path: Path
) -> None:
    guest = disks.open(image)
    assert write(guest, 0, b"w" * 4096) == OK
    assert request(guest, spec.T_FLUSH)[1] == OK
    os.kill(daemon(guest), signal.SIGKILL)
    assert read(guest, 0, 4096) == b"w" * 4096


def test_a_daemon_killed_under_load_loses_no_request(
    image: Path, disks: Disks, tmp_path: Path
) -> None:
    guest = disks.open(image, cache="writethrough")
    queue = guest.queues[0]
    sent: dict[int, tuple[int, int]] = {}  # token: what it writes, and where its status is
    for number in range(16):
        data = bytes([number + 1]) * 512
        token = add(guest, spec.T_OUT, number * 8, data)
        sent[token] = number, queue.requests[token].writable[-1][0]
    for _, status in sent.values():
        guest.memory.write_u8(status, 0xFF)
    queue.kick()
    os.kill(daemon(guest), signal.SIGKILL)
    assert {used.token for used in queue.wait(16)} == set(sent)
    assert {guest.memory.u8(status) for _, status in sent.values()} == {spec.S_OK}
    for number in range(16):
        assert read(guest, number * 8) == bytes([number + 1]) * 512


def test_writes_that_a_killed_daemon_has_taken_with_it_need_a_reset(
    image: Path, disks: Disks
) -> None:
    guest = disks.open(image)
    assert write(guest, 0, b"w" * 512) == OK
    os.kill(daemon(guest), signal.SIGKILL)
    guest.wait_reset_wanted()


def test_a_read_only_disk_is_not_written(image: Path, disks: Disks) -> None:
    before = image.read_bytes()
    guest = disks.open(image, ro=True)
    assert guest.device.features & spec.F_RO
    assert write(guest, 0, b"w" * 512) == IOERR
    assert read(guest, 0) == b"b" * 512
    disks.close()
    assert image.read_bytes() == before


def test_a_snapshot_is_forgotten_and_leaves_nothing(
    image: Path, disks: Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    before = image.read_bytes()
    guest = disks.open(image, snapshot=True)
    other = disks.open(image, snapshot=True)
    assert write(guest, 0, b"w" * 4096) == OK
    assert request(guest, spec.T_FLUSH)[1] == OK
    assert read(guest, 0) == b"w" * 512
    assert read(other, 0) == b"b" * 512
    os.kill(daemon(guest), signal.SIGKILL)
    assert read(guest, 0) == b"w" * 512
    assert list(scratch.iterdir()) == []
    disks.close()
    assert image.read_bytes() == before


@pytest.mark.parametrize("discard", [True, False])
def test_discard_is_offered_as_asked(image: Path, disks: Disks, discard: bool) -> None:
    guest = disks.open(image, discard=discard)
    assert bool(guest.device.features & spec.F_DISCARD) == discard


def test_limits_are_accepted(image: Path, disks: Disks) -> None:
    guest = disks.open(image, iops=10000, bps="100M")
    assert read(guest, 0) == b"b" * 512


def test_a_reset_in_flight_leaves_no_request_and_the_daemon(image: Path, disks: Disks) -> None:
    guest = disks.open(image, iops=50)
    before = daemon(guest)
    queue = guest.queues[0]
    for number in range(8):
        add(guest, spec.T_IN, number, room=512)
    queue.kick()
    found = queue.wait(1)
    guest.device.worker.call(guest.device.deactivate)
    assert len(found + queue.collect()) == 8
    guest.reset()
    guest.start()
    assert read(guest, 0) == b"b" * 512
    assert daemon(guest) == before


def test_what_is_in_flight_when_the_device_is_quiesced_is_answered(
    image: Path, disks: Disks
) -> None:
    guest = disks.open(image, iops=50)
    before = daemon(guest)
    queue = guest.queues[0]
    for number in range(8):
        add(guest, spec.T_IN, number, room=512)
    queue.kick()
    guest.device.worker.call(guest.device.quiesce)
    guest.device.worker.call(guest.device.resume)
    assert len(queue.wait(8)) == 8
    assert daemon(guest) == before


def test_a_path_may_have_any_character(image: Path, disks: Disks, tmp_path: Path) -> None:
    odd = tmp_path / 'nbd:a,b}: "c.qcow2'
    image.rename(odd)
    guest = disks.open(odd, snapshot=True)
    assert read(guest, 0) == b"b" * 512
    assert refusal(odd) == f"{odd}: it must not be in use by another program"
    disks.close()
    assert read(disks.open(odd), 0) == b"b" * 512


# ---- errors ----


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(HostError) as error:
        Disk("vda", path, **options).open(HOST)
    return str(error.value)


@pytest.mark.parametrize("snapshot", [False, True])
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, snapshot: bool) -> None:
    missing = tmp_path / "missing.qcow2"
    assert refusal(missing, snapshot=snapshot).startswith(f"{missing}: ")
    assert "No such file or directory" in refusal(missing, snapshot=snapshot)
    raw = tmp_path / "raw.qcow2"
    raw.write_bytes(bytes(MIB))
    assert "not in qcow2 format" in refusal(raw, snapshot=snapshot)
    assert str(tmp_path) in refusal(tmp_path, format="qcow2", snapshot=snapshot)


def test_a_missing_backing_file_is_named(image: Path, tmp_path: Path) -> None:
    (tmp_path / "base.qcow2").unlink()
    message = refusal(image)
    assert "Could not open backing file" in message
    assert "base.qcow2" in message
    assert "\n" not in message


def test_an_image_in_use_is_refused(image: Path, disks: Disks) -> None:
    disks.open(image)
    assert refusal(image) == f"{image}: it must not be in use by another program"


@pytest.mark.parametrize("program", [storage_daemon.PROGRAM, "qemu-img"])
def test_a_missing_program_is_named_with_its_package(
    image: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **_: None if name == program else found(name))
    message = refusal(image, snapshot=True)
    package = PACKAGES[program]
    assert message == f"{program} must be installed; it is in Debian's package {package}"


# ---- processes ----


def test_the_daemon_ends_with_the_device(image: Path, disks: Disks) -> None:
    guest = disks.open(image)
    pidfd = os.pidfd_open(daemon(guest))
    disks.close()
    wait_end(pidfd)
    os.close(pidfd)


def test_the_daemon_ends_with_a_process_that_is_killed(image: Path) -> None:
    script = (
        "import sys; from pyvmm.disk_config import Disk; from pyvmm.peripherals import Host\n"
        "host = Host(**dict.fromkeys(Host.fields) | {'cpus': 1})\n"
        "device = Disk('vda', sys.argv[1]).open(host)\n"
        "print(device.back_end.daemon.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pidfd = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
    wait_end(pidfd)
    os.close(pidfd)


def test_the_daemon_is_not_in_the_terminals_process_group(image: Path, disks: Disks) -> None:
    assert os.getpgid(daemon(disks.open(image))) != os.getpgrp()
