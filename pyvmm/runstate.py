"""Whether a machine's vCPUs may run: they do while nobody holds them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from pyvmm import events
from pyvmm.kvm.vcpu import Vcpu
from pyvmm.log import Log
from pyvmm.runloop import Gate

log = Log(__name__)

PAUSED = "paused"  # by the user


class Hold:
    """One reason for the vCPUs to stand still, until it is released."""

    def __init__(self, state: RunState, why: str) -> None:
        self.why = why
        self._state = state

    def release(self) -> None:
        """Let them go on unless somebody else holds them; again, it does nothing. Any thread."""
        self._state.release(self)


class RunState:
    """Who holds the vCPUs, and the gate that this keeps shut. Unless a method says so, any thread.

    `tell` is told of Stopped and Resumed: what the user and the devices do, not what looks inside.
    """

    def __init__(self, tell: Callable[[events.Event], object]) -> None:
        self.gate = Gate(())
        self._tell = tell
        self._lock = threading.Lock()
        self._holds: list[Hold] = []
        self._stops: list[Hold] = []  # those of the user and of devices, which `resume` ends
        self._only: Collection[int] | None = None  # the vCPUs that may run when nobody holds them

    @property
    def vcpus(self) -> Sequence[Vcpu]:
        """Those that it is about; set once they are made."""
        return self.gate.vcpus

    @vcpus.setter
    def vcpus(self, vcpus: Sequence[Vcpu]) -> None:
        self.gate.vcpus = vcpus

    @property
    def running(self) -> bool:
        """Whether the vCPUs may run."""
        return self.gate.opened

    @property
    def stopped(self) -> bool:
        """Whether they have been stopped until they are resumed, and not just to be looked at."""
        return bool(self._stops)

    @property
    def stopped_by(self) -> str | None:
        """Why a device or the debugger has stopped them, if one has."""
        return next((stop.why for stop in self._stops if stop.why != PAUSED), None)

    def hold(self, why: str) -> Hold:
        """Stop every vCPU between two instructions, without waiting for it."""
        hold = Hold(self, why)
        with self._lock:
            self._holds.append(hold)
            self.gate.shut()
        return hold

    def release(self, hold: Hold) -> None:
        """See Hold."""
        with self._lock:
            if hold not in self._holds:
                return
            self._holds.remove(hold)
            if not self._holds:
                for vcpu in self.vcpus:
                    vcpu.kvmclock_paused()
                self.gate.open(self._only)

    def wait_parked(self) -> None:
        """Wait until no vCPU runs, or they may again. Any thread but a vCPU's."""
        self.gate.wait_parked()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """See Machine."""
        looking = self.hold("looked at")
        try:
            self.wait_parked()
            yield
        finally:
            looking.release()

    def pause(self) -> None:
        """See Machine."""
        if all(stop.why != PAUSED for stop in self._stops):
            self.halt(PAUSED)
        self.wait_parked()

    def resume(self, only: Collection[int] | None = None) -> None:
        """See Machine; with `only`, let none but these vCPUs run, until the next `resume`."""
        with self._lock:
            self._only = only
            stops, self._stops = self._stops, []
        if stops:
            self._tell(events.Resumed())  # first: they may stop again at once
        for stop in stops:
            stop.release()

    def stop(self, reason: str) -> Callable[[], None]:
        """Stop them for a device's reason, without waiting, until what this returns is called."""
        log.warning("The machine is paused: %s", reason)
        stop = self.halt(reason)

        def go_on() -> None:
            with self._lock:
                if stop not in self._stops:
                    return
                self._stops.remove(stop)
            self._tell(events.Resumed())
            stop.release()

        return go_on

    def halt(self, reason: str) -> Hold:
        """Stop them until `resume`, without waiting."""
        stop = self.hold(reason)
        with self._lock:
            self._stops.append(stop)
        self._tell(events.Stopped(reason))
        return stop
