"""The table of trace points, and choices from it."""

from __future__ import annotations

import pytest

from pyvmm import events
from pyvmm.errors import UsageError
from pyvmm.tracing.points import C_POINTS, EVENTS, POINTS, Selection


def test_every_point_of_c_and_every_event_of_a_machine_is_in_the_table() -> None:
    assert set(C_POINTS) <= POINTS.keys()
    assert {"machine.stopped", "machine.power_button", "machine.ended"} <= POINTS.keys()
    assert set(EVENTS) == set(events.Event.__subclasses__())


def test_every_point_says_what_it_tells() -> None:
    assert all(what and what[0].isupper() and "`" not in what for what in POINTS.values())


def test_a_pattern_is_a_glob() -> None:
    chosen = Selection("exit.*", "request.block")
    assert [point for point in POINTS if chosen.wants(point, "vcpu0")] == [
        *("exit.pio", "exit.mmio", "exit.other", "request.block"),
    ]


def test_a_pattern_may_be_of_some_sources_only() -> None:
    chosen = Selection("queue.*@vd?")
    assert chosen.wants("queue.kick", "vda")
    assert not chosen.wants("queue.kick", "eth0")
    assert chosen.wants_anywhere("queue.kick")
    assert not chosen.wants_anywhere("exit.pio")


def test_of_the_rules_that_fit_the_last_counts() -> None:
    chosen = Selection("exit.*")
    chosen.set("exit.mmio", False)
    assert chosen.wants("exit.pio", "vcpu0")
    assert not chosen.wants("exit.mmio", "vcpu0")
    assert not chosen.wants_anywhere("exit.mmio")
    chosen.set("exit.*", True)
    assert chosen.wants("exit.mmio", "vcpu0")


def test_the_same_pattern_again_takes_no_more_room() -> None:
    chosen = Selection()
    for _ in range(100):
        chosen.set("exit.*", True)
        chosen.set("exit.*", False)
    assert len(chosen.rules) == 1


def test_an_unknown_point_is_refused_and_the_nearest_is_suggested() -> None:
    with pytest.raises(UsageError, match=r"no trace point 'exit\.pia'; did you mean exit\.pio\?"):
        Selection("exit.pia")
    with pytest.raises(UsageError, match=r"there are exit\.pio, "):
        Selection("zzz@vda")
