"""The user's terminal: raw mode and its undoing, the escape key, and the chardev on stdio."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pyvmm.backends.chardev import LAST_WAIT, Stream
from pyvmm.backends.monitorline import TYPED_MAX, MonitorLine, Unconnected
from pyvmm.errors import HostError
from pyvmm.log import Log
from pyvmm.loop import Loop
from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.backends.chardev import ServeMonitor

log = Log(__name__)

ESCAPE = 0x01  # Ctrl-A
HELP = b"""\r
Ctrl-A c       the monitor, and back\r
Ctrl-A x       quit\r
Ctrl-A h       this help\r
Ctrl-A Ctrl-A  send Ctrl-A itself\r
"""
ROWS, COLUMNS = 24, 80  # of a terminal that does not know its size

# XTerm Control Sequences. What the monitor leaves on a screen is undone: the lines below
# its prompt, colours, a hidden cursor, no wrapping, bracketed paste.
FOCUS_IN, FOCUS_OUT = b"\x1b[I", b"\x1b[O"
ERASE_BELOW = b"\x1b[J"
LEAVE = b"\r\n\x1b[J\x1b[0m\x1b[?25h\x1b[?7h\x1b[?2004l"
SIZE = "\x1b[48;%d;%d;0;0t"  # rows and columns; the other two are in pixels

# termios(3): the fields of what tcgetattr gives.
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


def make_raw(fd: int, *, output_processing: bool = False) -> None:
    """Let every byte through as it is, termios(3) "Raw mode".

    `output_processing` leaves the output's alone: a line feed still returns the carriage, for
    messages of ours that share the terminal.
    """
    import termios

    attributes = termios.tcgetattr(fd)
    attributes[_IFLAG] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
        | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
    )  # fmt: skip
    if not output_processing:
        attributes[_OFLAG] &= ~termios.OPOST
    attributes[_CFLAG] = attributes[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    attributes[_LFLAG] &= ~(
        termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN
    )
    attributes[_CC][termios.VMIN], attributes[_CC][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSANOW, attributes)


@contextmanager
def raw_mode(fd: int = 0) -> Iterator[None]:
    """Keep `fd` raw for the `with` block if it is a terminal, and restore it on every way out."""
    if not os.isatty(fd):
        yield
        return
    import termios

    before = termios.tcgetattr(fd)
    try:
        make_raw(fd, output_processing=True)
        yield
    finally:
        with suppress(termios.error):  # the terminal may have gone
            termios.tcsetattr(fd, termios.TCSANOW, before)


class EscapeParser:
    """Tells what is typed from the user's commands, which begin with Ctrl-A."""

    def __init__(self, commands: dict[int, Callable[[], object]]) -> None:
        self._commands = commands
        self._escaped = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what is typed before, between and after the commands in `data`, and run these.

        Ctrl-A twice is one Ctrl-A; Ctrl-A and what is no command are passed on, both.
        """
        typed = bytearray()
        for byte in data:
            if not self._escaped:
                self._escaped = byte == ESCAPE
                typed += b"" if self._escaped else bytes((byte,))
                continue
            self._escaped = False
            if byte in self._commands:
                yield bytes(typed)
                typed.clear()
                self._commands[byte]()
            elif byte == ESCAPE:
                typed.append(ESCAPE)
            else:
                typed += bytes((ESCAPE, byte))
        yield bytes(typed)


class Stdio(Stream):
    """Standard input and output: the guest's, and the monitor's while it is in front.

    On a terminal Ctrl-A escapes, and Ctrl-A c changes between the two; cli.py makes it raw. What
    the one that is not in front writes is kept, and its writer stalled if that is much. End of file
    on the input only ends the input.
    """

    where = "stdio"

    def __init__(
        self,
        loop: Loop,
        quit_requested: Callable[[], object],
        serve_monitor: ServeMonitor,
        source: int = 0,
        sink: int = 1,
    ) -> None:
        own = _reopen(sink) if os.isatty(sink) else None
        if own is None:
            super().__init__(loop, source, sink)
        else:
            super().__init__(loop, source, own, owned=(own,))
        self._serve_monitor = serve_monitor
        self._monitor: MonitorLine | None = None
        self._in_front = False  # the monitor, not the guest
        self._shown = bytearray()  # the monitor's output, as _output is the guest's
        self._refused = False  # it has more
        commands = {ord("x"): quit_requested, ord("h"): self._help, ord("c"): self.switch}
        self._escapes = EscapeParser(commands) if os.isatty(source) else None

    def switch(self) -> None:
        """Bring the monitor to the front, or the guest again. The loop's thread."""
        opened = self._monitor
        try:
            self._monitor = self._monitor or self._open_monitor()
        except (OSError, HostError) as error:
            log.warning("The monitor cannot be opened: %s", error)
            return
        with self._lock:
            self._bring(monitor=not self._in_front)
        if opened is not None and self._escapes is not None:
            opened.transmit(FOCUS_IN if self._in_front else FOCUS_OUT)
        self.resume()

    def received(self, data: bytes) -> bytes:
        """Take out the commands of a user at a terminal, and what is for the monitor."""
        guest = b""
        for typed in [data] if self._escapes is None else self._escapes.feed(data):
            if self._in_front and self._monitor is not None:
                self._monitor.transmit(typed)
            else:
                guest += typed
        return guest

    def show(self, data: bytes) -> int:
        """Take the monitor's output, if there is room for it. The loop's thread."""
        with self._lock:
            self._refused = not self._in_front or bool(self._shown)
            if self._refused:
                return 0
            self._shown += data
            self._flush()
            self._watch()
        return len(data)

    def left(self) -> None:
        """The monitor's user has left it. The loop's thread."""
        self._close_monitor()
        if self._in_front:
            with self._lock:
                self._bring(monitor=False)
            if self._escapes is not None and isinstance(self._port, Unconnected):
                self._help()  # or there would be nothing to see
        self.resume()

    def resized(self) -> None:
        """See Chardev."""
        super().resized()
        if self._monitor is not None:
            columns, rows = self.size
            self._monitor.transmit((SIZE % (rows or ROWS, columns or COLUMNS)).encode())

    def hung_up(self) -> None:
        """See Stream."""
        super().hung_up()
        if self._monitor is not None:
            self._monitor.end_input()

    def flush(self) -> None:
        """See Chardev."""
        self._end_monitor()
        super().flush()

    def close(self) -> None:
        """See Chardev."""
        self._end_monitor()
        super().close()

    @property
    def _pending(self) -> bytearray:
        return self._shown if self._in_front else self._output

    @property
    def _hungry(self) -> bool:
        """On a terminal also while the guest takes nothing: for the user's commands."""
        if self._monitor is not None and self._monitor.unsent >= TYPED_MAX:
            return False
        return len(self._input) < (1 if self._escapes is None else TYPED_MAX)

    def _pump(self) -> None:
        super()._pump()
        if self._monitor is not None and self._refused and self._in_front and not self._shown:
            self._monitor.resume()

    def _help(self) -> None:
        with self._lock:
            self._pending.extend(ERASE_BELOW + HELP if self._in_front else HELP)
        if self._in_front and self._monitor is not None:
            self._monitor.transmit(FOCUS_IN)  # its prompt is overwritten
        self.resume()

    def _bring(self, *, monitor: bool) -> None:
        """Bring one of them to the front. With the lock held."""
        self._in_front = monitor
        if self._escapes is None:
            return
        if not monitor:
            self._output[:0] = self._shown + LEAVE
            self._shown.clear()
        elif not isinstance(self._port, Unconnected):  # whose cursor may be anywhere
            self._shown += b"\r\n"

    def _open_monitor(self) -> MonitorLine:
        import socket

        columns, rows = self.size
        hello = f"terminal {rows or ROWS} {columns or COLUMNS} {os.environ.get('TERM') or 'ansi'}"
        if self._escapes is None:
            hello = "prompt off"
        ours, theirs = socket.socketpair()
        try:
            self._wait_served = self._serve_monitor(theirs, hello)
        except HostError:
            ours.close()
            theirs.close()
            raise
        return MonitorLine(self._loop, ours, self)

    def _end_monitor(self) -> None:
        """Show the last that it says. The loop's thread, or any once the loop has stopped."""
        if self._monitor is not None:
            self._monitor.end_input()
            while self._in_front and (data := self._monitor.last()):
                with self._lock:
                    self._shown += data
                    self._flush_slowly(LAST_WAIT)
            self._close_monitor()
        if self._in_front:
            with self._lock:
                self._bring(monitor=False)

    def _close_monitor(self) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.close()
            self._wait_served()


class StandardFile(Stream):
    """Standard input, output or error alone; `name` is stdin, stdout or stderr.

    Nobody who reads the output any more is the user's wish to end, as SIGPIPE is to a program.
    """

    def __init__(self, loop: Loop, name: str, quit_requested: Callable[[], object]) -> None:
        fd = ("stdin", "stdout", "stderr").index(name)
        self.where = name
        self._quit_requested = quit_requested
        if fd == 0:
            super().__init__(loop, fd, None)
        else:
            own = _reopen(fd) if os.isatty(fd) else None
            super().__init__(
                loop, None, fd if own is None else own, owned=() if own is None else (own,)
            )

    def broken(self, error: OSError) -> None:
        """See Stream."""
        super().broken(error)
        self._loop.call_soon(self._quit_requested)


def _reopen(fd: int) -> int | None:
    """The terminal `fd` opened anew, not blocking: poll(2) does not say how much it will take."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
