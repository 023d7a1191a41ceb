"""When a start reached which point, for `pyvmm run --timeline`."""

from __future__ import annotations

import os
import time

POINTS = ("started", "ready", "entered", "first serial byte", "init", "ended")


def process_start() -> float:
    """When this process began, on CLOCK_MONOTONIC in seconds; proc(5) gives it in clock ticks."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - since_boot


class Timeline:
    """The first time that each of POINTS was reached. Any thread."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}

    def mark(self, point: str) -> None:
        """Note that `point` is reached now, unless it was before."""
        if point not in self._times:
            self._times[point] = time.monotonic()

    def mark_at(self, point: str, when: float) -> None:
        """Note that `point` was reached at `when`, on CLOCK_MONOTONIC in seconds."""
        self._times.setdefault(point, when)

    def of(self, point: str) -> float | None:
        """When `point` was reached, or None."""
        return self._times.get(point)

    def milliseconds(self) -> dict[str, float | None]:
        """Milliseconds from the start of the process to each point; None if it was not reached."""
        start = self._times.setdefault("started", process_start())
        return {
            point: round((self._times[point] - start) * 1e3, 1) if point in self._times else None
            for point in POINTS
        }

    def text(self) -> str:
        """A line for each point, and all of them as one line of JSON."""
        import json

        times = self.milliseconds()
        lines = [
            f"{point:<18}{'not seen' if at is None else f'{at:10.1f} ms'}"
            for point, at in times.items()
        ]
        return "\n".join([*lines, json.dumps({"timeline_ms": times})])
