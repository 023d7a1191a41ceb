"""The trace points by name, and choices of them by pattern."""

from __future__ import annotations

import difflib
import re
from fnmatch import fnmatchcase

from pyvmm import events
from pyvmm.errors import UsageError
from pyvmm.native import ffi, lib
from pyvmm.value import Value

LOST = "trace.lost"  # told to everybody who traces


def _event_name(kind: type[events.Event]) -> str:
    """PowerButton is machine.power_button."""
    words = "".join(
        f"_{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__
    )
    return f"machine.{words[1:]}"


# Of struct pv_record: the name of each number that `point` may be.
C_POINTS = tuple(
    ffi.typeof("enum pv_point").elements[number].removeprefix("PV_POINT_").lower().replace("_", ".")
    for number in range(lib.PV_POINTS)
)
EVENTS = {
    kind: _event_name(kind)
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, events.Event) and kind is not events.Event
}
POINTS = {
    "exit.pio": "A vCPU's access to a port, with its value and the time until it was answered",
    "exit.mmio": "A vCPU's access to a device's memory, likewise",
    "exit.other": "Any other exit of a vCPU, as when it is kicked",
    "irq.line": "A device drives an interrupt line high or low",
    "irq.config": "A virtio device tells that its configuration has changed",
    "queue.kick": "A driver has rung for a queue",
    "queue.interrupt": "A device signals a queue's interrupt",
    "request.block": "A disk's request, from when it is taken to its status",
    "request.net": "A frame of a network device",
    "request.other": "A request of another device, from when it is taken to when it is given back",
    **{name: re.split("[.:;]", kind.__doc__ or "")[0] for kind, name in EVENTS.items()},
    LOST: "There was no room for events: how many, since the last time",
}


class Rule(Value):
    """Points on or off, by glob patterns of their names and of who passes them."""

    points: str
    sources: str
    on: bool


def parse_rule(text: str, on: bool = True) -> Rule:
    """Read PATTERN or PATTERN@SOURCE, as `exit.*` or `queue.*@vda`. Raises UsageError."""
    points, _, sources = text.partition("@")
    if not any(fnmatchcase(point, points) for point in POINTS):
        close = difflib.get_close_matches(points, POINTS, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(POINTS)}"
        raise UsageError(f"There is no trace point {points!r}; {hint}")
    return Rule(points, sources or "*", on)


class Selection:
    """Which points are wanted: of the rules that fit, the last one counts. Any thread."""

    def __init__(self, *patterns: str) -> None:
        """Raises UsageError."""
        self._use(*(parse_rule(pattern) for pattern in patterns))

    def _use(self, *rules: Rule) -> None:
        self.rules = rules
        self._known: dict[tuple[str, str], bool] = {}

    def set(self, text: str, on: bool) -> None:
        """Add a rule. Raises UsageError."""
        new = parse_rule(text, on)
        kept = (r for r in self.rules if (r.points, r.sources) != (new.points, new.sources))
        self._use(*kept, new)

    def clear(self) -> None:
        """Want nothing."""
        self._use()

    def wants_anywhere(self, point: str) -> bool:
        """Whether events at `point` are wanted, of at least one source."""
        wanted = False
        for rule in self.rules:
            if fnmatchcase(point, rule.points) and (rule.on or rule.sources == "*"):
                wanted = rule.on
        return wanted

    def wants(self, point: str, source: str) -> bool:
        """Whether an event of `source` at `point` is wanted."""
        known = self._known  # another thread may change the rules now, and then this too
        key = point, source
        if key not in known:
            fitting = [
                rule.on
                for rule in self.rules
                if fnmatchcase(point, rule.points) and fnmatchcase(source, rule.sources)
            ]
            known[key] = bool(fitting) and fitting[-1]
        return known[key]
