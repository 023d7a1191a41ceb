from __future__ import annotations

from typing import Any

import pytest

from pyvmm import ends, events
from pyvmm.qmp.events import translate

RESET_BY_HOST = {"guest": False, "reason": "host-qmp-system-reset"}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (events.Stopped("paused"), [("STOP", None)]),
        (events.Resumed(), [("RESUME", None)]),
        (events.PowerButton(), [("POWERDOWN", None)]),
        (events.Restarted(True), [("RESET", {"guest": True, "reason": "guest-reset"})]),
        (events.Restarted(False), [("RESET", RESET_BY_HOST)]),
        (events.BalloonChanged(1 << 20), [("BALLOON_CHANGE", {"actual": 1 << 20})]),
        (events.LinkChanged("eth0", True), []),
    ],
)
def test_events_are_qemus(event: events.Event, expected: list[Any]) -> None:
    assert translate(event) == expected


@pytest.mark.parametrize(
    ("end", "by_guest", "guest", "reason"),
    [
        (ends.PoweredOff(), True, True, "guest-shutdown"),
        (ends.Exited(3), True, True, "guest-shutdown"),
        (ends.DebugExit(33), True, True, "guest-shutdown"),
        (ends.Reset(), True, True, "guest-reset"),
        (ends.Reset(), False, False, "host-qmp-system-reset"),
        (ends.TripleFault(0), True, True, "guest-reset"),
        (ends.Quit(), False, False, "host-qmp-quit"),
        (ends.Quit(by_signal=True), False, False, "host-signal"),
        (ends.EntryFailed(0, 7), True, False, "host-error"),
        (ends.EmulationFailed(0, 1, b""), True, False, "host-error"),
    ],
)
def test_an_end_says_who_wanted_it_and_why(
    end: ends.End, by_guest: bool, guest: bool, reason: str
) -> None:
    shutdown = ("SHUTDOWN", {"guest": guest, "reason": reason})
    assert translate(events.Ended(end, by_guest)) == [shutdown]


def test_a_panic_is_told_before_the_end() -> None:
    assert translate(events.Ended(ends.GuestPanic("oops", "console"), False)) == [
        ("GUEST_PANICKED", {"action": "poweroff"}),
        ("SHUTDOWN", {"guest": True, "reason": "guest-panic"}),
    ]


@pytest.mark.parametrize(
    ("operation", "stopped", "expected"),
    [
        ("read", False, {"operation": "read", "action": "report"}),
        ("flush", False, {"operation": "write", "action": "report"}),
        ("write", True, {"operation": "write", "action": "stop", "nospace": True}),
    ],
)
def test_a_failed_request_says_what_became_of_it(
    operation: str, stopped: bool, expected: dict[str, Any]
) -> None:
    names = {"device": "vda", "node-name": "vda", "reason": "No space"}
    event = events.BlockError("vda", operation, "No space", stopped)
    assert translate(event) == [("BLOCK_IO_ERROR", names | expected)]
