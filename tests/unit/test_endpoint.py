from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.endpoint import PATH_MAX, Endpoint, Server, parse_endpoint
from pyvmm.errors import HostError, UsageError
from pyvmm.loop import Loop

TIMEOUT = 20.0
OTHER_USER = 12345


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    yield loop
    loop.stop()
    thread.join(TIMEOUT)
    loop.close()


def echo(client: socket.socket) -> None:
    while data := client.recv(100):
        client.sendall(data)
    client.sendall(b"bye")


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT)
    client.connect(str(path))
    return client


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:/run/a:b", Endpoint(path="/run/a:b")),
        ("tcp:1234", Endpoint(host="127.0.0.1", port=1234)),
        ("tcp::1234", Endpoint(host="127.0.0.1", port=1234)),
        ("tcp:0.0.0.0:1", Endpoint(host="0.0.0.0", port=1)),
        ("tcp:[::1]:65535", Endpoint(host="::1", port=65535)),
    ],
)
def test_an_endpoint_is_a_path_or_a_host_and_a_port(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text, "--x") == endpoint


@pytest.mark.parametrize(
    "text",
    ["", "unix:", "unix:a\0b", "/run/x", "tcp:", "tcp:a:b", "tcp:h:0", "tcp:h:65536", "udp:1"],
)
def test_what_is_no_endpoint_is_refused_by_the_options_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--x must be unix:PATH or tcp:HOST:PORT"):
        parse_endpoint(text, "--x")


def test_each_client_is_served_and_the_socket_is_its_owners(tmp_path: Path, loop: Loop) -> None:
    path = tmp_path / "socket"
    server = Server("echo", loop, Endpoint(path=str(path)), echo)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with connect(path) as one, connect(path) as other:
        for client in (other, one):
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
        server.close()
        assert one.recv(100) == other.recv(100) == b"bye"
        assert one.recv(100) == b""
    assert not path.exists()


def test_a_client_that_does_not_read_its_last_words_holds_nobody_up(
    tmp_path: Path, loop: Loop
) -> None:
    def talk(client: socket.socket) -> None:
        while True:
            client.sendall(b"x" * 1000)

    path = tmp_path / "socket"
    server = Server("talk", loop, Endpoint(path=str(path)), talk)
    with connect(path) as client:
        assert client.recv(1) == b"x"
        server.close()


def test_a_port_is_listened_on(loop: Loop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(HostError, match=f"^tcp:127.0.0.1:{port} cannot be listened on"):
            Server("echo", loop, Endpoint(host="127.0.0.1", port=port), echo)
    server = Server("echo", loop, Endpoint(host="127.0.0.1", port=port), echo)
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
    server.close()


def refusal(path: Path | str, loop: Loop) -> str:
    with pytest.raises((HostError, UsageError)) as caught:
        Server("echo", loop, Endpoint(path=str(path)), echo)
    return str(caught.value)


def test_a_path_that_is_too_long_is_refused(tmp_path: Path, loop: Loop) -> None:
    length = PATH_MAX - len(str(tmp_path)) - 1
    Server("echo", loop, Endpoint(path=str(tmp_path / ("x" * length))), echo).close()
    assert f"at most {PATH_MAX} bytes" in refusal(tmp_path / ("x" * (length + 1)), loop)


def test_a_path_that_is_taken_is_refused(tmp_path: Path, loop: Loop) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    assert "must be a socket or not exist" in refusal(path, loop)
    assert path.read_text() == "kept"
    path.unlink()
    server = Server("echo", loop, Endpoint(path=str(path)), echo)
    assert "in use" in refusal(path, loop)
    server.close()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    Server("echo", loop, Endpoint(path=str(path)), echo).close()


def test_a_directory_that_is_not_there_is_named(tmp_path: Path, loop: Loop) -> None:
    assert "No such file" in refusal(tmp_path / "none" / "socket", loop)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_the_directory_of_another_user_is_refused(tmp_path: Path, loop: Loop) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, OTHER_USER, -1)
    assert "another user's directory" in refusal(theirs / "socket", loop)
    (tmp_path / "link").symlink_to(theirs)
    assert "another user's directory" in refusal(tmp_path / "link" / "socket", loop)
    assert not any(theirs.iterdir())
