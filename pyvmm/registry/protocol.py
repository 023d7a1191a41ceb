"""How the two ends of a control socket begin: a line that asks, and a line that answers."""

from __future__ import annotations

import time

from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

ACCEPTED = "ok"
ANSWER_SECONDS = 5.0  # within which either end says something, unless its process is stopped
LINE_MAX = 4 << 10  # bytes of a line
SOON = 0.001  # seconds: the least that a socket can be waited for


def read_line(client: socket.socket) -> str:
    """The line that the peer begins with, without its end; what follows stays in the socket.

    Empty if there is none, or more than LINE_MAX bytes. Raises OSError, TimeoutError after
    ANSWER_SECONDS in all.
    """
    line = b""
    deadline = time.monotonic() + ANSWER_SECONDS
    while not line.endswith(b"\n") and len(line) < LINE_MAX:
        client.settimeout(max(deadline - time.monotonic(), SOON))
        byte = client.recv(1)
        if not byte:
            return ""
        line += byte
    return line.decode(errors="replace").rstrip("\n") if line.endswith(b"\n") else ""
