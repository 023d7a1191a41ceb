"""Where gdb connects: one client at a time."""

from __future__ import annotations

import socket
import threading

from pyvmm.endpoint import Endpoint, Server, parse_endpoint
from pyvmm.errors import UsageError
from pyvmm.gdb.connection import Connection
from pyvmm.log import Log
from pyvmm.machine import Machine

log = Log(__name__)

PATIENCE = 1.0  # seconds, for the client before to be gone


def parse_gdb_endpoint(text: str) -> Endpoint:
    """Read `[HOST:]PORT` or `unix:PATH`; without HOST it is the loopback interface.

    Raises UsageError.
    """
    known = text.startswith(("unix:", "tcp:"))
    try:
        return parse_endpoint(text if known else f"tcp:{text}", "--gdb")
    except UsageError:
        raise UsageError(f"--gdb must be [HOST:]PORT or unix:PATH, not {text!r}") from None


def open_server(machine: Machine, endpoint: Endpoint) -> Server:
    """Listen for gdb until the server is closed. Raises HostError."""
    free = threading.Semaphore()

    def serve(client: socket.socket) -> None:
        if not free.acquire(timeout=PATIENCE):
            log.warning("gdb: there is a client already")
            return
        try:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Connection(machine, client).serve()
        finally:
            free.release()

    return Server("gdb", machine.loop, endpoint, serve)
