"""Traces of a guest that does what is known, and the monitor's commands for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import pyvmm
from conftest import TIMEOUT, machine, numbered_disk, program

from pyvmm import Linux, Machine
from pyvmm.disk_config import Disk
from pyvmm.ends import DebugExit
from pyvmm.errors import UsageError
from pyvmm.monitor.session import Session
from pyvmm.native import ffi
from pyvmm.tracing.event import Event
from pyvmm.tracing.points import Selection
from pyvmm.tracing.recording import read
from tests.fakes.trace import Kept

SCRATCH, NOBODY = 0x3FF, 0x2000  # ports of guests/pio.c
ACCESSES, WORDS = 1000, 300  # likewise
PASS = DebugExit(33)


@pytest.fixture(params=["C", "Python"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who answers accesses."""
    monkeypatch.setenv("PYVMM_NO_FASTPATH", str(int(request.param == "Python")))
    return str(request.param)


def unstarted(name: str, cmdline: str = "", **settings: Any) -> Machine:
    boot = Linux(program(name), cmdline=cmdline)
    return Machine(boot=boot, memory="16M", no_reboot=True, **settings)


def accesses(events: list[Event], port: int) -> list[tuple[str, int, int]]:
    """Those of one port: the direction, the size and the value."""
    return [
        (event.fields["access"], event.fields["size"], event.fields["value"])
        for event in events
        if event.fields.get("port") == port
    ]


def assert_complete(events: list[Event]) -> None:
    """Guests/pio.c has run from its beginning to its end."""
    scratch = accesses(events, SCRATCH)
    expected = [(way, 1, at & 0xFF) for at in range(ACCESSES) for way in ("write", "read")]
    assert scratch[: 2 * ACCESSES] == expected
    assert accesses(events, NOBODY)[-WORDS:] == [("read", 2, 0xFFFF)] * WORDS
    assert all(event.fields["rip"] and event.source == "vcpu0" for event in events)
    ends = [event.time + event.duration for event in events]
    assert ends == sorted(ends)


def test_a_trace_has_every_access_in_order() -> None:
    kept = Kept()
    with unstarted("pio") as vm:
        output = vm.tracer.add(Selection("exit.pio"), kept)
        vm.start()
        assert vm.wait(TIMEOUT) == PASS
        vm.tracer.remove(output)
        counts = vm.exit_counts()[0]
    assert_complete(kept.events)
    assert len(kept.events) == counts["pio_read"] + counts["pio_write"]


def test_a_recording_has_every_exit_and_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "exits"
    with unstarted("pio") as vm:
        vm.command(f"record {file}")
        vm.start()
        assert vm.wait(TIMEOUT) == PASS
        told = str(vm.command("record stop"))
        total = sum(vm.exit_counts()[0].values())
    events = list(read(str(file)))
    assert_complete([event for event in events if event.point == "exit.pio"])
    assert len(events) == total
    assert told == f"{total} exits are in {file}"
    printed = pyvmm("trace", str(file)).stdout.decode().splitlines()
    assert len(printed) == total
    assert "vcpu0" in printed[0]


def test_tracing_is_switched_on_and_off_while_the_guest_runs() -> None:
    with machine("serial", serial=("buffer",)) as vm:
        vm.serial.expect(b"ready", TIMEOUT)
        native = vm.board.vcpus[0].native
        assert native.tracer == ffi.NULL
        vm.command("trace on exit.*")
        vm.serial.write(b"traced")
        vm.serial.expect(b"traced", TIMEOUT)
        lines = str(vm.command("trace last 100")).splitlines()
        assert any("port=0x3f8" in line and "access=write" in line for line in lines)
        vm.command("trace off exit.*")
        assert native.tracer == ffi.NULL
        ring = vm.tracer.ring("vcpu0", ())
        before = ring.added
        vm.serial.write(b"untold")
        vm.serial.expect(b"untold", TIMEOUT)
        assert ring.added == before > 0


def test_the_requests_of_a_disk_begin_and_end(tmp_path: Path, path: str) -> None:
    kept = Kept()
    disk = Disk("vda", str(numbered_disk(tmp_path / "disk.img")), serial="S1")
    with unstarted("virtio_blk", "requests", devices=[disk]) as vm:
        output = vm.tracer.add(Selection("request.*", "queue.*"), kept)
        vm.start()
        assert vm.wait(TIMEOUT) == PASS
        vm.tracer.remove(output)
        assert vm.device("vda").data_path == path
    open_requests: set[object] = set()
    requests = [event for event in kept.events if event.point == "request.block"]
    for event in requests:
        assert (event.what in open_requests) == (event.step == "end")
        open_requests ^= {event.what}
    assert requests
    assert not open_requests
    assert {"queue.kick", "queue.interrupt"} <= {event.point for event in kept.events}


def test_the_option_writes_chromes_json(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    done = pyvmm(
        *("run", program("pio"), "--memory", "16M", "--no-reboot", "--serial", "none"),
        *("--trace", f"exit.pio,file={file}", "--trace", f"machine.*,file={file}"),
    )
    assert done.returncode == PASS.status
    events = json.loads(file.read_text())["traceEvents"]
    scratch = [e for e in events if e["args"].get("port") == SCRATCH]
    assert [e["args"]["value"] for e in scratch[: 2 * ACCESSES : 2]] == [
        at & 0xFF for at in range(ACCESSES)
    ]
    assert {e["ph"] for e in scratch} == {"X"}
    assert [e["name"] for e in events if e["ph"] == "i"] == ["machine.ended"]


def test_the_option_alone_tells_standard_error() -> None:
    done = pyvmm(
        *("run", program("pio"), "--memory", "16M", "--no-reboot", "--serial", "none"),
        *("--trace", "exit.pio"),
    )
    assert done.returncode == PASS.status
    lines = done.stderr.decode().splitlines()
    assert sum(f"port={SCRATCH:#x}" in line for line in lines) > 2 * ACCESSES


def test_a_wrong_pattern_is_one_line() -> None:
    done = pyvmm("run", "--trace", "exit.pia")
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "pyvmm: There is no trace point 'exit.pia'; did you mean exit.pio?\n"
    )


def test_the_commands_of_the_monitor(tmp_path: Path) -> None:
    file = tmp_path / "trace.txt"
    with machine("serial", serial=("buffer",)) as vm:
        vm.serial.expect(b"ready", TIMEOUT)
        with pytest.raises(UsageError, match="no trace point"):
            vm.command("trace on nothing")
        with pytest.raises(UsageError, match="pattern of trace points must be given"):
            vm.command("trace on")
        with pytest.raises(UsageError, match="Nothing is being recorded"):
            vm.command("record stop")
        assert Session(vm).complete("trace on req") == (
            9,
            ["request.*", "request.block", "request.net", "request.other"],
        )
        assert Session(vm).complete("trace on exit.*@v") == (9, ["exit.*@vcpu0"])
        vm.command("trace on machine.* exit.mmio@vcpu0")
        vm.command(f"trace to {file}")
        listed = vm.command("trace")
        assert listed is not None
        on = [row["point"] for row in listed.data if row["on"]]
        assert "machine.stopped" in on
        assert "exit.mmio" in on
        assert "exit.pio" not in on
        vm.command("stop")
        vm.command("cont")
        vm.command("trace off")
        vm.command("stop")
        lines = file.read_text().splitlines()
        assert [line.split()[2] for line in lines] == ["machine.stopped", "machine.resumed"]
        assert not any(row["on"] for row in vm.command("trace").data)  # type: ignore[union-attr]


def test_top_counts_the_exits_of_a_vcpu() -> None:
    with machine("serial", serial=("buffer",), cpus=2) as vm:
        vm.serial.expect(b"ready", TIMEOUT)
        top = vm.command("top")
        assert top is not None
        rows = top.data["vCPUs"]
    assert [row["vCPU"] for row in rows] == ["0", "1"]
    assert all(row["to user space/s"] >= 0 for row in rows)


def test_a_machine_that_is_closed_has_ended_its_traces(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    with unstarted("pio") as vm:
        vm.command("trace on exit.pio")
        vm.command(f"trace to {file}")
        vm.start()
        vm.wait(TIMEOUT)
    assert json.loads(file.read_text())["traceEvents"]
    with pytest.raises(UsageError, match="not open"):
        _ = vm.tracer
