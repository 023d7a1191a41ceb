"""What the ends of a run are worth as an exit status, and that they are told apart."""

from __future__ import annotations

import pytest

from pyvmm import ends

STATUSES = [
    (ends.PoweredOff(), 0),
    (ends.Reset(), 0),
    (ends.Quit(), 0),
    (ends.DebugExit(33), 33),
    (ends.Exited(200), 200),
    (ends.TripleFault(0), 3),
    (ends.EntryFailed(0, 7), 3),
    (ends.EmulationFailed(0, 1, b"\x0f"), 3),
    (ends.GuestPanic("", "pvpanic"), 4),
]


@pytest.mark.parametrize(("end", "status"), STATUSES, ids=lambda value: type(value).__name__)
def test_each_end_has_its_exit_status(end: ends.End, status: int) -> None:
    assert end.status == status


def test_ends_of_different_kinds_are_never_equal_and_always_true() -> None:
    assert len({end for end, _ in STATUSES}) == len(STATUSES)
    assert ends.PoweredOff() != ends.Reset()
    assert ends.TripleFault(1) == ends.TripleFault(1)
    assert all(end for end, _ in STATUSES)
