"""`pyvmm monitor`: the terminal at the other end of a monitor's socket."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pyvmm.backends.monitorline import TYPED_MAX
from pyvmm.backends.terminal import COLUMNS, LEAVE, ROWS, SIZE, EscapeParser, raw_mode
from pyvmm.endpoint import Endpoint
from pyvmm.errors import HostError
from pyvmm.monitor.plain import PROMPT, PROMPT_OFF

CHUNK = 4096
HELP = (
    b"\r\nCtrl-A x       leave\r\nCtrl-A h       this help\r\nCtrl-A Ctrl-A  send Ctrl-A itself\r\n"
)


def connect(endpoint: Endpoint) -> socket.socket:
    """Connect to a monitor. Raises HostError."""
    try:
        if not endpoint.path:
            return socket.create_connection((endpoint.host, endpoint.port))
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(endpoint.path)
        except BaseException:
            server.close()
            raise
    except OSError as error:
        raise HostError(f"No monitor answers at {endpoint}: {error.strerror or error}") from error
    return server


def attend(server: socket.socket) -> int:
    """Be the user's end of a connected socket until one of them ends it; the exit status.

    On the main thread, whose standard input and output it uses; closes the socket. On a terminal
    it asks for the console, and restores the terminal on every way out. Raises HostError.
    """
    with server, suppress(ConnectionError):
        greeting = b""
        while len(greeting) < len(PROMPT) and (data := server.recv(len(PROMPT) - len(greeting))):
            greeting += data
        if greeting != PROMPT.encode():
            raise HostError("What answers must be a monitor of pyvmm")
        term = os.environ.get("TERM", "dumb")
        if os.isatty(0) and os.isatty(1) and term != "dumb":
            with raw_mode(), _sizes() as sizes:
                _Relay(server, sizes, f"terminal {_size('%d %d')} {term}\n").run()
        else:
            if os.isatty(1):
                _write(greeting)
            _Relay(server, None, "" if os.isatty(1) else f"{PROMPT_OFF}\n").run()
    return 0


@contextmanager
def _sizes() -> Iterator[int]:
    """A descriptor that tells of each new size of the terminal.

    Meanwhile signals that would end the process raise KeyboardInterrupt instead; at the end the
    screen is left as it was found.
    """
    receiver, sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGWINCH, lambda *_: None)
    signal.set_wakeup_fd(sender)
    try:
        yield receiver
    finally:
        signal.set_wakeup_fd(-1)
        os.close(receiver)
        os.close(sender)
        with suppress(OSError):  # the terminal may have gone
            _write(LEAVE)


class _Relay:
    """Carries what is typed to the server, and what that shows to standard output.

    With `sizes` this is a terminal, whose Ctrl-A escapes.
    """

    def __init__(self, server: socket.socket, sizes: int | None, hello: str) -> None:
        server.setblocking(False)
        self._server = server
        self._sizes = sizes
        self._typed = bytearray(hello.encode())
        self._ended = False  # standard input
        self._left = False  # the user has
        self._escapes = EscapeParser({ord("x"): self._leave, ord("h"): lambda: _write(HELP)})

    def run(self) -> None:
        """Carry until the end. Raises OSError, KeyboardInterrupt."""
        server = self._server.fileno()
        while not self._left:
            ready = self._wait()
            if ready.get(server, 0) & ~select.POLLOUT:
                data = self._server.recv(CHUNK)
                if not data:
                    return
                _write(data)
            if 0 in ready:
                self._read()
            if self._sizes is not None and self._sizes in ready:
                os.read(self._sizes, CHUNK)
                self._typed += _size(SIZE).encode()
            if self._typed and ready.get(server, 0) & select.POLLOUT:
                del self._typed[: self._server.send(self._typed)]
                if self._ended and not self._typed:
                    self._server.shutdown(socket.SHUT_WR)

    def _wait(self) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._server, select.POLLIN | (select.POLLOUT if self._typed else 0))
        if not self._ended and len(self._typed) < TYPED_MAX:
            poll.register(0, select.POLLIN)
        if self._sizes is not None:
            poll.register(self._sizes, select.POLLIN)
        return dict(poll.poll())

    def _read(self) -> None:
        data = os.read(0, CHUNK)
        self._typed += data if self._sizes is None else b"".join(self._escapes.feed(data))
        if not data:
            self._ended = True
            if not self._typed:
                self._server.shutdown(socket.SHUT_WR)

    def _leave(self) -> None:
        self._left = True


def _size(form: str) -> str:
    """The terminal's rows and columns, in the form of a format string."""
    columns, rows = os.get_terminal_size(1)
    return form % (rows or ROWS, columns or COLUMNS)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
