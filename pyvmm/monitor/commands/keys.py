"""What a person does at the machine: keys, breaks, and the button for an NMI."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pyvmm.devices.keyboard_spec import KEYS
from pyvmm.errors import UsageError
from pyvmm.monitor.command import command
from pyvmm.monitor.kinds import CpuNumber, Number, Word
from pyvmm.monitor.session import Session


class Keys(Word):
    """Names of keys that are pressed together, as ctrl-alt-delete."""

    metavar = "KEYS"

    def parse(self, session: Session, text: str) -> object:
        """See Kind."""
        names = text.split("-")
        for name in names:
            if name not in KEYS:
                known = "a, 1, f1, ctrl, shift, alt, ret, delete"
                raise UsageError(f"A key must be {known} or so, with - between two, not {name!r}")
        return names

    def complete(self, session: Session, text: str) -> Iterable[str]:
        """See Kind."""
        before, dash, name = text.rpartition("-")
        return (f"{before}{dash}{key}" for key in KEYS if key.startswith(name))


KeyNames = Annotated[list[str], Keys()]
Port = Annotated[int, Number("COM")]
Key = Annotated[str, Word("KEY")]
MaybeCpu = Annotated[int | None, CpuNumber()]


@command("send-key", examples=["send-key ctrl-alt-delete", "send-key ret"])
def send_key(session: Session, keys: KeyNames) -> None:
    """Press keys of the guest's keyboard together, and release them."""
    session.machine.send_keys(keys)


@command("send-break", examples=["send-break", "send-break 2"])
def send_break(session: Session, com: Port = 1) -> None:
    """Send a break on a serial port, COM1 if none is named."""
    session.machine.send_break(com)


@command("sysrq", examples=["sysrq h", "sysrq w"])
def sysrq(session: Session, key: Key) -> None:
    """Have Linux obey a magic SysRq key: its console then shows what that found.

    It is sent as a break and the key on Linux's serial console, or as Alt-SysRq on the keyboard if
    its console is none. What it may do is set in the guest by /proc/sys/kernel/sysrq.
    """
    session.machine.sysrq(key)


@command("nmi", examples=["nmi", "nmi 1"])
def nmi(session: Session, cpu: MaybeCpu = None) -> None:
    """Send one vCPU, or all, a non-maskable interrupt."""
    session.machine.nmi(cpu)
