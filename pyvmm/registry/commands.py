"""The commands that are about machines of other processes. As cli.py does, they print."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence

from pyvmm.backends.terminal import EscapeParser, raw_mode
from pyvmm.errors import HostError
from pyvmm.monitor.result import Table
from pyvmm.options import Arguments
from pyvmm.printable import printable
from pyvmm.registry.machines import POWER_OFF_SECONDS, RunningMachine, find, running

CHUNK = 64 << 10  # bytes
UNITS = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))
HELP = b"""\r
Ctrl-A x       leave; the machine goes on\r
Ctrl-A h       this help\r
Ctrl-A Ctrl-A  send Ctrl-A to the guest\r
"""


def ps(args: Arguments) -> int:
    """List the machines."""
    machines = running()
    if args.json:
        print(json.dumps([one.asdict() | {"state": one.state} for one in machines], indent=2))
    else:
        columns = ("NAME", "PID", "STATE", "CPUS", "MEMORY", "SINCE", "SOCKETS")
        print(Table(columns, [_row(one) for one in machines]))
    return 0


def _row(one: RunningMachine) -> Sequence[str | int]:
    unit, letter = next(unit for unit in UNITS if one.memory % unit[0] == 0)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.started))
    sockets = " ".join(f"{name}={where}" for name, where in one.sockets.items())
    memory = f"{one.memory // unit}{letter}"
    return one.name, one.pid, one.state, one.cpus, memory, since, printable(sockets)


def stop(args: Arguments) -> int:
    """End one: by its power button, or without asking. Raises HostError if it did not listen."""
    machine = find(args.name)
    timeout = POWER_OFF_SECONDS if args.timeout is None else args.timeout
    end = machine.stop(0 if args.force else timeout)
    if end == "Quit" and not args.force:
        raise HostError(
            f"{machine} did not power itself off within {timeout:g} seconds, and was ended"
        )
    return 0


def stat(args: Arguments) -> int:
    """Show the counters of one."""
    families = find(args.name).statistics()
    if args.json:
        print(json.dumps(families, indent=2))
        return 0
    rows = [
        (family["name"], " ".join(f"{key}={label}" for key, label in labels.items()), value)
        for family in families
        for labels, value in family["samples"]
        if value
    ]
    rows = [(name, of, f"{value:.15g}") for name, of, value in rows]
    print(Table(("COUNTER", "OF", "VALUE"), rows))
    return 0


def console(args: Arguments) -> int:
    """See and type what the serial port of one does, until the user leaves or it ends."""
    machine = find(args.name)
    with machine.connect("console") as client:
        for number in (signal.SIGTERM, signal.SIGHUP):  # the terminal must be restored
            signal.signal(number, signal.default_int_handler)
        with raw_mode():
            _tell(f"pyvmm: the console of {machine}; Ctrl-A x leaves, Ctrl-A h helps")
            left = Relay(client).run()
        _tell(f"\npyvmm: {machine} {'goes on' if left else 'has ended'}")
    return 0


def _tell(text: str) -> None:
    """Say something to a person; programs know."""
    if os.isatty(0):
        print(text, file=sys.stderr)


class Relay:
    """Standard input and output, joined to a socket; on a terminal Ctrl-A escapes."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._unsent = bytearray()
        self._left = False
        self._typing = True  # until the input ends
        commands: dict[int, Callable[[], object]] = {
            ord("x"): self._leave,
            ord("h"): lambda: _write(HELP),
        }
        self._escapes = EscapeParser(commands) if os.isatty(0) else None

    def run(self) -> bool:
        """Until the user leaves, which is True, or the peer has gone.

        The end of the input ends only that. Raises OSError if the output cannot be written.
        """
        self._peer.setblocking(False)
        while not self._left:
            poll = select.poll()
            # A user's keys are always heeded, as the guest may never take what they have typed.
            if self._typing and (self._escapes is not None or not self._unsent):
                poll.register(0, select.POLLIN)
            poll.register(self._peer, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            if any(fd == 0 for fd, _ in poll.poll()):
                self._type()
            if not self._exchange():
                return False
        return True

    def _leave(self) -> None:
        self._left = True

    def _type(self) -> None:
        """Take what the user has typed."""
        data = os.read(0, CHUNK)
        self._typing = bool(data)
        self._unsent += data if self._escapes is None else self._escapes.feed(data)

    def _exchange(self) -> bool:
        """Send and show what can be now; False if the peer has gone."""
        try:
            if self._unsent:
                del self._unsent[: self._peer.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # it has gone, but perhaps said something before
            self._unsent.clear()
        try:
            data = self._peer.recv(CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        _write(data)
        return bool(data)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
