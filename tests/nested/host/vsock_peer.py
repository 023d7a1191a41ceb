"""One end of streams between a guest and the nested host; it runs in either.

    vsock_peer.py serve ADDRESS COUNT    give COUNT connections back what they send, then their end
    vsock_peer.py send ADDRESS MIB       send random data, and see that it comes back
    vsock_peer.py crowd ADDRESS COUNT    the same with a few bytes on COUNT connections at once
    vsock_peer.py refused ADDRESS        see that nobody listens

ADDRESS is `vsock:CID:PORT`, or, in the host, `unix:PATH:PORT`: the scheme of vsock_sockets.py.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading
from hashlib import sha256

MIB = 1 << 20
PATIENCE = 300.0  # seconds


def connect(kind: str, where: str, port: str) -> socket.socket:
    """A connection to the other side's port."""
    family, address = socket.AF_UNIX, where
    if kind == "vsock":
        family, address = socket.AF_VSOCK, (int(where), int(port))
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.settimeout(PATIENCE)
    connection.connect(address)
    if kind == "unix":
        connection.sendall(f"CONNECT {port}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            byte = connection.recv(1)
            if not byte:
                raise ConnectionResetError
            answer += byte
        assert answer.startswith(b"OK "), answer
    return connection


def listen(kind: str, where: str, port: str) -> socket.socket:
    """Listen at a port of this side's."""
    family, address = socket.AF_UNIX, f"{where}_{port}"
    if kind == "vsock":
        family, address = socket.AF_VSOCK, (socket.VMADDR_CID_ANY, int(port))
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(1024)
    return listener


def echo(connection: socket.socket) -> None:
    """Give back what comes, and then the end."""
    with connection:
        while data := connection.recv(1 << 16):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


def serve(address: list[str], count: int) -> None:
    """Serve `count` connections at the same time."""
    listener = listen(*address)
    print("listening", flush=True)
    threads = []
    for _ in range(count):
        connection, _ = listener.accept()
        connection.settimeout(PATIENCE)
        threads.append(threading.Thread(target=echo, args=(connection,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    print(f"served {count}", flush=True)


def send(address: list[str], mib: int) -> None:
    """Send while reading what comes back."""
    block, sent, back = os.urandom(MIB), sha256(), sha256()

    def write() -> None:
        for number in range(mib):
            data = number.to_bytes(8, "little") + block[8:]
            sent.update(data)
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    with connect(*address) as connection:
        thread = threading.Thread(target=write)
        thread.start()
        count = 0
        while data := connection.recv(1 << 16):
            back.update(data)
            count += len(data)
        thread.join()
    assert count == mib * MIB, count
    assert sent.digest() == back.digest()
    print(f"{mib} MiB came back", flush=True)


def crowd(address: list[str], count: int) -> None:
    """Have many connections open at once."""
    connections = [connect(*address) for _ in range(count)]
    for number, connection in enumerate(connections):
        connection.sendall(b"%08d" % number)
    for number, connection in enumerate(connections):
        connection.shutdown(socket.SHUT_WR)
        data = b""
        while more := connection.recv(99):
            data += more
        assert data == b"%08d" % number, (number, data)
        connection.close()
    print(f"{count} answered", flush=True)


def refused(address: list[str]) -> None:
    """Connect in vain."""
    try:
        connect(*address).close()
    except ConnectionResetError:
        print("refused", flush=True)


def main(how: str, address: str, count: str = "0") -> None:
    """Be one end."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    threading.stack_size(128 << 10)
    where = address.split(":")
    if how == "refused":
        refused(where)
    else:
        {"serve": serve, "send": send, "crowd": crowd}[how](where, int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
