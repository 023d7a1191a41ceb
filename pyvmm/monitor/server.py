"""Serving the monitor: to those who connect, and to the terminal of `pyvmm run`."""

from __future__ import annotations

import socket
from contextlib import suppress

from pyvmm.endpoint import Endpoint, Server
from pyvmm.events import Ended, Event
from pyvmm.machine import Machine
from pyvmm.monitor.plain import serve_plain
from pyvmm.monitor.session import Session


def open_server(machine: Machine, endpoint: Endpoint) -> Server:
    """Serve the monitor of an open machine at `endpoint`. Raises HostError."""
    return Server("monitor", machine.loop, endpoint, lambda client: serve(machine, client))


def serve(machine: Machine, client: socket.socket, hello: str = "") -> None:
    """Serve one client until it goes or the machine ends; a connected socket, left open.

    `hello` is what is known of it: a line as of pyvmm/monitor/plain.py. Shutting the socket down
    ends this. On a thread of its own. Raises OSError once the client has gone.
    """
    session = Session(machine)

    def listener(event: Event) -> None:
        if isinstance(event, Ended):
            session.interrupt()
            with suppress(OSError):  # it has gone already
                client.shutdown(socket.SHUT_RD)

    stop_listening = machine.listen(listener)
    try:
        if machine.end is None and (terminal := serve_plain(session, client, hello)):
            from pyvmm.monitor.console import Console

            Console(session, client, terminal).run()
    finally:
        stop_listening()
        session.interrupt()


def serve_terminal(machine: Machine, client: socket.socket, hello: str) -> None:
    """The same for the terminal of the machine's own process; closes the socket."""
    with client, suppress(OSError):
        serve(machine, client, hello)
