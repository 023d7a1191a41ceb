"""A socket device, its guest's driver, and programs of the host."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.backends.vsock_sockets import UnixSockets
from pyvmm.virtio.vsock import Vsock
from tests.fakes.driver import PATIENCE
from tests.fakes.vsock import VsockDriver
from tests.fakes.vsock_host import CID, MANY, PORTS, accept, peers
from tests.unit.virtio.conftest import MakeGuest

Start = Callable[..., VsockDriver]


@pytest.fixture(autouse=True)
def no_mistake(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No exception leaves a callback."""
    yield
    while peers:
        peers.pop().close()
    assert not [record for record in caplog.records if record.exc_info]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "v")


@pytest.fixture
def start(path: str, make_guest: MakeGuest) -> Start:
    def start(**settings: int) -> VsockDriver:
        return VsockDriver(make_guest(Vsock("vsock", CID, UnixSockets(path))), **settings)

    return start


@pytest.fixture
def listener(path: str) -> Iterator[socket.socket]:
    """What listens at the host's port of PORTS."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(f"{path}_{PORTS[0]}")
        listener.listen(MANY)
        yield listener


@pytest.fixture
def open_stream(start: Start, listener: socket.socket) -> tuple[VsockDriver, socket.socket]:
    """A stream that the guest has opened."""
    driver = start()
    driver.connect(PORTS)
    return driver, accept(listener)
