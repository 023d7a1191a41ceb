"""The commands that are about machines of other processes. As cli.py does, they print."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pyvmm.backends.terminal import raw_mode
from pyvmm.endpoint import Endpoint, parse_endpoint
from pyvmm.errors import HostError
from pyvmm.monitor.result import Table
from pyvmm.options import Arguments
from pyvmm.printable import printable
from pyvmm.registry.machines import POWER_OFF_SECONDS, RunningMachine, find, running

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
        columns = ("NAME", "ID", "STATE", "CPUS", "MEMORY", "SINCE", "SOCKETS")
        print(Table(columns, [_row(one) for one in machines]))
    return 0


def _row(one: RunningMachine) -> Sequence[str | int]:
    unit, letter = next(unit for unit in UNITS if one.memory % unit[0] == 0)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.started))
    sockets = " ".join(f"{name}={where}" for name, where in one.sockets.items())
    memory = f"{one.memory // unit}{letter}"
    return one.name, one.id, one.state, one.cpus, memory, since, printable(sockets)


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
    from pyvmm.monitor.client import Relay

    machine = find(args.name)
    with machine.connect("console") as client:
        terminal = os.isatty(0)
        for number in (signal.SIGTERM, signal.SIGHUP):  # the terminal must be restored
            signal.signal(number, signal.default_int_handler)
        with raw_mode():
            if terminal:
                _tell(f"pyvmm: the console of {machine}; Ctrl-A x leaves, Ctrl-A h helps")
            relay = Relay(client, help=HELP if terminal else b"", hangs_up=False)
            with suppress(ConnectionError):
                relay.run()
        if terminal:
            _tell(f"\npyvmm: {machine} {'goes on' if relay.left else 'has ended'}")
    return 0


def monitor(args: Arguments) -> int:
    """Talk to the monitor of one, or to one that listens at a path or an address."""
    from pyvmm.monitor.client import attend, connect

    where = str(args.where)
    if where.startswith(("unix:", "tcp:")):
        return attend(connect(parse_endpoint(where, "WHERE")))
    if "/" in where or Path(where).is_socket():
        return attend(connect(Endpoint(path=where)))
    return attend(find(where).connect("monitor"))


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
