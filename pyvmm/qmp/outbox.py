"""What waits to be sent to one client: answers, which can wait, and events, which cannot."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from pyvmm.log import Log
from pyvmm.loop import start_thread

log = Log(__name__)

WAITING_MAX = 1024  # messages to a client that does not read


class Outbox:
    """Sends messages to `client` on a thread of its own, in their order."""

    def __init__(self, client: socket.socket) -> None:
        """Raises HostError if the host allows no more threads."""
        self._client = client
        self._waiting: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._closed = False  # no more will be put in
        self._thread = start_thread("QMP output", self._run)

    def answer(self, message: Any) -> None:
        """Send `message` once what was before it is on its way. The thread that serves the client.

        Raises ConnectionError if the client has gone.
        """
        data = _line(message)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._waiting)
            if self._closed:
                raise ConnectionAbortedError("The client has gone")
            self._put(data)

    def event(self, message: Any) -> None:
        """Send `message` without waiting; a client with too many of them unread is let go.

        Any thread.
        """
        with self._changed:
            if self._closed:
                return
            if len(self._waiting) < WAITING_MAX:
                self._put(_line(message))
                return
            log.warning("A QMP client that does not read its events is disconnected")
            self._give_up()

    def close(self) -> None:
        """Send what waits, as long as the client takes it, and no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _put(self, data: bytes) -> None:
        self._waiting.append(data)
        self._changed.notify_all()

    def _give_up(self) -> None:
        self._closed = True
        self._waiting.clear()
        self._changed.notify_all()
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if not self._waiting:
                    return
                data = self._waiting[0]
            try:
                self._client.sendall(data)
            except OSError:  # it has gone
                with self._changed:
                    self._give_up()
                return
            with self._changed:
                if self._waiting:  # not given up
                    self._waiting.popleft()
                self._changed.notify_all()


def _line(message: Any) -> bytes:
    return json.dumps(message).encode("ascii") + b"\r\n"
