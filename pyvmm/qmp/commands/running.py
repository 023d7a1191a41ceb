"""The machine as a whole: its state, and what is done to it.

Source: QEMU, qapi/run-state.json, machine.json and misc.json.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from pyvmm import ends
from pyvmm.debugger import STOPS
from pyvmm.errors import PyvmmError
from pyvmm.machine import Machine
from pyvmm.monitor.session import Session
from pyvmm.qmp.client import Client
from pyvmm.qmp.command import command
from pyvmm.qmp.errors import QmpError

NO_UUID = "00000000-0000-0000-0000-000000000000"  # as QEMU says of a machine that was given none
RunState = Literal[
    "running", "paused", "io-error", "debug", "shutdown", "guest-panicked", "internal-error"
]


class StatusInfo(TypedDict):
    """Whether the guest runs, and if not, why."""

    running: bool
    status: RunState


class NameInfo(TypedDict):
    """The machine's name."""

    name: str


class UuidInfo(TypedDict):
    """The machine's UUID: zeros, for it has none."""

    UUID: str


class KvmInfo(TypedDict):
    """Whether KVM is there and used."""

    enabled: bool
    present: bool


CpuInfoFast = TypedDict(
    "CpuInfoFast",
    {"cpu-index": int, "qom-path": str, "thread-id": int, "target": Literal["x86_64"]},
)
MachineInfo = TypedDict(
    "MachineInfo",
    {
        "name": str,
        "is-default": bool,
        "cpu-max": int,
        "hotpluggable-cpus": bool,
        "numa-mem-supported": bool,
        "deprecated": bool,
    },
)


@command("query-status")
def query_status(client: Client) -> StatusInfo:
    """Tell whether the guest runs."""
    status = _status(client.machine)
    return {"running": status == "running", "status": status}


def _status(machine: Machine) -> RunState:
    match machine.end:
        case None:
            pass
        case ends.GuestPanic():
            return "guest-panicked"
        case ends.EntryFailed() | ends.EmulationFailed():
            return "internal-error"
        case _:
            return "shutdown"
    if machine.stopped_by:
        return "debug" if machine.stopped_by in STOPS else "io-error"
    return "paused" if machine.run_state.stopped else "running"


@command("query-name")
def query_name(client: Client) -> NameInfo:
    """Tell the machine's name."""
    return {"name": client.machine.config.name}


@command("query-uuid")
def query_uuid(client: Client) -> UuidInfo:
    """Tell the machine's UUID."""
    return {"UUID": NO_UUID}


@command("query-kvm")
def query_kvm(client: Client) -> KvmInfo:
    """Tell whether KVM is used, as it always is."""
    return {"enabled": True, "present": True}


@command("query-cpus-fast")
def query_cpus_fast(client: Client) -> list[CpuInfoFast]:
    """List the vCPUs and their threads; they go on meanwhile."""
    return [
        {
            "cpu-index": vcpu.index,
            "qom-path": f"/machine/cpu[{vcpu.index}]",
            "thread-id": vcpu.thread_id,
            "target": "x86_64",
        }
        for vcpu in client.machine.board.vcpus
    ]


@command("query-machines")
def query_machines(client: Client) -> list[MachineInfo]:
    """List the kinds of machines: there is one."""
    return [
        {
            "name": "pyvmm",
            "is-default": True,
            "cpu-max": client.machine.board.kvm.capability("MAX_VCPUS"),
            "hotpluggable-cpus": False,
            "numa-mem-supported": False,
            "deprecated": False,
        }
    ]


@command("stop")
def stop(client: Client) -> None:
    """Stop the guest, until `cont`."""
    client.machine.pause()


@command("cont")
def cont(client: Client) -> None:
    """Let the guest go on."""
    if client.machine.end is not None:
        raise QmpError("The guest has ended")
    client.machine.resume()


@command("system_reset")
def system_reset(client: Client) -> None:
    """Start the guest again as after power-on; it ends where --no-reboot was given."""
    client.machine.reset()


@command("system_powerdown")
def system_powerdown(client: Client) -> None:
    """Press the power button."""
    client.machine.power_button()


@command("quit")
def quit_(client: Client) -> None:
    """End the guest at once."""
    client.machine.quit()


@command("inject-nmi")
def inject_nmi(client: Client) -> None:
    """Send every vCPU a non-maskable interrupt."""
    client.machine.nmi()


@command("human-monitor-command")
def human_monitor_command(client: Client, command_line: str, cpu_index: int = 0) -> str:
    """Run a command of the console, and tell its text; an error is a text, too."""
    cpus = client.machine.config.cpus
    if cpu_index not in range(cpus):
        raise QmpError(f"cpu-index must be 0 to {cpus - 1}, not {cpu_index}")
    session = client.session = Session(client.machine)
    session.cpu = cpu_index
    try:
        result = session.execute(command_line)
    except PyvmmError as error:
        return _terminal_text(str(error))
    return "" if result is None else _terminal_text(str(result))


def _terminal_text(text: str) -> str:
    """The lines of `text` as QEMU ends them, which clients split them by."""
    return "".join(f"{line}\r\n" for line in text.split("\n"))
