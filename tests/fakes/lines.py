"""What a device is wired to: an interrupt line that remembers, and a clock that is set by hand."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from pyvmm.bus import Window
from pyvmm.loop import Timer


class FakeLine:
    """An interrupt line; `edges` counts how often it rose."""

    def __init__(self) -> None:
        self.level = False
        self.edges = 0

    def set(self, level: bool) -> None:
        self.edges += level and not self.level
        self.level = level


class FakeTimers:
    """A loop's timers on a clock that stands still until `advance`; `wall` follows it."""

    def __init__(self, wall: int = 0) -> None:
        self.time = 1000.0
        self.calls = 0
        self._wall = wall  # ns
        self._order = itertools.count()
        self._timers: list[tuple[float, int, Timer]] = []

    def now(self) -> float:
        return self.time

    def wall(self) -> int:
        return self._wall

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    @property
    def armed(self) -> int:
        return sum(timer.callback is not None for _, _, timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Let time pass, and make the calls that are due in their order."""
        end = self.time + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                self._pass(max(when, self.time))
                self.calls += 1
                timer.callback()
        self._pass(end)

    def _pass(self, until: float) -> None:
        self._wall += round((until - self.time) * 1e9)
        self.time = until


class FakeWindow(Window):
    """Remembers what is published: `data` by offset; `posting` are the offsets that are posted."""

    def __init__(self) -> None:
        self.data: dict[int, bytes] = {}
        self.ones: list[tuple[int, int]] = []
        self.counters: dict[int, tuple[int, int, int]] = {}
        self.posting: set[int] = set()

    def publish(self, offset: int, data: bytes) -> None:
        self.data[offset] = data

    def publish_ones(self, offset: int, size: int) -> None:
        self.ones.append((offset, size))

    def publish_counter(self, offset: int, size: int, hz: int, bits: int) -> None:
        self.counters[offset] = (size, hz, bits)

    def withdraw(self, offset: int) -> None:
        self.data.pop(offset, None)

    def post(self, offset: int, enabled: bool) -> None:
        (self.posting.add if enabled else self.posting.discard)(offset)
