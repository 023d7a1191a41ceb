"""The host's end of a serial line: what all kinds share, and those that are one descriptor or none.

    none        Chardev: output is discarded, there is no input
    file:PATH   FileOutput: output only, the file is truncated and its mode 0600
    pty         Pty: a pseudo-terminal, whose name is `where`
    unix:PATH   sockets.UnixServer
    stdio       terminal.Stdio
    buffer      buffer.Buffer: for a program that drives the machine
    stdin, stdout, stderr    terminal.StandardFile: one of them alone

Nothing here waits. Output that a descriptor does not take now is kept and sent when it does; input
that the guest has no room for stays where it comes from. A descriptor is asked by poll(2) before
every access, because O_NONBLOCK cannot be set on one that is shared with other processes.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from pyvmm.errors import HostError, UsageError
from pyvmm.log import Log
from pyvmm.loop import READ, WRITE, Loop
from pyvmm.typed import TYPE_CHECKING, Protocol

log = Log(__name__)

CHUNK = select.PIPE_BUF  # what a pipe that poll(2) calls writable takes without blocking
LAST_WAIT = 500  # ms that close() gives a reader to take something more
KEPT_UNREAD = 64 << 10  # bytes of output kept for a reader who may come later


if TYPE_CHECKING:
    import socket

    # Serve a monitor on this socket, and close it, on a thread, whose end what it returns waits
    # for. The text says what is at the other end: a line as of pyvmm/monitor/plain.py.
    ServeMonitor = Callable[[socket.socket, str], Callable[[], object]]


class Port(Protocol):
    """The serial port, as its back end sees it. Never called with a lock of the back end held."""

    def receive(self, data: bytes) -> int:
        """Take some of `data` and return how much; `resume` is called when there is room again."""

    def drained(self) -> None:
        """All output has been sent."""

    def ended(self) -> None:
        """All input has been received; there will be no more."""

    def resized(self) -> None:
        """The terminal at the other end has another size."""


class Chardev:
    """A line with nothing at its other end; the base of those with something.

    `where` says, for a person, where that end is.
    """

    where = "none"

    def attach(self, port: Port) -> None:
        """Learn whose input and output this is; before anything else is called."""
        self._port = port

    def transmit(self, data: bytes) -> None:
        """Take output, all of it. Any thread."""

    @property
    def unsent(self) -> int:
        """How many bytes of output wait. Any thread."""
        return 0

    @property
    def size(self) -> tuple[int, int]:
        """The columns and rows of the terminal at the other end, (0, 0) if unknown. Any thread."""
        return 0, 0

    def resized(self) -> None:
        """The terminal may have another size: tell the guest. Any thread."""
        self._port.resized()

    def resume(self) -> None:
        """The guest has room for input. Any thread."""

    def ended(self, how: object) -> None:
        """The guest has ended by `how`, an End or an error: no more output comes. Any thread."""

    def flush(self) -> None:
        """Wait until all output has been read. Any thread, once the guest has ended."""

    def close(self) -> None:
        """Release everything. The loop's thread, or any once the loop has stopped.

        Output that waits is still sent, as long as it is being read.
        """


class Stream(Chardev):
    """Input from one descriptor and output to another, or the same; None is no descriptor.

    Made and closed on the loop's thread, before or while it runs; it owns what `owned` names.
    With `keep` set, output beyond that many bytes is dropped, oldest first, instead of stalling
    the guest: for an end where perhaps nobody reads.
    """

    def __init__(
        self,
        loop: Loop,
        source: int | None,
        sink: int | None,
        *,
        owned: tuple[int, ...] = (),
        keep: int | None = None,
    ) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._owned = owned
        self._keep = keep
        self._input = bytearray()  # read, but not taken by the guest; the loop's thread only
        self._output = bytearray()
        self._watched: dict[int, int] = {}
        self._lock = threading.Lock()  # the output, the watches and the descriptors

    def attach(self, port: Port) -> None:
        """Learn the port, and read from now on."""
        super().attach(port)
        self._loop.call_soon(self._pump)

    def transmit(self, data: bytes) -> None:
        """Send what can be sent now, keep the rest."""
        with self._lock:
            self._output += data
            self._flush()
            if self._keep is not None:
                del self._output[: max(len(self._output) - self._keep, 0)]
            self._watch()

    @property
    def unsent(self) -> int:
        """How many bytes of output wait for a reader."""
        return 0 if self._keep is not None else len(self._output)

    @property
    def size(self) -> tuple[int, int]:
        """See Chardev."""
        try:
            return os.get_terminal_size(-1 if self._sink is None else self._sink)
        except OSError:  # no terminal
            return 0, 0

    def resume(self) -> None:
        """Offer the input again, on the loop's thread."""
        self._loop.call_soon(self._pump)

    def flush(self) -> None:
        """See Chardev."""
        with self._lock:
            self._flush_slowly(None)

    def close(self) -> None:
        """See Chardev."""
        with self._lock:
            self._flush_slowly(LAST_WAIT)
            self._source = self._sink = None
            self._input.clear()
            self._output.clear()
            self._watch()
            owned, self._owned = self._owned, ()
        for fd in owned:
            os.close(fd)

    def received(self, data: bytes) -> bytes:
        """What of `data`, just read, is for the guest; a subclass may take some for itself."""
        return data

    def hung_up(self) -> None:
        """There is no more input. The loop's thread."""
        with self._lock:
            self._source = None
            self._watch()
            both = self._sink is not None
        if not both:  # a guest that is told takes it for the end of its output, too
            self._port.ended()

    def broken(self, error: OSError) -> None:
        """Output failed. With the lock held, on any thread."""
        log.warning("%s: output stops: %s", self.where, error.strerror)
        self._sink = None

    @property
    def _pending(self) -> bytearray:
        """The output that is to be sent now."""
        return self._output

    @property
    def _hungry(self) -> bool:
        """Whether input is to be read. The loop's thread."""
        return not self._input

    def _pump(self) -> None:
        """Do all that can be done without waiting. The loop's thread."""
        with self._lock:
            had_output = bool(self._output)
            self._flush()
            drained = had_output and not self._output
        if drained:
            self._port.drained()
        self._deliver()
        if self._hungry:
            self._read()
        with self._lock:
            self._watch()

    def _deliver(self) -> None:
        if self._input:
            del self._input[: self._port.receive(bytes(self._input))]

    def _read(self) -> None:
        source = self._source
        if source is None or not ready(source, select.POLLIN):
            return
        try:
            data = os.read(source, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # a terminal or a peer that is gone
            data = b""
        if not data:
            self.hung_up()
            return
        self._input += self.received(data)
        self._deliver()

    def _flush(self) -> None:
        pending = self._pending
        while pending and self._sink is not None and ready(self._sink, select.POLLOUT):
            try:
                del pending[: os.write(self._sink, pending[:CHUNK])]
            except BlockingIOError:
                break
            except OSError as error:
                self.broken(error)
        if self._sink is None and self._keep is None:
            self._output.clear()
            pending.clear()

    def _flush_slowly(self, wait: int | None) -> None:
        """The last output of a guest says why it ended: wait for a reader who is behind."""
        left = -1
        while len(self._pending) != left and self._sink is not None:
            left = len(self._pending)
            if left and ready(self._sink, select.POLLOUT, wait):
                self._flush()

    def _watch(self) -> None:
        """Watch for what is wanted: more input, or room for output."""
        wanted: dict[int, int] = {}
        if self._source is not None and self._hungry:
            wanted[self._source] = READ
        if self._sink is not None and self._pending:
            wanted[self._sink] = wanted.get(self._sink, 0) | WRITE
        if wanted == self._watched:
            return
        for fd in self._watched.keys() - wanted:
            self._loop.unwatch(fd)
        for fd, events in wanted.items():
            if self._watched.get(fd) != events:
                self._watch_one(fd, events)
        self._watched = wanted

    def _watch_one(self, fd: int, events: int) -> None:
        try:
            self._loop.watch(fd, self._pump, events)
        except PermissionError:  # a file, which epoll refuses because it is always ready
            self._loop.call_soon(self._pump_file)

    def _pump_file(self) -> None:
        """Go on with a file, a piece at a time so that the loop can do other things between."""
        with self._lock:
            self._watched = {}
        self._pump()


class FileOutput(Stream):
    """Output to a file; what was in it is lost."""

    def __init__(self, loop: Loop, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise HostError(f"{path} cannot be written: {error.strerror}") from error
        super().__init__(loop, None, fd, owned=(fd,))
        self.where = path


class Pty(Stream):
    """A pseudo-terminal of our own: `where` is the path to open with a terminal program.

    Its other side stays open here, so that programs may come and go. Since nobody may be there,
    output beyond what the kernel and KEPT_UNREAD hold is dropped.
    """

    def __init__(self, loop: Loop) -> None:
        from pyvmm.backends.terminal import make_raw

        try:
            master, slave = os.openpty()
        except OSError as error:
            raise HostError(f"The host has no pseudo-terminal: {error.strerror}") from error
        make_raw(slave)
        os.set_blocking(master, False)
        super().__init__(loop, master, master, owned=(master, slave), keep=KEPT_UNREAD)
        self.where = os.ttyname(slave)


def ready(fd: int, event: int, wait: int | None = 0) -> bool:
    """Whether, within `wait` ms or without limit, there is data, room, or an error to be told."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(wait))


def open_chardev(
    kind: str, loop: Loop, quit_requested: Callable[[], object], serve_monitor: ServeMonitor
) -> Chardev:
    """Open what `kind` names; the module's docstring lists the kinds.

    `quit_requested` and `serve_monitor` are called on the loop's thread when the user of stdio asks
    for the end, or for the monitor. Raises UsageError for no kind, HostError if the host refuses.
    """
    name, _, path = kind.partition(":")
    match name, bool(path):
        case (("none" | "null"), False):
            return Chardev()
        case "file", True:
            return FileOutput(loop, path)
        case "pty", False:
            return Pty(loop)
        case "unix", True:
            from pyvmm.backends.sockets import UnixServer

            return UnixServer(loop, path)
        case "stdio", False:
            from pyvmm.backends.terminal import Stdio

            return Stdio(loop, quit_requested, serve_monitor)
        case (("stdin" | "stdout" | "stderr"), False):
            from pyvmm.backends.terminal import StandardFile

            return StandardFile(loop, name, quit_requested)
        case "buffer", False:
            from pyvmm.backends.buffer import Buffer

            return Buffer(loop)
    raise UsageError(
        f"A line must be stdio, none, pty, buffer, file:PATH or unix:PATH, not {kind!r}"
    )
