"""The rings of csrc/trace.c."""

from __future__ import annotations

import threading
from typing import Any

from pyvmm.native import ffi, lib

EVERYTHING = (1 << lib.PV_POINTS) - 1


def ring(points: int = EVERYTHING) -> Any:
    return ffi.new("struct pv_tracer *", {"points": points})


def add(tracer: Any, size: int, point: int = 0) -> None:
    lib.pv_trace(tracer, ffi.new("struct pv_record *", {"size": size, "point": point}))


def take(tracer: Any) -> list[int]:
    out = ffi.new("struct pv_record[]", lib.PV_RECORDS)
    return [record.size for record in out[0 : lib.pv_trace_take(tracer, out)]]


def test_records_come_out_as_they_went_in_also_over_the_end_of_the_ring() -> None:
    tracer = ring()
    for start in range(0, 5 * lib.PV_RECORDS, 3000):
        for size in range(start, start + 3000):
            add(tracer, size)
        assert take(tracer) == list(range(start, start + 3000))
    assert take(tracer) == []
    assert tracer.lost == 0


def test_a_full_ring_keeps_what_it_has_and_counts_what_it_loses() -> None:
    tracer = ring()
    for size in range(lib.PV_RECORDS + 5):
        add(tracer, size)
    assert tracer.lost == 5
    assert take(tracer) == list(range(lib.PV_RECORDS))
    add(tracer, 1)
    assert take(tracer) == [1]


def test_the_counts_may_pass_the_end_of_their_range() -> None:
    tracer = ring()
    tracer.added = tracer.taken = (1 << 32) - 2
    for size in range(5):
        add(tracer, size)
    assert take(tracer) == [0, 1, 2, 3, 4]


def test_a_point_that_nobody_wants_leaves_the_ring_alone() -> None:
    tracer = ring(points=1 << lib.PV_POINT_QUEUE_KICK)
    add(tracer, 1, lib.PV_POINT_EXIT_PIO)
    assert tracer.added == 0
    add(tracer, 2, lib.PV_POINT_QUEUE_KICK)
    assert take(tracer) == [2]


def test_a_thread_that_takes_while_another_adds_gets_all_but_what_is_counted_as_lost() -> None:
    tracer = ring()
    total = 100_000
    thread = threading.Thread(target=lambda: [add(tracer, size) for size in range(total)])
    thread.start()
    got = []
    while thread.is_alive():
        got += take(tracer)
    got += take(tracer)
    assert len(got) + tracer.lost == total
    assert got == sorted(set(got))
