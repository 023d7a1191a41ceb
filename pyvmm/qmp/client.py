"""One QMP client: what it sends is carried out in its order, on a thread of its own."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from pyvmm.errors import PyvmmError
from pyvmm.log import Log
from pyvmm.machine import Machine
from pyvmm.monitor.session import Session
from pyvmm.qmp.errors import COMMAND_NOT_FOUND, GENERIC, QmpError
from pyvmm.qmp.outbox import Outbox
from pyvmm.qmp.stream import Stream

if TYPE_CHECKING:
    from pyvmm.qmp.server import Qmp

log = Log(__name__)

RECEIVED = 1 << 16  # bytes at a time
NEGOTIATE = "qmp_capabilities"


class Client:
    """A connected client. The thread that calls `serve`, but for `event` and `leave`."""

    def __init__(self, server: Qmp, connection: socket.socket) -> None:
        self.server = server
        self.session = Session(server.machine)  # of human-monitor-command
        self._connection = connection
        self._outbox = Outbox(connection)
        self._negotiated = False
        self._takes_events = False  # once the answer to the negotiation is on its way
        self._leaving = False

    @property
    def machine(self) -> Machine:
        """What it is a client of."""
        return self.server.machine

    def serve(self) -> None:
        """Greet it, and do what it asks for until it goes or has to leave.

        Raises OSError when it is gone.
        """
        from pyvmm.qmp.commands.protocol import version

        stream = Stream()
        try:
            self._outbox.answer({"QMP": {"version": version(), "capabilities": []}})
            while not self._leaving and (data := self._connection.recv(RECEIVED)):
                for message in stream.feed(data):
                    self._outbox.answer(self._answer(message))
                    self._takes_events = self._negotiated
                    if self._leaving:
                        break
        finally:
            self._outbox.close()

    def event(self, message: Any) -> None:
        """Send it an event, if it is ready for events. Any thread; this does not wait."""
        if self._takes_events:
            self._outbox.event(message)

    def leave(self) -> None:
        """Have `serve` end with the command that it is at, and that soon. Any thread."""
        self._leaving = True
        self.session.interrupt()

    def _answer(self, message: Any) -> dict[str, Any]:
        """The answer to what it sent, of which an `id` is part if there was one."""
        answer: dict[str, Any]
        try:
            if isinstance(message, QmpError):
                raise message
            answer = {"return": self._execute(message)}
        except QmpError as error:
            answer = {"error": {"class": error.kind, "desc": str(error)}}
        except (PyvmmError, OSError) as error:
            answer = {"error": {"class": GENERIC, "desc": str(error)}}
        except Exception:
            log.exception("A mistake in the code of a QMP command")
            text = "A mistake in the command's code, which the log has"
            answer = {"error": {"class": GENERIC, "desc": text}}
        if isinstance(message, dict) and "id" in message:
            answer["id"] = message["id"]
        return answer

    def _execute(self, message: Any) -> Any:
        """Carry a command out; what it returns. Raises PyvmmError or OSError."""
        from pyvmm.qmp.commands import TABLE

        name, arguments = _take_apart(message)
        if self._negotiated == (name == NEGOTIATE):
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored"
                if self._negotiated
                else f"Expecting capabilities negotiation with '{NEGOTIATE}'",
                COMMAND_NOT_FOUND,
            )
        if name not in TABLE:
            raise QmpError(f"The command {name} has not been found", COMMAND_NOT_FOUND)
        result = TABLE[name].run(self, arguments)
        self._negotiated = True
        return result


def _take_apart(message: Any) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of a command. Raises QmpError for what is none."""
    if not isinstance(message, dict):
        raise QmpError("QMP input must be a JSON object")
    for member in message:
        if member not in ("execute", "arguments", "id"):
            raise QmpError(f"QMP input member '{member}' is unexpected")
    if "execute" not in message:
        raise QmpError("QMP input lacks member 'execute'")
    name, arguments = message["execute"], message.get("arguments", {})
    if not isinstance(name, str):
        raise QmpError("QMP input member 'execute' must be a string")
    if not isinstance(arguments, dict):
        raise QmpError("QMP input member 'arguments' must be an object")
    return name, arguments
