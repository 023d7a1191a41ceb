"""The front ends that the options of `pyvmm run` ask for, on an open machine.

Each option's code is imported only where it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from pyvmm.machine import Machine
from pyvmm.typed import Any


@contextmanager
def controlled(machine: Machine, settings: Mapping[str, Any]) -> Iterator[None]:
    """Open what `settings` name, by the names of the options, until the end of the `with`.

    Raises UsageError or HostError.
    """
    with ExitStack() as stack:
        if "gdb" in settings:
            from pyvmm.gdb.server import GdbServer, parse_gdb_endpoint

            gdb = GdbServer(machine, parse_gdb_endpoint(settings["gdb"]))
            stack.callback(gdb.close)
        yield
