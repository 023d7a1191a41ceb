"""The table of all commands."""

from __future__ import annotations

from collections.abc import Mapping

from pyvmm.qmp.command import Command
from pyvmm.qmp.commands import devices, disks, memory, protocol, running

TABLE: Mapping[str, Command] = {
    one.name: one
    for module in (protocol, running, memory, disks, devices)
    for one in vars(module).values()
    if isinstance(one, Command)
}
