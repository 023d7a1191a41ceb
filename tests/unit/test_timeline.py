"""When a start reached which point."""

from __future__ import annotations

import json
import time

from pyvmm.timeline import POINTS, Timeline, process_start


def test_the_process_started_in_the_past() -> None:
    assert 0 < process_start() < time.monotonic()


def test_only_the_first_time_of_a_point_counts() -> None:
    timeline = Timeline()
    timeline.mark_at("init", 7.0)
    timeline.mark("init")
    timeline.mark_at("init", 8.0)
    assert timeline.of("init") == 7.0


def test_times_are_milliseconds_since_the_start_and_none_for_what_was_not_reached() -> None:
    timeline = Timeline()
    timeline.mark_at("started", 10.0)
    timeline.mark_at("entered", 10.25)
    assert timeline.milliseconds() == dict.fromkeys(POINTS) | {"started": 0.0, "entered": 250.0}


def test_the_text_has_a_line_for_each_point_and_all_as_json() -> None:
    timeline = Timeline()
    timeline.mark_at("started", 10.0)
    timeline.mark_at("entered", 10.25)
    *lines, data = timeline.text().splitlines()
    assert [line[:18].strip() for line in lines] == list(POINTS)
    assert lines[POINTS.index("entered")].endswith("250.0 ms")
    assert lines[POINTS.index("first serial byte")].endswith("not seen")
    assert json.loads(data)["timeline_ms"] == timeline.milliseconds()
