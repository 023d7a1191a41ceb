"""Unix sockets as the host's side of a vsock: what a program must say, and what it is told."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pyvmm.backends import vsock_sockets
from pyvmm.backends.vsock_sockets import UnixSockets
from pyvmm.errors import HostError
from pyvmm.loop import Loop
from tests.fakes.driver import PATIENCE


class Device:
    """Runs the loop, and keeps who has arrived."""

    def __init__(self, path: str) -> None:
        self.loop = Loop()
        self.arrivals: list[tuple[socket.socket, int]] = []
        self.changed = threading.Condition()
        self.sockets = UnixSockets(path)
        self.sockets.attach(self.loop, self.arrived)
        self.sockets.listen(True)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def arrived(self, connection: socket.socket, port: int) -> None:
        with self.changed:
            self.arrivals.append((connection, port))
            self.changed.notify_all()

    def arrival(self) -> tuple[socket.socket, int]:
        with self.changed:
            assert self.changed.wait_for(lambda: self.arrivals, PATIENCE)
            return self.arrivals.pop(0)

    def close(self) -> None:
        self.loop.stop()
        self.thread.join()
        self.sockets.close()
        for connection, _ in self.arrivals:
            connection.close()
        self.loop.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "v")


@pytest.fixture
def device(path: str) -> Iterator[Device]:
    device = Device(path)
    yield device
    device.close()


def dial(path: str, *said: bytes) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(PATIENCE)
    peer.connect(path)
    for part in said:
        peer.sendall(part)
    return peer


def test_the_path_is_the_owners_alone(path: str, device: Device) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_path_in_use_is_refused(path: str, device: Device) -> None:
    with pytest.raises(HostError, match="must not be in use"):
        UnixSockets(path)


def test_the_limit_of_descriptors_is_raised(device: Device) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard


@pytest.mark.parametrize("port", [0, 52, (1 << 32) - 2])
def test_a_request_may_come_in_pieces_and_takes_nothing_of_what_follows(
    path: str, device: Device, port: int
) -> None:
    with dial(path, b"CONN") as peer:
        peer.sendall(b"ECT %d\nhello" % port)
        connection, asked = device.arrival()
        with connection:
            assert asked == port
            assert connection.recv(99) == b"hello"
            device.sockets.accepted(connection, 1 << 30)
            assert peer.recv(99) == b"OK 1073741824\n"


@pytest.mark.parametrize(
    "said",
    [
        b"\n",
        b"CONNECT\n",
        b"CONNECT \n",
        b"CONNECT -1\n",
        b"CONNECT 0x10\n",
        b"CONNECT 5 \n",
        b"CONNECT 4294967295\n",
        b"CONNECT 99999999999999999999\n",
        b"connect 5\n",
        b"CONNECT 5\r\n",
        b"GET / HTTP/1.1\r\n",
        b"x" * 100,
    ],
)
def test_what_is_no_request_is_hung_up_on(path: str, device: Device, said: bytes) -> None:
    with dial(path, said) as peer, suppress(ConnectionResetError):  # with something unread
        assert peer.recv(1) == b""
    assert not device.arrivals


def test_who_goes_without_a_request_leaves_nothing(path: str, device: Device) -> None:
    dial(path, b"CONNECT 5").close()
    with dial(path, b"CONNECT 6\n"):
        device.arrival()[0].close()
    assert not device.sockets._clients


def test_those_beyond_the_limit_wait(
    path: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vsock_sockets, "CLIENTS_MAX", 2)
    silent = [dial(path), dial(path)]
    with dial(path, b"CONNECT 7\n"):
        silent.pop().close()
        connection, port = device.arrival()
        assert port == 7
        connection.close()
    silent.pop().close()


def test_without_descriptors_it_accepts_later(
    path: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = threading.Event()

    class Listener:
        def __init__(self, listener: socket.socket) -> None:
            self.listener = listener

        def __getattr__(self, name: str) -> object:
            return getattr(self.listener, name)

        def accept(self) -> tuple[socket.socket, object]:
            if not failing.is_set():
                failing.set()
                raise OSError(errno.EMFILE, "too many")
            return self.listener.accept()

    monkeypatch.setattr(device.sockets, "_listener", Listener(device.sockets._listener))
    with dial(path, b"CONNECT 8\n"):
        assert failing.wait(PATIENCE)
        device.arrival()[0].close()


def test_a_port_of_the_host_is_a_socket_beside_the_path(path: str, device: Device) -> None:
    with pytest.raises(FileNotFoundError):
        device.sockets.connect(9)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}_9")
        with pytest.raises(ConnectionRefusedError):
            device.sockets.connect(9)
        listener.listen(0)
        with device.sockets.connect(9), pytest.raises(BlockingIOError):
            device.sockets.connect(9)


def test_close_removes_the_path(path: str) -> None:
    device = Device(path)
    with dial(path) as peer:
        with dial(path, b"CONNECT 1\n"):
            device.arrival()[0].close()
        device.close()
        assert peer.recv(1) == b""
    assert not os.path.exists(path)
