"""Where gdb connects: one client at a time."""

from __future__ import annotations

import socket
import threading

from pyvmm.endpoint import Endpoint, Server, parse_endpoint
from pyvmm.gdb.connection import Connection
from pyvmm.log import Log
from pyvmm.machine import Machine

log = Log(__name__)

PATIENCE = 1.0  # seconds: for the client before, and for the last answer to one


def parse_gdb_endpoint(text: str) -> Endpoint:
    """Read `[HOST:]PORT` or `unix:PATH`; without HOST it is the loopback interface.

    Raises UsageError.
    """
    known = text.startswith(("unix:", "tcp:"))
    return parse_endpoint(text if known else f"tcp:{text}", "--gdb")


class GdbServer:
    """Listens for gdb until it is closed."""

    def __init__(self, machine: Machine, endpoint: Endpoint) -> None:
        """Raises HostError."""
        self._machine = machine
        self._free = threading.Semaphore()
        self._connection: Connection | None = None
        self._server = Server("gdb", machine.loop, endpoint, self._serve)

    def close(self) -> None:
        """Tell the client of the guest's end, and let it go. Not on its thread."""
        connection = self._connection
        if connection is not None:
            connection.finish()
            self._free.acquire(timeout=PATIENCE)
        self._server.close()

    def _serve(self, client: socket.socket) -> None:
        if not self._free.acquire(timeout=PATIENCE):
            log.warning("gdb: there is a client already")
            return
        try:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection = Connection(self._machine, client)
            self._connection.serve()
        finally:
            self._connection = None
            self._free.release()
