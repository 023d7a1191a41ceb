"""The QMP front end of a machine: any number of clients, each told of what happens."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from pyvmm import events
from pyvmm.endpoint import Endpoint, Server
from pyvmm.machine import Machine
from pyvmm.qmp.client import Client
from pyvmm.qmp.events import INTERVAL, LIMITED, translate


class Qmp:
    """Speaks QMP at an endpoint until it is closed; `machine` must be open all the time.

    Without an endpoint, only with those for whom others call `serve`.
    """

    def __init__(self, machine: Machine, endpoint: Endpoint | None = None) -> None:
        """Listen; clients are served once the machine runs. Raises HostError."""
        self.machine = machine
        self._lock = threading.Lock()
        self._clients: list[Client] = []
        self._late: dict[tuple[str, Any], Any] = {}  # limited events that wait, or None: sent
        self._server = Server("QMP", machine.loop, endpoint, self.serve) if endpoint else None
        self._stop_listening = machine.listen(self._told)

    def close(self) -> None:
        """Let the clients go, with their answers and events. Not on the thread of one."""
        self._stop_listening()
        for client in self._clients:
            client.leave()
        if self._server is not None:
            self._server.close()

    def serve(self, connection: socket.socket) -> None:
        """Serve one client until it goes, has to leave or is shut down. On a thread of its own.

        Raises OSError when it is gone.
        """
        client = Client(self, connection)
        with self._lock:
            self._clients = [*self._clients, client]
        try:
            client.serve()
        finally:
            with self._lock:
                self._clients = [one for one in self._clients if one is not client]

    def _told(self, event: events.Event) -> None:
        """See Machine.listen."""
        for name, data in translate(event):
            if name in LIMITED:
                self._limit(name, data)
            else:
                self._send(name, data)

    def _send(self, name: str, data: Any) -> None:
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        event = {
            "timestamp": {"seconds": seconds, "microseconds": nanoseconds // 1000},
            "event": name,
        }
        if data is not None:
            event["data"] = data
        for client in self._clients:
            client.event(event)

    def _limit(self, name: str, data: Any) -> None:
        """Send it now, or, if one of that name and device was sent just before, the last later."""
        key = name, data.get("device")
        with self._lock:
            if key in self._late:
                self._late[key] = data
                return
            self._late[key] = None
        self._send(name, data)
        loop = self.machine.loop
        loop.call_at(loop.now() + INTERVAL, lambda: self._interval_over(key))

    def _interval_over(self, key: tuple[str, Any]) -> None:
        with self._lock:
            data = self._late.pop(key)
        if data is not None:
            self._limit(key[0], data)
