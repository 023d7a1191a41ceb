"""The monitor for a program, a pipe, or a terminal program that knows no more than lines.

A command a line; what it shows is plain text, an error one line. Each answer ends with the prompt,
by which a program knows that it is whole. Two lines are no commands, but say what the client is:

    prompt off                      it wants no prompts: `pyvmm monitor` in a pipe
    terminal ROWS COLUMNS TERM      it is a terminal, and wants the console
"""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Iterator

from pyvmm.errors import PyvmmError
from pyvmm.monitor.render import safe
from pyvmm.monitor.session import Session
from pyvmm.value import Value

PROMPT = "(pyvmm) "
PROMPT_OFF = "prompt off"
LINE_MAX = 64 << 10  # bytes
CHUNK = 4096
SIZE_MAX = 1000  # rows or columns of a terminal
_TERMINAL = re.compile(r"terminal (\d{1,6}) (\d{1,6}) ([\w.+-]{1,64})")


class Terminal(Value):
    """What a client says of its terminal; `typed` is what came behind that."""

    rows: int
    columns: int
    term: str
    typed: bytes = b""


class Lines:
    """The lines that a client sends, each at most LINE_MAX bytes."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self.pending = b""  # what was received after the last line

    def __iter__(self) -> Iterator[str]:
        """Each line, and at the end what is left without its newline. Raises OSError."""
        while True:
            line, newline, rest = self.pending.partition(b"\n")
            if newline:
                self.pending = rest
            elif data := self._client.recv(CHUNK):
                self.pending += data
                if len(self.pending) > LINE_MAX + CHUNK:
                    raise OSError(f"it sends a line of more than {LINE_MAX} bytes")
                continue
            else:
                self.pending = b""
            if newline or line:
                yield line.decode("utf-8", "replace").strip()
            if not newline:
                return


def serve_plain(session: Session, client: socket.socket, hello: str = "") -> Terminal | None:
    """Serve `client` until its end; or until it says that it is a terminal, which is returned.

    `hello` is a line that comes before all of its own. On a thread of its own. Raises OSError once
    the client has gone.
    """
    machine, lines = session.machine, Lines(client)
    prompt = PROMPT
    if not hello:
        client.sendall(prompt.encode())
    for line in itertools.chain(filter(None, [hello]), lines):
        if line == PROMPT_OFF:
            prompt = ""
        elif terminal := parse_terminal(line):
            return terminal.replace(typed=lines.pending)
        elif line:
            client.sendall(_answer(session, client, line).encode())
        if machine.state in ("ended", "closed"):
            break
        client.sendall(prompt.encode())
    return None


def parse_terminal(line: str) -> Terminal | None:
    """What a line says of a terminal, if it does."""
    said = _TERMINAL.fullmatch(line)
    if said is None:
        return None
    rows, columns = (min(max(int(number), 1), SIZE_MAX) for number in said.groups()[:2])
    return Terminal(rows, columns, said[3])


def _answer(session: Session, client: socket.socket, line: str) -> str:
    """What a command shows, or one line of error. It is interrupted if the client goes."""
    loop, fd = session.machine.loop, client.fileno()

    def gone() -> None:
        loop.unwatch(fd)  # it would be told again and again
        session.interrupt()

    loop.watch(fd, gone, 0)  # epoll(7): that the other side has gone is told in any case
    try:
        result = session.execute(line)
        return "" if result is None else f"{safe(str(result))}\n"
    except PyvmmError as error:
        return f"Error: {safe(str(error))}\n"
    finally:
        loop.unwatch(fd)
