"""What each sink makes of events."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import HostError, UsageError
from pyvmm.tracing.event import BEGIN, END, Event
from pyvmm.tracing.sinks import KEPT, Tail, format_of, open_sink

ORIGIN = 5_000_000_000
REQUEST = (0, 12)
EXIT = {"access": "read", "port": 0x3FD, "size": 1, "value": 0x60, "rip": 0x1000}


def samples() -> list[Event]:
    return [
        Event(ORIGIN + 1_500_000, "exit.pio", "vcpu0", EXIT, duration=2_500),
        Event(ORIGIN + 2_000_000, "queue.kick", "vda", {"queue": 0}),
        Event(
            ORIGIN + 3_000_000,
            "request.block",
            "vda",
            {"kind": "read", "offset": 512, "bytes": 4096},
            step=BEGIN,
            what=REQUEST,
        ),
        Event(ORIGIN + 4_000_000, "request.block", "vda", {"status": "ok"}, step=END, what=REQUEST),
        Event(ORIGIN + 5_000_000, "machine.stopped", "machine", {"reason": "paused"}),
    ]


def written(path: Path, format: str, events: list[Event]) -> str:
    sink = open_sink(str(path), format, ORIGIN)
    sink.write(events)
    sink.close()
    return path.read_text()


def chrome(path: Path, events: list[Event]) -> list[dict[str, Any]]:
    document = json.loads(written(path, "json", events))
    return list(document["traceEvents"])


def test_text_has_a_line_for_each_event(tmp_path: Path) -> None:
    assert written(tmp_path / "trace", "text", samples()).splitlines() == [
        "    0.001500 vcpu0    exit.pio         "
        "access=read port=0x3fd size=1 value=0x60 rip=0x1000 took=2.5us",
        "    0.002000 vda      queue.kick       queue=0",
        "    0.003000 vda      request.block    begin 0.12 kind=read offset=512 bytes=4096",
        "    0.004000 vda      request.block    end 0.12 status=ok",
        "    0.005000 machine  machine.stopped  reason=paused",
    ]


def test_every_event_of_the_json_has_what_chrome_requires(tmp_path: Path) -> None:
    events = chrome(tmp_path / "trace", samples())
    for event in events:
        assert event.keys() >= {"name", "ph", "ts", "pid", "tid"}
    assert [event["ph"] for event in events if event["ph"] != "M"] == ["X", "i", "b", "e", "i"]


def test_the_json_has_microseconds(tmp_path: Path) -> None:
    access = next(event for event in chrome(tmp_path / "trace", samples()) if event["ph"] == "X")
    assert (access["ts"], access["dur"]) == (1500, 2.5)
    assert access["args"] == EXIT


def test_an_access_that_took_no_time_is_a_complete_event_too(tmp_path: Path) -> None:
    events = chrome(tmp_path / "trace", [Event(ORIGIN, "exit.mmio", "vcpu0", {})])
    assert (events[-1]["ph"], events[-1]["dur"]) == ("X", 0)


def test_every_source_is_a_thread_with_a_name(tmp_path: Path) -> None:
    events = chrome(tmp_path / "trace", samples())
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert set(names.values()) == {"vcpu0", "vda", "machine"}
    assert [names[e["tid"]] for e in events if e["ph"] in "be"] == ["vda", "vda"]


def test_both_ends_of_a_request_agree_in_name_category_and_identity(tmp_path: Path) -> None:
    begin, end = (e for e in chrome(tmp_path / "trace", samples()) if e["ph"] in "be")
    for key in ("name", "cat", "id", "pid"):
        assert begin[key] == end[key]
    assert begin["name"] == "read"


def test_an_end_without_its_begin_is_left_out_of_the_json(tmp_path: Path) -> None:
    assert all(event["ph"] != "e" for event in chrome(tmp_path / "trace", samples()[3:]))


def test_a_trace_without_events_is_json_too(tmp_path: Path) -> None:
    assert [event["name"] for event in chrome(tmp_path / "trace", [])] == ["process_name"]


def test_what_is_written_can_be_read_before_the_end(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "trace"), "text", ORIGIN)
    sink.write(samples())
    assert len((tmp_path / "trace").read_text().splitlines()) == 5
    sink.close()


def test_the_tail_keeps_the_last_events_and_no_more() -> None:
    tail = Tail(ORIGIN)
    tail.write([Event(ORIGIN, "queue.kick", "vda", {"queue": n}) for n in range(KEPT + 10)])
    assert len(tail.last(KEPT + 10)) == KEPT
    assert [line.split("=")[1] for line in tail.last(2)] == [str(KEPT + 8), str(KEPT + 9)]
    assert tail.last(0) == []


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"/no/trace cannot be written: No such file"):
        open_sink(f"{tmp_path}/no/trace", "text", ORIGIN)


def test_a_pipe_that_nobody_reads_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HostError, match="/pipe cannot be written: No such device"):
        open_sink(str(tmp_path / "pipe"), "text", ORIGIN)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format must be text or json, not 'xml'"):
        open_sink(str(tmp_path / "trace"), "xml", ORIGIN)


def test_a_name_may_tell_the_format() -> None:
    assert [format_of(name) for name in ("a.json", "a.txt", "")] == ["json", "text", "text"]
