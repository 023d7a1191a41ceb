"""The port through which a guest kernel says that it has panicked."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.bus import Device
from pyvmm.devices import pvpanic_spec as spec
from pyvmm.log import Log

log = Log(__name__)


class PvPanic(Device):
    """`panicked` is called with the lock held, on a vCPU's thread."""

    def __init__(self, name: str, panicked: Callable[[], object]) -> None:
        super().__init__(name)
        self._panicked = panicked

    def read(self, offset: int, size: int) -> int:
        """The events that may be reported."""
        return spec.EVENTS

    def write(self, offset: int, size: int, value: int) -> None:
        """Take the report of an event."""
        if value & spec.PANICKED:
            self._panicked()
        elif value & spec.CRASH_LOADED:
            log.warning("%s: the guest panicked and runs its crash kernel", self.name)
