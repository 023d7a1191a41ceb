"""The socket device that the kernel serves: what the kernel is asked, in what order."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import HostError
from pyvmm.virtio import vhost_spec, vhost_vsock, virtio_spec
from pyvmm.virtio import vsock_spec as spec
from pyvmm.virtio.vhost_vsock import VhostVsock
from tests.fakes.driver import SPLIT, Guest
from tests.unit.virtio.conftest import MakeGuest

CID = 9


class FakeVhost:
    """Stands for Vhost: keeps what it is asked."""

    features = SPLIT | spec.F_SEQPACKET | virtio_spec.F_ACCESS_PLATFORM
    base = 5

    def __init__(self, path: str) -> None:
        self.path = path
        self.asked: list[Any] = []
        self.closed = False
        self.refusing: OSError | None = None

    def call(self, request: int, argument: bytes = b"") -> bytes:
        if self.refusing is not None:
            raise HostError("no") from self.refusing
        self.asked.append((request, argument))
        return argument

    def set_features(self, features: int) -> None:
        self.asked.append(("features", features))

    def set_memory(self, memory: object) -> None:
        self.asked.append("memory")

    def set_ring(self, index: int, memory: object, ring: Any, base: int, error: int) -> None:
        self.asked.append(("ring", index, base))
        self.broken = error

    def ring_base(self, index: int) -> int:
        return self.base + index

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def vhosts(monkeypatch: pytest.MonkeyPatch) -> list[FakeVhost]:
    made: list[FakeVhost] = []

    def make(path: str) -> FakeVhost:
        made.append(FakeVhost(path))
        return made[-1]

    monkeypatch.setattr(vhost_vsock, "Vhost", make)
    return made


@pytest.fixture
def guest(vhosts: list[FakeVhost], make_guest: MakeGuest) -> Iterator[Guest]:
    guest = make_guest(VhostVsock("vsock", CID))
    vhosts[0].asked.clear()
    return guest


RUN = (vhost_spec.VSOCK_SET_RUNNING, b"\1\0\0\0")
HALT = (vhost_spec.VSOCK_SET_RUNNING, bytes(4))


def test_the_kernel_is_told_the_cid_and_offers_the_features(vhosts: list[FakeVhost]) -> None:
    device = VhostVsock("vsock", CID)
    assert vhosts[0].path == "/dev/vhost-vsock"
    assert vhosts[0].asked == [(vhost_spec.VSOCK_SET_GUEST_CID, CID.to_bytes(8, "little"))]
    assert device.features == SPLIT | spec.F_SEQPACKET
    device.close()
    assert vhosts[0].closed


def test_the_kernel_starts_with_the_driver_and_stops_with_it(
    guest: Guest, vhosts: list[FakeVhost]
) -> None:
    guest.start(SPLIT)
    (vhost,) = vhosts
    assert vhost.asked == [
        ("features", SPLIT),
        "memory",
        ("ring", spec.RX, 0),
        ("ring", spec.TX, 0),
        RUN,
    ]
    for queue in (spec.RX, spec.TX):
        assert os.eventfd_read(guest.queues[queue].doorbell) == 1
    vhost.asked.clear()
    guest.reset()
    assert vhost.asked == [HALT]
    guest.start(SPLIT)
    assert ("ring", spec.RX, 0) in vhost.asked


def test_after_a_pause_the_kernel_goes_on_where_it_was(
    guest: Guest, vhosts: list[FakeVhost]
) -> None:
    guest.start(SPLIT)
    device = guest.device
    device.worker.call(device.quiesce)
    assert vhosts[0].asked[-1] == HALT
    vhosts[0].asked.clear()
    device.worker.call(device.resume)
    assert ("ring", spec.RX, 5) in vhosts[0].asked
    assert ("ring", spec.TX, 6) in vhosts[0].asked
    assert vhosts[0].asked[-1] == RUN


def test_the_event_queue_is_served_here(guest: Guest) -> None:
    guest.start(SPLIT)
    events = guest.queues[spec.EVENT]
    events.add(writable=[4])
    events.kick()
    assert isinstance(guest.device, VhostVsock)
    guest.device.reset_streams()
    assert events.wait()[0].data == spec.EVENT_PACKET.pack(spec.EVENT_TRANSPORT_RESET)


def test_a_ring_that_the_kernel_finds_broken_needs_a_reset(
    guest: Guest, vhosts: list[FakeVhost]
) -> None:
    guest.start(SPLIT)
    os.eventfd_write(vhosts[0].broken, 1)
    guest.wait_reset_wanted()
    assert vhosts[0].asked[-1] == HALT


def test_a_kernel_that_refuses_leaves_a_device_that_needs_a_reset(
    guest: Guest, vhosts: list[FakeVhost]
) -> None:
    vhosts[0].refusing = OSError(errno.EFAULT, "no")
    guest.start(SPLIT)
    guest.wait_reset_wanted()
    vhosts[0].refusing = None
    guest.reset()
    guest.start(SPLIT)
    assert vhosts[0].asked[-1] == RUN


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.EADDRINUSE, "must not be another machine's"), (errno.EPERM, "no")]
)
def test_a_cid_that_the_kernel_refuses_is_named(
    number: int, reason: str, vhosts: list[FakeVhost], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FakeVhost, request: int, argument: bytes = b"") -> bytes:
        raise HostError("no") from OSError(number, "no")

    monkeypatch.setattr(FakeVhost, "call", refuse)
    with pytest.raises(HostError, match=reason):
        VhostVsock("vsock", CID)
    assert vhosts[0].closed


def test_without_the_device_the_cure_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vhost_spec, "VSOCK_DEVICE", str(tmp_path / "vhost-vsock"))
    with pytest.raises(HostError, match="load the kernel's module vhost_vsock"):
        VhostVsock("vsock", CID)
