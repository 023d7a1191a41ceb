"""The host's side of a socket device in unit tests: its programs, and how their streams end."""

from __future__ import annotations

import os
import socket

from pyvmm.virtio import vsock_spec as spec
from pyvmm.virtio.vsock import Vsock
from tests.fakes.driver import PATIENCE
from tests.fakes.vsock import VsockDriver

CID = 7
PORTS = (52, 1000)  # the host's and the guest's
MANY = 1000
Open = tuple[VsockDriver, socket.socket]

peers: list[socket.socket] = []  # of the host's programs in this test


def accept(listener: socket.socket) -> socket.socket:
    peers.append(listener.accept()[0])
    peers[-1].settimeout(PATIENCE)
    return peers[-1]


def dial(path: str, port: int, more: bytes = b"") -> socket.socket:
    """Ask for the guest's `port`."""
    peers.append(socket.socket(socket.AF_UNIX))
    peers[-1].settimeout(PATIENCE)
    peers[-1].connect(path)
    peers[-1].sendall(b"CONNECT %d\n" % port + more)
    return peers[-1]


def line(peer: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and (byte := peer.recv(1)):
        data += byte
    return data


def read_all(peer: socket.socket) -> bytes:
    return b"".join(iter(lambda: peer.recv(1 << 16), b""))


def fill(driver: VsockDriver, ports: tuple[int, int] = PORTS) -> bytes:
    """Use all the credit of a stream whose other end does not read; what was sent."""
    end, data = driver.ends[ports], b""
    while end.credit > 0:
        data += (part := os.urandom(min(end.credit, 1 << 16)))
        driver.send(spec.OP_RW, ports, part)
    return data


def no_streams(driver: VsockDriver) -> bool:
    """Whether the device has forgotten all."""
    device = driver.device
    assert isinstance(device, Vsock)
    device.worker.call(lambda: None)
    return not (device._streams or device._orphans or device._turns or device._timers)
