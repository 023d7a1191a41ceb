"""The user's terminal: raw mode and its undoing, the escape key, and the chardev on stdio."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pyvmm.backends.chardev import Stream
from pyvmm.loop import Loop

ESCAPE = 0x01  # Ctrl-A
HELP = b"""\r
Ctrl-A x       quit\r
Ctrl-A h       this help\r
Ctrl-A Ctrl-A  send Ctrl-A to the guest\r
"""

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
    """Tells the guest's input from the user's commands, which begin with Ctrl-A."""

    def __init__(self, commands: dict[int, Callable[[], object]]) -> None:
        self._commands = commands
        self._escaped = False

    def feed(self, data: bytes) -> bytes:
        """Run the commands in `data` and return what is for the guest.

        Ctrl-A twice is one Ctrl-A; Ctrl-A and what is no command are passed on, both.
        """
        guest = bytearray()
        for byte in data:
            if not self._escaped:
                self._escaped = byte == ESCAPE
                guest += b"" if self._escaped else bytes((byte,))
                continue
            self._escaped = False
            if byte in self._commands:
                self._commands[byte]()
            elif byte == ESCAPE:
                guest.append(ESCAPE)
            else:
                guest += bytes((ESCAPE, byte))
        return bytes(guest)


class Stdio(Stream):
    """Standard input and output. On a terminal Ctrl-A escapes; cli.py makes it raw.

    End of file on the input only ends the input.
    """

    where = "stdio"

    def __init__(
        self, loop: Loop, quit_requested: Callable[[], object], source: int = 0, sink: int = 1
    ) -> None:
        own = _reopen(sink) if os.isatty(sink) else None
        if own is None:
            super().__init__(loop, source, sink)
        else:
            super().__init__(loop, source, own, owned=(own,))
        commands = {ord("x"): quit_requested, ord("h"): lambda: self.transmit(HELP)}
        self._escapes = EscapeParser(commands) if os.isatty(source) else None

    def received(self, data: bytes) -> bytes:
        """Take out the commands of a user at a terminal."""
        return self._escapes.feed(data) if self._escapes is not None else data


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
