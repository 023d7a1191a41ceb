"""What a machine tells, as the protocol's events.

Source: QEMU, qapi/run-state.json, block-core.json and machine.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from pyvmm import ends, events
from pyvmm.ends import End
from pyvmm.qmp.schema import Schema

Cause = Literal[
    "host-error",
    "host-qmp-quit",
    "host-qmp-system-reset",
    "host-signal",
    "guest-shutdown",
    "guest-reset",
    "guest-panic",
]


class Shutdown(TypedDict):
    """Data of SHUTDOWN and RESET: whether the guest wanted it, and why."""

    guest: bool
    reason: Cause


class GuestPanicked(TypedDict):
    """Data of GUEST_PANICKED: what is done with the machine."""

    action: Literal["poweroff"]


BlockIoError = TypedDict(
    "BlockIoError",
    {
        "device": str,
        "node-name": str,
        "operation": Literal["read", "write"],
        "action": Literal["report", "stop"],
        "nospace": NotRequired[bool],
        "reason": str,
    },
)


class BalloonChange(TypedDict):
    """Data of BALLOON_CHANGE: the guest's memory in bytes."""

    actual: int


# All events, and the types of their data.
DATA: Mapping[str, Any] = {
    "STOP": None,
    "RESUME": None,
    "RESET": Shutdown,
    "SHUTDOWN": Shutdown,
    "POWERDOWN": None,
    "GUEST_PANICKED": GuestPanicked,
    "BLOCK_IO_ERROR": BlockIoError,
    "BALLOON_CHANGE": BalloonChange,
}
# Those of which a guest could cause any number, and how often they are sent at most.
LIMITED = ("BLOCK_IO_ERROR", "BALLOON_CHANGE")
INTERVAL = 1.0  # seconds, as QEMU, monitor/monitor.c


def translate(event: events.Event) -> list[tuple[str, Any]]:
    """The names and the data of the protocol's events for one of the machine's."""
    match event:
        case events.Stopped():
            return [("STOP", None)]
        case events.Resumed():
            return [("RESUME", None)]
        case events.PowerButton():
            return [("POWERDOWN", None)]
        case events.Restarted(by_guest):
            return [("RESET", _reset(by_guest))]
        case events.Ended(end, by_guest):
            return _end(end, by_guest)
        case events.BalloonChanged(actual):
            return [("BALLOON_CHANGE", BalloonChange(actual=actual))]
        case events.BlockError():
            return [("BLOCK_IO_ERROR", _block_error(event))]
    return []


def _reset(by_guest: bool) -> Shutdown:
    return Shutdown(guest=by_guest, reason="guest-reset" if by_guest else "host-qmp-system-reset")


def _end(end: End, by_guest: bool) -> list[tuple[str, Any]]:
    match end:
        case ends.GuestPanic():
            panicked = GuestPanicked(action="poweroff")
            data = Shutdown(guest=True, reason="guest-panic")
            return [("GUEST_PANICKED", panicked), ("SHUTDOWN", data)]
        case ends.Reset():
            return [("SHUTDOWN", _reset(by_guest))]
        case ends.Quit(by_signal):
            cause: Cause = "host-signal" if by_signal else "host-qmp-quit"
            return [("SHUTDOWN", Shutdown(guest=False, reason=cause))]
        case ends.TripleFault():  # which resets a processor
            return [("SHUTDOWN", Shutdown(guest=True, reason="guest-reset"))]
        case ends.EntryFailed() | ends.EmulationFailed():
            return [("SHUTDOWN", Shutdown(guest=False, reason="host-error"))]
    return [("SHUTDOWN", Shutdown(guest=True, reason="guest-shutdown"))]


def _block_error(event: events.BlockError) -> BlockIoError:
    """All that is not reading changes the disk; only a lack of space stops the machine."""
    data: BlockIoError = {
        "device": event.device,
        "node-name": event.device,
        "operation": "read" if event.operation == "read" else "write",
        "action": "stop" if event.stopped else "report",
        "reason": event.reason,
    }
    if event.stopped:
        data["nospace"] = True
    return data


def describe(schema: Schema) -> None:
    """Add all events to `schema`."""
    for name, kind in DATA.items():
        schema.add(name, **{"meta-type": "event", "arg-type": schema.type_name(kind)})
