"""A serial line on a Unix socket."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.chardev import KEPT_UNREAD
from pyvmm.backends.sockets import UnixServer
from pyvmm.errors import HostError
from tests.unit.backends.conftest import PATIENCE, Stage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "serial"


@pytest.fixture
def server(stage: Stage, path: Path) -> Iterator[UnixServer]:
    server = UnixServer(stage.loop, str(path))
    server.attach(stage.port)
    yield server
    stage.run(server.close)


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE)
    client.connect(str(path))
    return client


def read(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        piece = client.recv(size - len(got))
        if not piece:
            break
        got += piece
    return got


def test_bytes_go_both_ways(stage: Stage, server: UnixServer, path: Path) -> None:
    with connect(path) as client:
        client.sendall(b"hello")
        stage.until(lambda: stage.port.received == b"hello")
        server.transmit(b"world")
        assert read(client, 5) == b"world"


def test_the_socket_is_private(server: UnixServer, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_early_output_is_kept_for_the_first_client(server: UnixServer, path: Path) -> None:
    server.transmit(b"x" * KEPT_UNREAD)
    server.transmit(b"end")
    assert server.unsent == 0
    with connect(path) as client:
        assert read(client, KEPT_UNREAD) == b"x" * (KEPT_UNREAD - 3) + b"end"


def test_clients_come_and_go(stage: Stage, server: UnixServer, path: Path) -> None:
    for text in (b"first", b"second", b"third"):
        with connect(path) as client:
            client.sendall(text)
            stage.until(lambda: stage.port.received.endswith(text))  # noqa: B023
            server.transmit(text)
            assert read(client, len(text)) == text
        stage.until(lambda: server._source is None)


def test_a_second_client_waits_for_the_first_to_go(
    stage: Stage, server: UnixServer, path: Path
) -> None:
    first = connect(path)
    stage.until(lambda: server._source is not None)
    with connect(path) as second:
        server.transmit(b"for the first")
        assert read(first, 13) == b"for the first"
        first.close()
        stage.until(lambda: server._source is None or stage.port.drains)
        second.sendall(b"x")
        stage.until(lambda: stage.port.received == b"x")
        server.transmit(b"for the second")
        assert read(second, 14) == b"for the second"


def test_a_client_that_does_not_read_holds_the_output_up(
    stage: Stage, server: UnixServer, path: Path
) -> None:
    with connect(path) as client:
        stage.until(lambda: server._source is not None)
        data = os.urandom(2_000_000)
        server.transmit(data)
        assert server.unsent > 64 << 10
        assert read(client, len(data)) == data
        stage.until(lambda: stage.port.drains)
        assert server.unsent == 0


def test_a_stalled_guest_goes_on_when_its_client_goes(
    stage: Stage, server: UnixServer, path: Path
) -> None:
    with connect(path):
        stage.until(lambda: server._source is not None)
        server.transmit(bytes(2_000_000))
    stage.until(lambda: stage.port.drains)
    assert server.unsent == 0
    with connect(path) as client:
        client.sendall(b"x")
        stage.until(lambda: stage.port.received == b"x")


def test_a_client_that_only_stops_sending_has_gone_too(
    stage: Stage, server: UnixServer, path: Path
) -> None:
    with connect(path) as client:
        stage.until(lambda: server._source is not None)
        server.transmit(bytes(2_000_000))
        client.shutdown(socket.SHUT_WR)
        stage.until(lambda: server._source is None)
        assert stage.port.drains == 1
        assert server.unsent == 0


def test_a_client_may_go_while_its_input_waits(
    stage: Stage, server: UnixServer, path: Path
) -> None:
    stage.port.room = 0
    with connect(path) as client:
        client.sendall(b"x")
        stage.until(lambda: server._input == b"x")
        server.transmit(bytes(2_000_000))
    stage.until(lambda: server._source is None)


def test_a_dead_socket_is_replaced(stage: Stage, path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    server = UnixServer(stage.loop, str(path))
    server.attach(stage.port)
    connect(path).close()
    stage.run(server.close)


def test_a_live_socket_is_left_alone(stage: Stage, server: UnixServer, path: Path) -> None:
    with pytest.raises(HostError, match="in use"):
        UnixServer(stage.loop, str(path))
    connect(path).close()


def test_a_file_is_never_replaced(stage: Stage, path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(HostError, match="must be a socket"):
        UnixServer(stage.loop, str(path))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/socket", "x" * 200])
def test_an_impossible_path_is_named(stage: Stage, tmp_path: Path, name: str) -> None:
    with pytest.raises(HostError, match=name):
        UnixServer(stage.loop, str(tmp_path / name))


def test_close_removes_the_socket_but_not_its_successor(stage: Stage, path: Path) -> None:
    first = UnixServer(stage.loop, str(path))
    path.unlink()
    second = UnixServer(stage.loop, str(path))
    stage.run(first.close)
    assert path.exists()
    stage.run(second.close)
    assert not path.exists()
