"""vhost-vsock of the host's kernel, with a guest's driver that is made by hand."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from pyvmm.errors import HostError
from pyvmm.virtio import vhost_spec
from pyvmm.virtio import vsock_spec as spec
from pyvmm.virtio.vhost_vsock import VhostVsock
from tests.fakes.driver import PATIENCE, Guest
from tests.fakes.vsock import VsockDriver

pytestmark = pytest.mark.skipif(
    not os.path.exists(vhost_spec.VSOCK_DEVICE), reason=f"there is no {vhost_spec.VSOCK_DEVICE}"
)
CID = 7777
PORTS = (7052, 1000)  # the host's and the guest's


@pytest.fixture
def driver() -> Iterator[VsockDriver]:
    guest = Guest(VhostVsock("vsock", CID))
    yield VsockDriver(guest)
    guest.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_VSOCK) as listener:
        listener.settimeout(PATIENCE)
        listener.bind((socket.VMADDR_CID_ANY, PORTS[0]))
        listener.listen()
        yield listener


def test_the_guest_reaches_the_host_also_after_a_pause_and_a_reset(
    driver: VsockDriver, listener: socket.socket
) -> None:
    driver.connect(PORTS)
    device = driver.device
    with listener.accept()[0] as peer:
        assert peer.getpeername() == (CID, PORTS[1])
        driver.send_data(PORTS, b"from the guest")
        assert peer.recv(99) == b"from the guest"
        device.worker.call(device.quiesce)
        peer.sendall(b"from the host")
        device.worker.call(device.resume)
        assert driver.receive_data(PORTS, 13) == b"from the host"
    assert driver.expect(spec.OP_SHUTDOWN, PORTS).flags == spec.SHUTDOWN_BOTH
    driver.send(spec.OP_RST, PORTS)
    driver.guest.reset()
    again = VsockDriver(driver.guest)
    again.connect((PORTS[0], 1001))
    again.send_data((PORTS[0], 1001), b"again")
    with listener.accept()[0] as peer:
        assert peer.recv(99) == b"again"


def test_the_host_reaches_the_guest(driver: VsockDriver) -> None:
    with socket.socket(socket.AF_VSOCK) as peer:
        peer.settimeout(PATIENCE)
        thread = threading.Thread(target=peer.connect, args=((CID, 80),))
        thread.start()
        ports = driver.accept()
        thread.join()
        peer.sendall(b"ping")
        assert driver.receive_data(ports, 4) == b"ping"
        driver.send_data(ports, b"pong")
        assert peer.recv(99) == b"pong"


def test_where_nobody_listens_there_is_no_stream(driver: VsockDriver) -> None:
    driver.send(spec.OP_REQUEST, (7053, 1))
    driver.expect(spec.OP_RST, (7053, 1))


def test_a_cid_is_one_machines_only(driver: VsockDriver) -> None:
    with pytest.raises(HostError, match=f"The CID {CID} must not be another machine's"):
        VhostVsock("second", CID)
