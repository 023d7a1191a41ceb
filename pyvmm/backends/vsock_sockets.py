"""The host's side of a socket device as Unix sockets, in the scheme that Firecracker documents.

A program that wants the guest's port 52 connects to PATH and says `CONNECT 52\\n`. It reads
`OK PORT\\n`, with the port that its end was given, or the end if nobody listens. From there on the
connection is the guest's. A guest that connects to the host's port 52 is connected to PATH_52.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable
from functools import partial

from pyvmm.backends.sockets import listen, stop_listening
from pyvmm.loop import Loop

BACKLOG = 128
LINE_MAX = 32  # bytes of a request
WORD = b"CONNECT"
PORTS = range((1 << 32) - 1)  # the last number is VMADDR_PORT_ANY of <linux/vm_sockets.h>
CLIENTS_MAX = 1024  # that have not said yet what they want
PAUSE_SECONDS = 0.1  # before more are accepted when the host has no descriptor for one


class UnixSockets:
    """See pyvmm.virtio.vsock.HostSide."""

    def __init__(self, path: str) -> None:
        """Listen at `path`, mode 0600. Raises HostError.

        Each stream needs a descriptor, so the process's limit of those is raised as far as it may.
        """
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._path = path
        self._listener = listen(path, BACKLOG)
        self._inode = os.stat(path).st_ino
        self._wanted = False
        self._clients: dict[socket.socket, bytearray] = {}  # with what they have said

    def attach(self, loop: Loop, arrived: Callable[[socket.socket, int], object]) -> None:
        """See HostSide."""
        self._loop = loop
        self._arrived = arrived

    def listen(self, wanted: bool) -> None:
        """See HostSide."""
        self._wanted = wanted
        self._listen()

    def close(self) -> None:
        """See HostSide."""
        self.listen(False)
        stop_listening(self._listener, self._path, self._inode)
        for client in list(self._clients):
            self._release(client)
            client.close()

    def connect(self, port: int) -> socket.socket:
        """See HostSide."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(f"{self._path}_{port}")
        except OSError:
            connection.close()
            raise
        return connection

    def accepted(self, connection: socket.socket, port: int) -> None:
        """See HostSide."""
        connection.send(b"OK %d\n" % port, socket.MSG_NOSIGNAL)

    # ---- those who have just connected ----

    def _listen(self) -> None:
        if self._wanted and len(self._clients) < CLIENTS_MAX:
            self._loop.watch(self._listener.fileno(), self._accept)
        else:
            self._loop.unwatch(self._listener.fileno())

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no more descriptors
            self._loop.unwatch(self._listener.fileno())
            self._loop.call_at(self._loop.now() + PAUSE_SECONDS, self._listen)
            return
        client.setblocking(False)
        self._clients[client] = bytearray()
        self._listen()
        self._loop.watch(client.fileno(), partial(self._read, client))

    def _release(self, client: socket.socket) -> None:
        self._loop.unwatch(client.fileno())
        del self._clients[client]

    def _read(self, client: socket.socket) -> None:
        """Take the line that says which port is wanted, and nothing of what follows it."""
        line = self._clients[client]
        try:
            data = client.recv(LINE_MAX, socket.MSG_PEEK)
            line += client.recv(data.find(b"\n") + 1 or len(data))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data and not line.endswith(b"\n") and len(line) < LINE_MAX:
            return
        self._release(client)
        self._listen()
        port = _port(bytes(line))
        if port is None:
            client.close()
        else:
            self._arrived(client, port)


def _port(line: bytes) -> int | None:
    """The port that a request names, or None for what is no request."""
    word, _, number = line.removesuffix(b"\n").partition(b" ")
    if word != WORD or not line.endswith(b"\n") or not number.isdigit():
        return None
    return int(number) if int(number) in PORTS else None
