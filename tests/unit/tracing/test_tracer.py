"""Who gets which events, and what they cost while nobody wants them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm import events
from pyvmm.backends.disk import open_image
from pyvmm.native import lib
from pyvmm.tracing import tracer as tracer_module
from pyvmm.tracing.event import BEGIN, END
from pyvmm.tracing.points import LOST, Selection
from pyvmm.tracing.tracer import Tracer
from pyvmm.virtio import blk_spec as spec
from pyvmm.virtio import net_spec
from pyvmm.virtio.blk import Blk
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.rng import Rng
from pyvmm.virtio.tap_net import TapNet
from pyvmm.virtio.user_net import UserNet
from tests.fakes.driver import Guest
from tests.fakes.tap import SocketTap
from tests.fakes.trace import Kept
from tests.fakes.user import Peer
from tests.unit.tracing.conftest import Machine

SECTORS = 64
MAC = bytes.fromhex("525400000001")

Begin = Callable[[VirtioDevice], Guest]


@pytest.fixture
def begin(machine: Machine) -> Iterator[Begin]:
    """Plug a device into the machine, with a guest that drives it."""
    guests: list[Guest] = []

    def begin(device: VirtioDevice) -> Guest:
        machine.board.virtio[device.name] = device
        guests.append(Guest(device))
        return guests[-1]

    yield begin
    for guest in guests:
        guest.close()


@pytest.fixture(params=["C", "Python"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blk:
    if request.param == "Python":
        monkeypatch.setenv("PYVMM_NO_FASTPATH", "1")
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SECTORS * spec.SECTOR))
    return Blk("vda", open_image(str(path)), serial="S1")


def ask(guest: Guest, kind: int, sector: int = 0, room: int = 0) -> None:
    guest.queues[0].request([spec.HEADER.pack(kind, sector)], [room, 1] if room else [1])


def test_a_sink_gets_what_its_selection_wants_and_nothing_else(
    tracer: Tracer, begin: Begin
) -> None:
    guest = begin(Rng("rng"))
    requests, kicks = Kept(), Kept()
    tracer.add(Selection("request.*"), requests)
    tracer.add(Selection("queue.kick@rng"), kicks)
    guest.start()
    guest.queues[0].request(writable=[16])
    tracer.flush()
    assert [(e.point, e.step, e.source) for e in requests.events] == [
        ("request.other", BEGIN, "rng"),
        ("request.other", END, "rng"),
    ]
    assert requests.events[1].fields == {"written": 16}
    assert {event.point for event in kicks.events} == {"queue.kick"}


@pytest.mark.parametrize(
    ("kind", "sector", "room", "name", "status"),
    [
        (spec.T_IN, 3, 1024, "read", "ok"),
        (spec.T_FLUSH, 0, 0, "flush", "ok"),
        (spec.T_GET_ID, 0, spec.ID_SIZE, "get-id", "ok"),
        (spec.T_IN, SECTORS, 512, "read", "ioerr"),
        (999, 0, 0, "unknown", "unsupp"),
    ],
)
def test_each_request_of_a_disk_begins_and_ends_once_whoever_serves_it(
    tracer: Tracer,
    begin: Begin,
    disk: Blk,
    kind: int,
    sector: int,
    room: int,
    name: str,
    status: str,
) -> None:
    guest, kept = begin(disk), Kept()
    tracer.add(Selection("request.*"), kept)
    guest.start()
    ask(guest, kind, sector, room)
    tracer.flush()
    first, last = kept.events
    assert (first.step, last.step) == (BEGIN, END)
    assert first.what == last.what
    assert first.fields == {"kind": name, "offset": sector * spec.SECTOR, "bytes": room}
    assert last.fields == {"status": status}
    assert first.time <= last.time


def test_tracing_begins_and_ends_while_a_device_works(
    tracer: Tracer, begin: Begin, disk: Blk
) -> None:
    guest, kept = begin(disk), Kept()
    guest.start()
    ask(guest, spec.T_IN, 1, 512)
    output = tracer.add(Selection("request.block"), kept)
    ask(guest, spec.T_IN, 2, 512)
    tracer.remove(output)
    ask(guest, spec.T_IN, 3, 512)
    assert [e.fields["offset"] for e in kept.events if e.step == BEGIN] == [1024]
    assert kept.closed
    assert disk.tracer is None


def test_a_disk_that_its_driver_has_reset_is_traced_on(
    tracer: Tracer, begin: Begin, disk: Blk
) -> None:
    guest, kept = begin(disk), Kept()
    tracer.add(Selection("request.block"), kept)
    guest.start()
    ask(guest, spec.T_IN, 1, 512)
    guest.device.worker.call(guest.device.deactivate)
    guest.start()
    ask(guest, spec.T_IN, 2, 512)
    tracer.flush()
    assert [e.fields["offset"] for e in kept.events if e.step == BEGIN] == [512, 1024]


def test_a_disk_tells_of_kicks_and_interrupts(tracer: Tracer, begin: Begin, disk: Blk) -> None:
    guest, kept = begin(disk), Kept()
    tracer.add(Selection("queue.*"), kept)
    guest.start()
    for _ in range(3):
        ask(guest, spec.T_IN, 0, 512)
    disk.worker.call(disk.quiesce)  # it shows an answer before it signals
    tracer.flush()
    assert [e.point for e in kept.events].count("queue.interrupt") == disk.interrupts > 0
    assert any(event.point == "queue.kick" for event in kept.events)  # or it looked by itself
    assert all(event.fields == {"queue": 0} for event in kept.events)


@pytest.mark.parametrize("no_fastpath", ["0", "1"], ids=["C", "Python"])
def test_a_network_tells_of_every_frame_whoever_moves_it(
    tracer: Tracer, begin: Begin, monkeypatch: pytest.MonkeyPatch, no_fastpath: str
) -> None:
    monkeypatch.setenv("PYVMM_NO_FASTPATH", no_fastpath)
    tap = SocketTap()
    guest, kept = begin(TapNet("eth0", tap, MAC)), Kept()
    guest.start()
    tracer.add(Selection("request.net"), kept)
    receive, transmit = guest.queues[0], guest.queues[1]
    frame = MAC + MAC + bytes(48)
    with tap.wires[0] as wire:
        transmit.request([bytes(net_spec.HEADER.size) + frame])
        receive.add([], [2048])
        receive.kick()
        wire.send(bytes(net_spec.HEADER.size) + frame + bytes(40))
        receive.wait()
    guest.device.worker.call(lambda: None)  # Python tells of a frame once the driver has it
    tracer.flush()
    assert [event.fields for event in kept.events] == [
        {"queue": 1, "bytes": 60},
        {"queue": 0, "bytes": 100},
    ]


def test_a_user_network_tells_of_every_frame_that_c_moves(tracer: Tracer, begin: Begin) -> None:
    peer, kept = Peer(), Kept()
    guest = begin(UserNet("eth0", peer, MAC))
    guest.start()
    tracer.add(Selection("request.net"), kept)
    guest.queues[0].add([], [2048])
    guest.queues[0].kick()
    peer.answers = [MAC + MAC + bytes(88)]
    guest.queues[1].request([bytes(net_spec.HEADER.size) + MAC + MAC + bytes(48)])
    guest.queues[0].wait()
    tracer.flush()
    assert [event.fields for event in kept.events] == [
        {"queue": 0, "bytes": 100},
        {"queue": 1, "bytes": 60},
    ]


def test_events_of_the_machine_are_told_with_their_fields(tracer: Tracer, machine: Machine) -> None:
    kept = Kept()
    output = tracer.add(Selection("machine.*"), kept)
    (listener,) = machine.listeners
    listener(events.Stopped("paused"))
    listener(events.Resumed())
    tracer.remove(output)
    assert [(e.point, e.fields) for e in kept.events] == [
        ("machine.stopped", {"reason": "paused"}),
        ("machine.resumed", {}),
    ]
    assert machine.listeners == []


def test_interrupt_lines_are_told_of_only_while_somebody_wants_that(
    tracer: Tracer, machine: Machine
) -> None:
    kept, vm = Kept(), machine.board.vm
    output = tracer.add(Selection("irq.line"), kept)
    vm.on_irq_line(4, True)
    tracer.remove(output)
    assert [event.fields for event in kept.events] == [{"gsi": 4, "level": 1}]
    assert vm.on_irq_line is None


def test_what_there_is_no_room_for_is_counted_and_told_to_everybody(
    tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracer_module, "WAITING_MAX", 3)
    monkeypatch.setattr(tracer_module, "PERIOD", 1000)
    kept = Kept()
    tracer.add(Selection("queue.kick"), kept)
    for number in range(10):
        tracer.instant("queue.kick", "vda", queue=number)
    tracer.flush()
    assert [event.point for event in kept.events] == [*["queue.kick"] * 3, LOST]
    assert kept.events[-1].fields == {"count": 7}


def test_what_a_ring_has_lost_is_told_with_its_name(
    tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracer_module, "PERIOD", 1000)
    kept = Kept()
    tracer.add(Selection("queue.kick"), kept)
    ring = tracer.ring("vda", [0])
    record = tracer_module.ffi.new("struct pv_record *", {"point": lib.PV_POINT_QUEUE_KICK})
    for _ in range(lib.PV_RECORDS + 4):
        lib.pv_trace(ring, record)
    tracer.flush()
    (lost,) = (event for event in kept.events if event.point == LOST)
    assert (lost.source, lost.fields) == ("vda", {"count": 4})
    assert len(kept.events) == lib.PV_RECORDS + 1


def test_events_of_several_sources_come_in_the_order_of_their_ends(tracer: Tracer) -> None:
    kept = Kept()
    output = tracer.add(Selection("*"), kept)
    record = tracer_module.ffi.new("struct pv_record *", {"point": lib.PV_POINT_QUEUE_KICK})
    rings = [tracer.ring(name, [0]) for name in ("vda", "vdb")]
    for number in range(1000):
        record.time = lib.pv_now()
        lib.pv_trace(rings[number % 2], record)
        tracer.instant("queue.kick", "rng", queue=0)
    tracer.remove(output)
    times = [event.time for event in kept.events]
    assert times == sorted(times)
    assert len(times) == 2000


def test_the_thread_runs_while_something_is_wanted(tracer: Tracer) -> None:
    def tracing() -> bool:
        return any(thread.name == "trace" for thread in threading.enumerate())

    assert not tracing()
    selection = Selection("exit.*")
    tracer.add(selection, Kept())
    assert tracing()
    thread = next(one for one in threading.enumerate() if one.name == "trace")
    selection.set("exit.*", False)
    tracer.update()
    thread.join(20)
    assert not tracing()


def test_a_sink_that_fails_is_dropped_and_the_others_go_on(
    tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(events: Any) -> None:
        raise OSError(28, "No space left on device")

    bad, good = SimpleNamespace(write=fail, close=lambda: None), Kept()
    tracer.add(Selection("queue.*"), bad)  # type: ignore[arg-type]
    tracer.add(Selection("queue.*"), good)
    for _ in range(2):
        tracer.instant("queue.kick", "vda", queue=0)
        tracer.flush()
    assert len(good.events) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "A trace cannot be written: No space left on device"
    ]
