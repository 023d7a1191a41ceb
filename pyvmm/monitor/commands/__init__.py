"""The table of all commands. A module here is a group of them; `help` shows the groups in order."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from pyvmm.monitor.command import Command
from pyvmm.monitor.commands import (
    board,
    cpu,
    devices,
    disks,
    general,
    kernel,
    keys,
    logs,
    memory,
    networks,
    running,
)

GROUPS: Mapping[str, ModuleType] = {
    "The monitor": general,
    "The machine": running,
    "The guest's kernel": kernel,
    "vCPUs": cpu,
    "Memory": memory,
    "The board": board,
    "Devices": devices,
    "Disks": disks,
    "Networks": networks,
    "Keys and interrupts": keys,
    "Logs": logs,
}
TABLE: Mapping[str, Command] = {
    one.name: one
    for module in GROUPS.values()
    for one in vars(module).values()
    if isinstance(one, Command)
}
