"""Where a front end listens: `unix:PATH` or `tcp:HOST:PORT`."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from pyvmm.backends.sockets import listen, stop_listening
from pyvmm.errors import HostError, UsageError
from pyvmm.log import Log
from pyvmm.loop import Loop, start_thread
from pyvmm.value import Value

log = Log(__name__)

LOOPBACK = "127.0.0.1"
ROOT = 0  # the user
CLIENTS_MAX = 16  # of one server at a time
LAST_WORDS = 0.5  # seconds that all clients have for what they are still told
PORTS = range(1, 1 << 16)
PATH_MAX = 107  # bytes: <linux/un.h> UNIX_PATH_MAX, less a final zero


class Endpoint(Value):
    """A path, or a host and a port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"tcp:{self.host}:{self.port}"


def parse_endpoint(text: str, what: str) -> Endpoint:
    """Read `unix:PATH`, `tcp:HOST:PORT` or `tcp:PORT`, which is on the loopback interface.

    An IPv6 address stands in brackets. Raises UsageError, whose subject is `what`.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest and "\0" not in rest:
        return Endpoint(path=rest)
    host, _, port = rest.rpartition(":")
    if kind == "tcp" and port.isascii() and port.isdigit() and int(port[:6]) in PORTS:
        return Endpoint(host=host.removeprefix("[").removesuffix("]") or LOOPBACK, port=int(port))
    raise UsageError(f"{what} must be unix:PATH or tcp:HOST:PORT, not {text!r}")


class Server:
    """Listens at an endpoint, and serves each client on a thread of its own.

    `serve` is called there with the connected socket, which is closed after it; it must end soon
    once the socket is shut down. A socket in the file system has the mode 0600.
    """

    def __init__(
        self,
        name: str,
        loop: Loop,
        endpoint: Endpoint,
        serve: Callable[[socket.socket], object],
        listener: socket.socket | None = None,
    ) -> None:
        """Listen, or have `listener` that does, and accept while `loop` runs.

        Raises UsageError or HostError.
        """
        self._name = name
        self._loop = loop
        self._endpoint = endpoint
        self._serve = serve
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()  # of clients and listener: none may come in while we close
        self._listener = listener or _listen(endpoint)
        self._inode = os.stat(endpoint.path).st_ino if endpoint.path else 0
        loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Let all clients go, with a moment for last words, and wait for their threads.

        Not on the thread of one.
        """
        with self._lock:
            self._loop.unwatch(self._listener.fileno())
            if self._endpoint.path:
                stop_listening(self._listener, self._endpoint.path, self._inode)
            else:
                self._listener.close()
            clients = dict(self._clients)
        for client in clients:
            _shut(client, socket.SHUT_RD)
        deadline = self._loop.now() + LAST_WORDS
        for client, thread in clients.items():
            thread.join(max(deadline - self._loop.now(), 0))
            _shut(client, socket.SHUT_RDWR)
            thread.join()

    def _accept(self) -> None:
        with self._lock:
            try:
                client, _ = self._listener.accept()
            except OSError:  # it has gone again, or we are closed
                return
            self._begin(client)

    def _begin(self, client: socket.socket) -> None:
        if len(self._clients) == CLIENTS_MAX:
            log.warning("%s: there are %d clients already", self._name, CLIENTS_MAX)
            client.close()
            return
        client.setblocking(True)
        try:
            self._clients[client] = start_thread(self._name, self._run, client)
        except HostError as error:
            log.warning("%s: %s", self._name, error)
            client.close()

    def _run(self, client: socket.socket) -> None:
        try:
            self._serve(client)
        except (OSError, HostError) as error:  # the client has gone, or cannot be served
            log.info("%s: %s", self._name, error)
        except Exception:
            log.exception("A mistake in the code of %s", self._name)
        finally:
            client.close()
            with self._lock:
                self._clients.pop(client, None)


def _shut(client: socket.socket, how: int) -> None:
    with suppress(OSError):  # it has gone, or is closed
        client.shutdown(how)


def _listen(endpoint: Endpoint) -> socket.socket:
    if endpoint.path:
        _check(endpoint.path)
        return listen(endpoint.path, CLIENTS_MAX)
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        listener = socket.create_server((endpoint.host, endpoint.port), family=family)
    except OSError as error:
        raise HostError(f"{endpoint} cannot be listened on: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def _check(path: str) -> None:
    """Raise UsageError or HostError for a path that we cannot, or should not, listen at."""
    length = len(os.fsencode(path))
    if length > PATH_MAX:
        raise UsageError(f"A socket's path must have at most {PATH_MAX} bytes, not {length}")
    folder = os.path.dirname(path) or "."
    try:
        owner = os.stat(folder).st_uid
    except OSError as error:
        raise HostError(f"{path} cannot be listened on: {error.strerror}") from error
    if owner not in (os.geteuid(), ROOT):
        raise HostError(f"{folder} must not be another user's directory, to listen at {path}")
