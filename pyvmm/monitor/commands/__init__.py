"""The table of all commands. A module here is a group of them; `help` shows the groups in order."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from pyvmm.monitor.command import Command
from pyvmm.monitor.commands import board, cpu, general, kernel, memory, running

GROUPS: Mapping[str, ModuleType] = {
    "The monitor": general,
    "The machine": running,
    "vCPUs": cpu,
    "Memory": memory,
    "The board": board,
    "The guest's kernel": kernel,
}
TABLE: Mapping[str, Command] = {
    one.name: one
    for module in GROUPS.values()
    for one in vars(module).values()
    if isinstance(one, Command)
}
