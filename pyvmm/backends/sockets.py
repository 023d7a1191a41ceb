"""A serial line on a listening Unix socket, for one client at a time."""

from __future__ import annotations

import os
import socket
import stat

from pyvmm.backends.chardev import KEPT_UNREAD, Port, Stream
from pyvmm.errors import HostError
from pyvmm.loop import Loop


class UnixServer(Stream):
    """Listens at `path`, mode 0600. Clients come and go; a second one waits for the first to go.

    While there is none, the last KEPT_UNREAD bytes of output are kept for the next. A client that
    is there but does not read stalls the guest.
    """

    def __init__(self, loop: Loop, path: str) -> None:
        self.where = path
        self._listener = listen(path)
        self._inode = os.stat(path).st_ino
        super().__init__(loop, None, None, keep=KEPT_UNREAD)

    def attach(self, port: Port) -> None:
        """Learn the port, and let clients connect from now on."""
        super().attach(port)
        self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Let the client and the path go."""
        super().close()
        if self._listener.fileno() < 0:
            return
        self._loop.unwatch(self._listener.fileno())
        stop_listening(self._listener, self.where, self._inode)

    def hung_up(self) -> None:
        """The client has gone: wait for the next one."""
        with self._lock:
            self._drop_client()
            self._keep = KEPT_UNREAD
            del self._output[: max(len(self._output) - KEPT_UNREAD, 0)]
        self._loop.watch(self._listener.fileno(), self._accept)
        self._port.drained()  # a guest that it had stalled may go on

    def broken(self, error: OSError) -> None:
        """The client has gone; the loop's thread does the rest."""
        self._sink = None
        self._loop.call_soon(self._broken)

    def _broken(self) -> None:
        if self._sink is None and self._source is not None:
            self.hung_up()

    def _accept(self) -> None:
        if self._source is not None or self._listener.fileno() < 0:
            return
        try:
            client, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        client.setblocking(False)
        self._loop.unwatch(self._listener.fileno())
        with self._lock:
            fd = client.detach()
            self._source = self._sink = fd
            self._owned = (fd,)
            self._keep = None
        self._pump()

    def _drop_client(self) -> None:
        self._source = self._sink = None
        self._watch()
        for fd in self._owned:
            os.close(fd)
        self._owned = ()


def stop_listening(listener: socket.socket, path: str, inode: int) -> None:
    """Close a listening socket, and remove its path unless another has taken its place."""
    listener.close()
    try:
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass


def listen(path: str, backlog: int = 1) -> socket.socket:
    """A socket that listens at `path`, in place of one that nobody listens on any more.

    `backlog` is how many may wait to be accepted. Raises HostError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if _is_stale(path):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)  # nobody can connect before listen()
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise HostError(f"{path} cannot be listened on: {error.strerror or error}") from error
    except HostError:
        listener.close()
        raise
    return listener


def _is_stale(path: str) -> bool:
    """Whether a dead socket is in the way. Raises HostError for a live one or another file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise HostError(f"{path} must be a socket or not exist")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:  # a full backlog
            pass
    raise HostError(f"{path} must not be in use by another program")
