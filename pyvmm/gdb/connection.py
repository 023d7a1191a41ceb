"""A client of the stub: its socket, and the events of the machine that it waits for."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack, suppress

from pyvmm import events
from pyvmm.gdb import packets
from pyvmm.gdb.stub import Stub
from pyvmm.machine import Machine

CHUNK = 1 << 14


class Connection:
    """Serves one client. One thread."""

    def __init__(self, machine: Machine, client: socket.socket) -> None:
        self._machine = machine
        self._client = client
        self._stub = Stub(machine, self._send)
        self._packets = packets.Packets()
        self._last = b""
        self._stack = ExitStack()
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._stack.enter_context(self._wake)
        self._stack.enter_context(self._waker)
        self._stack.callback(machine.listen(self._on_event))

    def serve(self) -> None:
        """Stop the machine, and serve until the client goes; then the guest runs on.

        Raises OSError.
        """
        poll = select.poll()
        poll.register(self._client, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        with self._stack:
            try:
                self._machine.pause()
                while not self._stub.done:
                    ready = {fd for fd, _ in poll.poll()}
                    if self._wake.fileno() in ready:
                        self._wake.recv(CHUNK)
                        self._report()
                    if self._client.fileno() in ready and not self._receive():
                        return
            finally:
                self._stub.let_go()

    def _on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Stopped | events.Ended):
            self._stub.stopped = True
            with suppress(OSError):  # it is full, which will do, or closed
                self._waker.send(b"\0")

    def _report(self) -> None:
        reply = self._stub.report()
        if reply is not None:
            self._send(reply)

    def _receive(self) -> bool:
        """Take what the client has sent; False at the end of that."""
        data = self._client.recv(CHUNK)
        if not data:  # the server may be about to close, after the guest's end
            self._report()
        for item in self._packets.feed(data):
            match item:
                case bytes():
                    self._take(item)
                case packets.Interrupt():
                    self._stub.interrupt()
                case packets.Refused() if self._stub.acks:  # gdb says so after 2 s, whatever is on
                    self._client.sendall(self._last)
                case packets.Broken() if self._stub.acks:
                    self._client.sendall(packets.NAK)
            if self._stub.done:
                break
        return bool(data)

    def _take(self, packet: bytes) -> None:
        if self._stub.acks:
            self._client.sendall(packets.ACK)
        reply = self._stub.answer(packet)
        if reply is not None:
            self._send(reply)

    def _send(self, data: bytes) -> None:
        self._last = packets.encode(data)
        self._client.sendall(self._last)
