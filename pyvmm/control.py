"""The front ends that the options of `pyvmm run` ask for, on an open machine.

Each option's code is imported only where it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from pyvmm.endpoint import parse_endpoint
from pyvmm.machine import Machine
from pyvmm.typed import Any


@contextmanager
def controlled(machine: Machine, settings: Mapping[str, Any]) -> Iterator[None]:
    """Open what `settings` name, by the names of the options, until the end of the `with`.

    Raises UsageError or HostError.
    """
    with ExitStack() as stack:
        if where := settings.get("gdb"):
            from pyvmm.gdb.server import open_server, parse_gdb_endpoint

            stack.callback(open_server(machine, parse_gdb_endpoint(where)).close)
        if monitor := settings.get("monitor"):
            _open_monitor(machine, monitor, stack)
        yield


def _open_monitor(machine: Machine, where: str, stack: ExitStack) -> None:
    if where == "stdio":
        from pyvmm.backends.monitorline import Unconnected
        from pyvmm.backends.terminal import Stdio

        line = Stdio(machine.loop, machine.quit, machine.serve_monitor)
        stack.callback(line.close)
        line.attach(Unconnected())
        line.switch()
        machine.lines["monitor"] = line
    else:
        from pyvmm.monitor.server import open_server

        stack.callback(open_server(machine, parse_endpoint(where, "--monitor")).close)
