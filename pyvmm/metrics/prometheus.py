"""Counters in Prometheus's text format, given to whoever asks for /metrics over HTTP.

The format: Prometheus, "Exposition formats", text-based format, version 0.0.4. Of HTTP/1.1 it is as
much as RFC 9112 wants of a server that closes each connection after its answer.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence

from pyvmm.endpoint import Endpoint, Server
from pyvmm.machine import Machine
from pyvmm.metrics.counters import Counters, Family

PREFIX = "pyvmm_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATH = "/metrics"
REQUEST_MAX = 8 << 10  # bytes; RFC 9112 §3 wants servers to take a request line of 8000
REQUEST_SECONDS = 5.0  # within which a request is there, and again within which the answer is taken
OK, BAD_REQUEST, NOT_FOUND = "200 OK", "400 Bad Request", "404 Not Found"
NOT_ALLOWED = "405 Method Not Allowed"
METHODS = ("GET", "HEAD")
END = b"\r\n\r\n"
SOON = 0.001  # seconds: the least that a socket can be waited for
ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def text(families: Sequence[Family]) -> str:
    """All in Prometheus's text format."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    name = f"{PREFIX}{family.name}" + "_total" * family.total
    yield f"# HELP {name} {family.help}"
    yield f"# TYPE {name} {'counter' if family.total else 'gauge'}"
    for labels, value in family.samples:
        pairs = ",".join(f'{key}="{label.translate(ESCAPES)}"' for key, label in labels.items())
        yield f"{name}{{{pairs}}} {value}" if pairs else f"{name} {value}"


class Metrics:
    """Serves the counters of an open machine at an endpoint. The loop's thread."""

    def __init__(self, machine: Machine, endpoint: Endpoint) -> None:
        """Listen. Raises HostError."""
        self._counters = Counters(machine)
        self._server = Server("metrics", machine.loop, endpoint, self._serve)

    def close(self) -> None:
        """Let all clients go."""
        self._server.close()
        self._counters.close()

    def _serve(self, client: socket.socket) -> None:
        method, path = _request(client)
        body = ""
        if not path.startswith("/"):
            status = BAD_REQUEST
        elif method not in METHODS:
            status = NOT_ALLOWED
        elif path.partition("?")[0] != PATH:
            status = NOT_FOUND
        else:
            status, body = OK, text(self._counters.read())
        client.settimeout(REQUEST_SECONDS)
        client.sendall(_response(status, body or f"{status}\n", with_body=method != "HEAD"))


def _request(client: socket.socket) -> tuple[str, str]:
    """The method and the path that a client asks with; both empty if that is no HTTP.

    Raises TimeoutError if it does not come in time.
    """
    request = b""
    deadline = time.monotonic() + REQUEST_SECONDS
    while not request.endswith(END) and len(request) < REQUEST_MAX:
        client.settimeout(max(deadline - time.monotonic(), SOON))
        data = client.recv(REQUEST_MAX - len(request))
        if not data:
            break
        request += data
    line = request.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if not request.endswith(END) or len(line) != 3 or not line[2].startswith("HTTP/1."):
        return "", ""
    return line[0], line[1]


def _response(status: str, body: str, *, with_body: bool) -> bytes:
    content = body.encode()
    head = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {CONTENT_TYPE}",
        f"Content-Length: {len(content)}",
        f"Allow: {', '.join(METHODS)}",
        "Connection: close",
    )
    return "\r\n".join(head).encode() + END + (content if with_body else b"")
