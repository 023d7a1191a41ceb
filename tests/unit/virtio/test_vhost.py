"""Devices of the kernel's: what it refuses, and how it is told of memory and rings."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from pyvmm.errors import HostError
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from pyvmm.virtio import net_spec, virtio_spec
from pyvmm.virtio import vhost_spec as spec
from pyvmm.virtio.tap_net import QUEUE_FEATURES, TapNet
from pyvmm.virtio.vhost import Vhost, usable
from pyvmm.virtio.virtqueue import QueueError, Ring
from tests.fakes.driver import SPLIT, Guest, make_driver
from tests.fakes.tap import SocketTap

MAC = bytes.fromhex("525400000001")


def test_a_device_that_is_not_there_names_its_module(tmp_path: Path) -> None:
    path = str(tmp_path / "vhost-net")
    assert not usable(path)
    with pytest.raises(HostError, match=r"vhost-net: load the kernel's module vhost_net$"):
        Vhost(path)


def test_another_device_is_refused() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(HostError, match=r"^/dev/null refuses 0x8008af00: Inappropriate ioctl"):
        Vhost("/dev/null")
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def vhost() -> Vhost:
    if not usable(spec.NET_DEVICE):
        pytest.skip(f"the host has no {spec.NET_DEVICE}")
    return Vhost(spec.NET_DEVICE)


def test_the_kernel_takes_memory_and_rings(vhost: Vhost) -> None:
    memory = GuestMemory(4 * MIB)
    driver = make_driver(memory, SPLIT)
    assert vhost.features & virtio_spec.F_VERSION_1
    vhost.set_features(SPLIT)
    vhost.set_memory(memory)
    vhost.set_ring(1, memory, driver.ring, 77, driver.doorbell)
    assert vhost.ring_base(1) == 77
    vhost.close()
    driver.close()
    memory.close()


def test_a_ring_outside_ram_never_reaches_the_kernel(vhost: Vhost) -> None:
    memory = GuestMemory(4 * MIB)
    with pytest.raises(QueueError):
        vhost.set_ring(0, memory, Ring(0, 8, 1 << 40, 0, 0, SPLIT, -1, -1), 0, -1)
    vhost.close()
    memory.close()


def test_a_closed_device_refuses_everything(vhost: Vhost) -> None:
    vhost.close()
    with pytest.raises(HostError, match="Bad file descriptor"):
        vhost.set_features(0)


# ---- a network device by it; tests/kvm/test_tap.py has the real kernel at work ----


class Recorder(Vhost):
    """Notes what the kernel is asked for; every ring gets on by 10 while it is served."""

    NAMES: ClassVar[dict[int, str]] = {
        value: name for name, value in vars(spec).items() if name.isupper() and type(value) is int
    }

    def __init__(self, features: int = SPLIT | net_spec.F_MRG_RXBUF) -> None:
        self.features = features
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.closed = False
        self.bases = [0, 0]

    def call(self, request: int, argument: bytes = b"") -> bytes:
        name = self.NAMES[request]
        values = struct.unpack(f"={len(argument) // 4}i", argument)
        self.asked.append((name, values))
        if name == "SET_VRING_BASE":
            self.bases[values[0]] = values[1]
        if name == "GET_VRING_BASE":
            return spec.VRING_STATE.pack(values[0], self.bases[values[0]] + 10)
        return argument

    def close(self) -> None:
        self.closed = True

    def of(self, *names: str) -> list[tuple[str, tuple[int, ...]]]:
        """What was asked under these names since the last call of this."""
        found = [one for one in self.asked if one[0] in names]
        self.asked.clear()
        return found


BINDING = ("SET_VRING_BASE", "NET_SET_BACKEND", "GET_VRING_BASE")


@pytest.fixture
def served() -> Iterator[tuple[Recorder, TapNet, Guest]]:
    kernel, tap = Recorder(), SocketTap()
    net = TapNet("eth0", tap, MAC, vhosts=[kernel])
    assert (net.data_path, net.statistics()) == ("vhost-net", None)
    guest = Guest(net)
    yield kernel, net, guest
    guest.close()
    assert kernel.closed
    tap.wires[0].close()


Served = tuple[Recorder, TapNet, Guest]


def test_the_kernel_serves_from_where_it_was(served: Served) -> None:
    kernel, net, guest = served
    guest.start(SPLIT)
    fd = net.link.fds[0]
    begun = [("SET_VRING_BASE", (0, 0)), ("SET_VRING_BASE", (1, 0))]
    bound = [("NET_SET_BACKEND", (0, fd)), ("NET_SET_BACKEND", (1, fd))]
    assert kernel.of(*BINDING) == begun + bound
    net.worker.call(net.quiesce)
    assert kernel.of(*BINDING) == [
        ("NET_SET_BACKEND", (0, -1)),
        ("GET_VRING_BASE", (0, 0)),
        ("NET_SET_BACKEND", (1, -1)),
        ("GET_VRING_BASE", (1, 0)),
    ]
    net.worker.call(net.resume)
    again = [("SET_VRING_BASE", (0, 10)), ("SET_VRING_BASE", (1, 10))]
    assert kernel.of(*BINDING) == again + bound
    guest.reset()
    assert ("NET_SET_BACKEND", (1, -1)) in kernel.of(*BINDING)
    guest.start(SPLIT)
    assert kernel.of(*BINDING) == begun + bound


def test_the_kernel_serves_nothing_while_the_link_is_down(served: Served) -> None:
    kernel, net, guest = served
    guest.start(SPLIT)
    kernel.asked.clear()
    net.set_link(False)
    guest.wait_config_changed()
    net.worker.call(lambda: None)
    assert ("NET_SET_BACKEND", (0, -1)) in kernel.of("NET_SET_BACKEND")
    net.worker.call(net.quiesce)
    net.worker.call(net.resume)
    assert not kernel.of("NET_SET_BACKEND")
    net.set_link(True)
    guest.wait_config_changed()
    net.worker.call(lambda: None)
    assert ("NET_SET_BACKEND", (0, net.link.fds[0])) in kernel.of("NET_SET_BACKEND")


def test_only_what_the_kernel_can_do_is_offered() -> None:
    kernel, tap = Recorder(virtio_spec.F_VERSION_1), SocketTap()
    net = TapNet("eth0", tap, MAC, vhosts=[kernel])
    offered = net.features & (QUEUE_FEATURES | virtio_spec.F_VERSION_1)
    assert offered == virtio_spec.F_VERSION_1
    guest = Guest(net)
    guest.close()
    tap.wires[0].close()


def test_the_kernel_finds_a_ring_broken(served: Served) -> None:
    kernel, _, guest = served
    guest.start(SPLIT)
    (error,) = {fd for _, (_, fd) in kernel.of("SET_VRING_ERR")}
    os.eventfd_write(error, 1)
    guest.wait_reset_wanted()
    assert kernel.asked[-1][0] == "GET_VRING_BASE"
