"""Devices of the kernel's: what it refuses, and how it is told of memory and rings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyvmm.errors import HostError
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from pyvmm.virtio import vhost_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.vhost import Vhost, usable
from pyvmm.virtio.virtqueue import QueueError, Ring
from tests.fakes.driver import SPLIT, make_driver


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
