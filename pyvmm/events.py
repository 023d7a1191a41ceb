"""What a machine tells those who listen (Machine.listen), apart from its end: plain values."""

from __future__ import annotations

from pyvmm.ends import End
from pyvmm.value import Value


class Event(Value):
    """The root of all events."""


class Stopped(Event):
    """The vCPUs stop: `reason` says why: `paused`, what a device said, or a debugger.STOPS."""

    reason: str


class Resumed(Event):
    """They are about to run again."""


class Restarted(Event):
    """The machine has started again as after power-on; `by_guest` unless the host asked for it."""

    by_guest: bool


class PowerButton(Event):
    """The power button has been pressed."""


class Ended(Event):
    """The guest's run has ended; `by_guest` unless the host asked for it."""

    end: End
    by_guest: bool = True


class BlockError(Event):
    """The host has failed a request of a disk.

    `operation` is read, write, flush or discard; `stopped` says whether the machine now waits for
    it.
    """

    device: str
    operation: str
    reason: str
    stopped: bool


class BalloonChanged(Event):
    """The guest has given memory back or taken it: it now has `actual` bytes."""

    actual: int


class LinkChanged(Event):
    """The link of a network device is up or down."""

    device: str
    up: bool
