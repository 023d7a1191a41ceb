"""What a machine's control socket is for: a client's first line says which service it wants.

The machine answers with a line, `ok` or a sentence that says why not; after `ok` the connection is
the service's. `status`, `stat` and `stop` answer with JSON, and close.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from pyvmm import events
from pyvmm.endpoint import Endpoint, Server
from pyvmm.errors import PyvmmError, UsageError
from pyvmm.machine import Machine
from pyvmm.registry.console import SharedLine
from pyvmm.registry.entry import json_text
from pyvmm.registry.protocol import ACCEPTED, ANSWER_SECONDS, read_line
from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.metrics.counters import Counters
    from pyvmm.qmp.server import Qmp

OK = f"{ACCEPTED}\n".encode()
TIMEOUT_MAX = 86400  # seconds that a guest may be given to power itself off
COM1 = 0  # the index of the serial port that consoles share


class Services:
    """Serves the clients of one machine, each on a thread of its own. The loop's thread."""

    def __init__(self, machine: Machine, listener: int) -> None:
        """Serve on `listener`, a listening socket that is ours now; its path is the caller's."""
        self._machine = machine
        self._console: SharedLine | None = None
        self._counters: Counters | None = None
        self._qmp: Qmp | None = None
        self._lock = threading.Lock()
        own = socket.socket(fileno=listener)
        self._server = Server("control", machine.loop, Endpoint(), self._serve, own)

    def close(self) -> None:
        """Let all clients go; those of the console get the guest's last output before."""
        if self._qmp is not None:
            self._qmp.close()
        self._server.close()
        if self._console is not None:
            self._console.close()
        if self._counters is not None:
            self._counters.close()

    def _serve(self, client: socket.socket) -> None:
        request = read_line(client)
        if not request:  # somebody only looks whether we live
            return
        name, _, argument = request.partition(" ")
        service = SERVICES.get(name)
        if service is None:
            client.sendall(f"There is no service {name!r}\n".encode())
            return
        client.settimeout(None)
        try:
            service(self, client, argument)
        except PyvmmError as error:
            client.sendall(f"{error}\n".encode())

    # ---- the services ----

    def _status(self, client: socket.socket, argument: str) -> None:
        machine = self._machine
        _answer(client, json_text({"state": machine.state, "stopped by": machine.stopped_by}))

    def _stat(self, client: socket.socket, argument: str) -> None:
        import json

        from pyvmm.metrics.counters import Counters

        with self._lock:
            self._counters = self._counters or Counters(self._machine)
        _answer(client, json.dumps([family.asdict() for family in self._counters.read()]))

    def _stop(self, client: socket.socket, argument: str) -> None:
        """Press the power button, insist after as many seconds as asked; answer how it ended."""
        seconds = _seconds(argument)
        client.sendall(OK)

        def listener(event: events.Event) -> None:
            if isinstance(event, events.Ended):
                with suppress(OSError):
                    client.send(json_text(type(event.end).__name__).encode())

        stop_listening = self._machine.listen(listener)
        try:
            if seconds:
                self._machine.power_button()
                self._machine.quit_after(seconds)
            else:
                self._machine.quit()
            client.recv(1)  # until the machine has ended and lets us go, or the client leaves
        finally:
            stop_listening()

    def _attach(self, client: socket.socket, argument: str) -> None:
        serials = self._machine.board.serials
        if not serials:
            raise UsageError("This machine has no serial port")
        with self._lock:
            if self._console is None:
                self._console = SharedLine(serials[COM1], self._machine.loop)
            self._console.add(client, OK, lambda: self._machine.last_output(COM1))

    def _monitor(self, client: socket.socket, argument: str) -> None:
        from pyvmm.monitor.server import serve

        client.sendall(OK)
        serve(self._machine, client)

    def _speak_qmp(self, client: socket.socket, argument: str) -> None:
        from pyvmm.qmp.server import Qmp

        with self._lock:
            self._qmp = self._qmp or Qmp(self._machine)
        client.sendall(OK)
        self._qmp.serve(client)


SERVICES: dict[str, Callable[[Services, socket.socket, str], None]] = {
    "status": Services._status,
    "stat": Services._stat,
    "stop": Services._stop,
    "console": Services._attach,
    "monitor": Services._monitor,
    "qmp": Services._speak_qmp,
}


def _answer(client: socket.socket, answer: str) -> None:
    client.settimeout(ANSWER_SECONDS)
    client.sendall(OK + answer.encode())


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= TIMEOUT_MAX:
        raise UsageError(f"The timeout must be 0 to {TIMEOUT_MAX} seconds, not {text!r}")
    return seconds
