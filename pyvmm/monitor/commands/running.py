"""Stopping the machine and letting it go on."""

from __future__ import annotations

from pyvmm.diagnosis import headline
from pyvmm.monitor.command import command
from pyvmm.monitor.result import Cell, Fields, Result
from pyvmm.monitor.session import Session


@command("info status")
def info_status(session: Session) -> Result:
    """Show whether the machine runs, and why not."""
    machine = session.machine
    fields: dict[str, Cell] = {"name": machine.config.name, "state": machine.state}
    if machine.stopped_by:
        fields["stopped by"] = machine.stopped_by
    if machine.end is not None:
        fields["end"] = headline(machine.end)
    return Fields(fields)


@command("stop")
def stop(session: Session) -> None:
    """Stop every vCPU, until `cont`."""
    session.machine.pause()


@command("cont")
def cont(session: Session) -> None:
    """Let the vCPUs go on."""
    session.machine.resume()


@command("reset")
def reset(session: Session) -> None:
    """Start the guest again as after power-on."""
    session.machine.reset()


@command("powerdown")
def powerdown(session: Session) -> None:
    """Press the power button; a guest that listens powers itself off."""
    session.machine.power_button()


@command("quit")
def quit_(session: Session) -> None:
    """End the guest at once."""
    session.machine.quit()
