"""A machine as the monitor sees it, and commands that a test can wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pyvmm import events
from pyvmm.config import MachineConfig
from pyvmm.ends import End, PoweredOff
from pyvmm.loop import Loop
from pyvmm.monitor.command import Command, command
from pyvmm.monitor.commands import TABLE
from pyvmm.monitor.kinds import Choice, Cpu, Number, Path, Text
from pyvmm.monitor.result import Fields, Live, Result
from pyvmm.monitor.result import Text as Lines
from pyvmm.monitor.session import Session
from pyvmm.timeline import Timeline

PATIENCE = 30.0  # seconds until a test that waits is called stuck


class FakeMachine:
    def __init__(self) -> None:
        self.config = MachineConfig(name="fake", cpus=2)
        self.loop = Loop()
        self.timeline = Timeline()
        self.timeline.mark("entered")
        self.state = "running"
        self.stopped_by: str | None = None
        self.end: End | None = None
        self.asked: list[str] = []
        self._listeners: list[Callable[[events.Event], object]] = []
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def __getattr__(self, name: str) -> Callable[[], object]:
        """What the user may ask for is noted."""
        if name not in ("pause", "resume", "reset", "power_button", "quit"):
            raise AttributeError(name)
        return lambda: self.asked.append(name)

    def exit_counts(self) -> list[dict[str, int]]:
        return [{"io": 10}, {"hlt": 5, "mmio": 1}]

    def listen(self, listener: Callable[[events.Event], object]) -> Callable[[], object]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @property
    def watched(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def finish(self) -> None:
        self.end, self.state = PoweredOff(), "ended"
        for listener in list(self._listeners):
            listener(events.Ended(self.end))

    def close(self) -> None:
        self.loop.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.loop.close()


class Stopwatch:
    """Commands for tests, and what they have seen."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.interrupted = threading.Event()
        self.shown = 0


def commands(watch: Stopwatch) -> Mapping[str, Command]:
    """The commands that there are, and some to test the monitor with."""

    @command("wait")
    def wait(session: Session) -> Result:
        "Wait until it is interrupted."
        watch.begun.set()
        if session._interrupted.wait(PATIENCE):
            watch.interrupted.set()
        session.check()
        raise AssertionError("never interrupted")

    @command("count")
    def count(session: Session) -> Result:
        "Count, live."

        def make() -> Result:
            watch.shown += 1
            return Fields({"shown": watch.shown, "state": session.machine.state})

        return Live(0.01, make)

    @command("fail")
    def fail(session: Session) -> None:
        "Make a mistake."
        raise ZeroDivisionError("a mistake")

    @command("evil")
    def evil(session: Session) -> Result:
        "Show what a guest might write."
        return Lines("a\x1b[2Jb\x9b2Jc\rd\x07")

    @command("long")
    def long(session: Session) -> Result:
        "Show much."
        return Lines("\n".join(f"line {number}" for number in range(100_000)))

    @command("pick", examples=["pick one 0 7"])
    def pick(
        session: Session,
        which: Annotated[str, Choice(("one", "two"))] = "one",
        cpu: Cpu = 0,
        *numbers: Annotated[int, Number()],
    ) -> Result:
        """Pick.

        Or do not.
        """
        return Fields({"which": which, "cpu": cpu, "numbers": repr(numbers)})

    @command("save")
    def save(session: Session, path: Path, comment: Text = "") -> Result:
        "Save."
        return Fields({"path": path, "comment": comment})

    mine = (wait, count, fail, evil, long, pick, save)
    return {**TABLE, **{one.name: one for one in mine}}


class TestSession(Session):
    __test__ = False

    def __init__(self, machine: Any, watch: Stopwatch | None = None) -> None:
        super().__init__(machine)
        self._table = commands(watch or Stopwatch())

    @property
    def commands(self) -> Mapping[str, Command]:
        return self._table
