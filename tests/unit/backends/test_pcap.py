"""Recording what passes: the bytes of the file, and what happens when it cannot grow."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.pcap import Recorder
from pyvmm.errors import HostError
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio.net import Net
from pyvmm.virtio.net_frame import WHOLE
from tests.fakes.driver import Guest
from tests.fakes.link import FakeLink

RX, TX = 0, 1
MAC = bytes.fromhex("525400000001")
HEADER = struct.pack("=IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 18, 1)


def frame(length: int = 60) -> bytes:
    return (b"\xff" * 6 + MAC + b"\x88\xb5").ljust(length, b"x")


def records(path: Path) -> list[tuple[float, bytes]]:
    """Time in seconds and bytes of each; the file must be whole."""
    data, found = path.read_bytes(), []
    assert data.startswith(HEADER)
    at = len(HEADER)
    while at < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("=IIII", data, at)
        assert kept == length
        assert nanoseconds < 10**9
        at += 16 + length
        assert at <= len(data)
        found.append((seconds + nanoseconds / 1e9, data[at - length : at]))
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "eth0.pcap"


@pytest.fixture
def link() -> FakeLink:
    return FakeLink(spec.HOST_OFFLOADS | spec.GUEST_OFFLOADS)


@pytest.fixture
def guest(path: Path, link: FakeLink) -> Iterator[Guest]:
    guest = Guest(Net("eth0", Recorder(link, str(path)), MAC))
    guest.start()
    yield guest
    guest.close()


def test_what_passes_is_recorded_in_its_order(guest: Guest, link: FakeLink, path: Path) -> None:
    before = time.time()
    guest.queues[RX].add(writable=[2000])
    guest.queues[RX].kick()
    guest.queues[TX].request([WHOLE, frame(60)])
    link.give(frame(1514))
    guest.queues[TX].request([WHOLE, frame(61)])
    after = time.time()
    times, frames = zip(*records(path), strict=True)
    assert list(frames) == [frame(60), frame(1514), frame(61)]
    assert [before - 1e-3, *times, after + 1e-3] == sorted([before - 1e-3, *times, after + 1e-3])


def test_only_what_passes_is_recorded(guest: Guest, link: FakeLink, path: Path) -> None:
    assert not link.give(frame(62))  # there is no room
    link.error = OSError()
    guest.queues[TX].request([WHOLE, frame(63)])
    guest.queues[TX].request([WHOLE, b"short"])
    assert records(path) == []


def test_the_link_is_as_without_a_recorder(guest: Guest, link: FakeLink) -> None:
    assert guest.device.features & spec.HOST_OFFLOADS == spec.HOST_OFFLOADS
    assert link.accepted == spec.GUEST_OFFLOADS
    link.give(frame())
    guest.queues[RX].add(writable=[100])
    guest.queues[RX].kick()
    assert guest.queues[RX].wait()
    link.set_up(False)
    guest.wait_config_changed()
    assert not guest.device.read_config()[6]


def test_closing_it_closes_the_link_and_the_file(link: FakeLink, path: Path) -> None:
    recorder = Recorder(link, str(path))
    fds = os.listdir("/proc/self/fd")
    recorder.close()
    assert link.closed
    assert len(os.listdir("/proc/self/fd")) == len(fds) - 1


def test_the_file_is_private_and_begun_anew(path: Path, link: FakeLink) -> None:
    Recorder(link, str(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"x" * 1000)
    Recorder(link, str(path)).close()
    assert path.read_bytes() == HEADER


def test_a_file_that_cannot_grow_ends_in_a_whole_record(
    guest: Guest, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guest.queues[TX].request([WHOLE, frame(60)])
    full = path.stat().st_size + 40  # room for a header and a part of a frame
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, limits[1]))
    try:
        for _ in range(3):
            guest.queues[TX].request([WHOLE, frame(60)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    guest.queues[TX].request([WHOLE, frame(60)])
    assert [data for _, data in records(path)] == [frame(60)]
    assert caplog.text.count("is not written any more") == 1


@pytest.mark.parametrize("name", ["missing/a.pcap", "."])
def test_a_path_that_cannot_be_written_is_refused(
    tmp_path: Path, link: FakeLink, name: str
) -> None:
    with pytest.raises(HostError, match="cannot be written"):
        Recorder(link, os.path.join(tmp_path, name))


def test_tshark_reads_it(guest: Guest, path: Path) -> None:
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("no tshark")
    for _ in range(3):
        guest.queues[TX].request([WHOLE, frame(60)])
    command = [tshark, "-r", str(path), "-T", "fields", "-e", "eth.src"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["52:54:00:00:00:01"] * 3
