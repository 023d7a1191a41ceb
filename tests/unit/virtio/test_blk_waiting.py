"""Block requests that wait: for space on the host, and for a rate."""

from __future__ import annotations

import errno
import heapq
import threading
from collections.abc import Callable

import pytest

from pyvmm.events import BlockError, Event
from pyvmm.loop import Loop, Timer
from pyvmm.virtio import blk, blk_spec
from pyvmm.virtio.blk import Blk
from tests.fakes.driver import PATIENCE, Guest
from tests.fakes.storage import MemoryStorage
from tests.unit.virtio.conftest import MakeGuest

FULL = OSError(errno.ENOSPC, "No space left on device")
WRITE = [blk_spec.HEADER.pack(blk_spec.T_OUT, 0), b"x" * 512]


class FakeMachine:
    """Counts how often it was stopped and let go on."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.told: list[Event] = []
        self.stopped = threading.Semaphore(0)
        self.went_on = threading.Semaphore(0)

    def hold(self, reason: str) -> Callable[[], object]:
        self.reasons.append(reason)
        self.stopped.release()
        return self.went_on.release


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def guest(
    make_guest: MakeGuest,
    machine: FakeMachine,
    storage: MemoryStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> Guest:
    monkeypatch.setattr(blk, "PROBE_SECONDS", 0.001)
    guest = make_guest(Blk("vda", storage, hold=machine.hold, tell=machine.told.append))
    guest.start()
    return guest


def fill_up(guest: Guest, machine: FakeMachine, storage: MemoryStorage) -> int:
    """Have the guest write to a disk that is out of space; the request's token."""
    storage.trouble = FULL
    token = guest.queues[0].add(WRITE, [1])
    guest.queues[0].kick()
    assert machine.stopped.acquire(timeout=PATIENCE)
    return token


def test_without_a_machine_to_stop_no_space_is_an_error(make_guest: MakeGuest) -> None:
    storage = MemoryStorage()
    storage.trouble = FULL
    told: list[Event] = []
    guest = make_guest(Blk("vda", storage, tell=told.append))
    guest.start()
    assert guest.queues[0].request(WRITE, [1]) == bytes([blk_spec.S_IOERR])
    assert told == [BlockError("vda", "write", "No space left on device", False)]


def test_a_write_without_space_stops_the_machine_and_is_done_when_there_is_some(
    guest: Guest, machine: FakeMachine, storage: MemoryStorage
) -> None:
    token = fill_up(guest, machine, storage)
    assert isinstance(guest.device, Blk)
    assert guest.device.statistics().in_flight == 1
    assert machine.told == [BlockError("vda", "write", "No space left on device", True)]
    assert machine.reasons == ["vda is out of space on the host; it goes on when there is"]
    assert not guest.queues[0].collect()
    assert not machine.went_on.acquire(blocking=False)
    storage.trouble = None
    (used,) = guest.queues[0].wait()
    assert (used.token, used.data) == (token, bytes([blk_spec.S_OK]))
    assert storage.data[:512] == b"x" * 512
    assert machine.went_on.acquire(timeout=PATIENCE)
    assert guest.queues[0].request(WRITE, [1]) == bytes([blk_spec.S_OK])
    assert len(machine.reasons) == 1


def test_while_it_waits_for_space_no_other_request_is_taken(
    guest: Guest, machine: FakeMachine, storage: MemoryStorage
) -> None:
    fill_up(guest, machine, storage)
    guest.queues[0].add([blk_spec.HEADER.pack(blk_spec.T_FLUSH, 0)], [1])
    guest.queues[0].kick()
    guest.device.worker.call(lambda: guest.device.pump(guest.device.queues[0]))
    assert {call[0] for call in storage.calls} == {"write"}
    storage.trouble = None
    assert len(guest.queues[0].wait(2)) == 2


def test_what_fails_otherwise_meanwhile_is_an_error(
    guest: Guest, machine: FakeMachine, storage: MemoryStorage
) -> None:
    fill_up(guest, machine, storage)
    storage.trouble = OSError(errno.EIO, "Input/output error")
    assert [used.data for used in guest.queues[0].wait()] == [bytes([blk_spec.S_IOERR])]
    assert machine.went_on.acquire(timeout=PATIENCE)


def test_a_flush_without_space_is_an_error(
    guest: Guest, machine: FakeMachine, storage: MemoryStorage
) -> None:
    storage.trouble = FULL  # what a later flush succeeds with is not what this one was about
    header = blk_spec.HEADER.pack(blk_spec.T_FLUSH, 0)
    assert guest.queues[0].request([header], [1]) == bytes([blk_spec.S_IOERR])
    assert not machine.reasons


def test_a_reset_drops_the_request_and_lets_the_machine_go_on(
    guest: Guest, machine: FakeMachine, storage: MemoryStorage
) -> None:
    fill_up(guest, machine, storage)
    guest.reset()
    assert machine.went_on.acquire(blocking=False)
    assert isinstance(guest.device, Blk)
    assert guest.device.statistics().in_flight == 0
    storage.trouble = None
    tried = len(storage.calls)
    guest.start()
    assert guest.queues[0].request(WRITE, [1]) == bytes([blk_spec.S_OK])
    assert len(storage.calls) == tried + 1


class Clock(Loop):
    """A loop whose time stands still until `run_until`."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.due: list[tuple[float, int, Callable[[], object]]] = []

    def now(self) -> float:
        return self.time

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        heapq.heappush(self.due, (when, len(self.due), callback))
        return Timer(callback)

    def run_next(self) -> None:
        self.time, _, callback = heapq.heappop(self.due)
        callback()


@pytest.mark.parametrize(
    ("limits", "sectors", "rate"),
    [
        ({"iops": 100}, 1, 100),
        ({"iops": 5000}, 1, 5000),
        ({"bps": 1 << 20}, 8, 256),
        ({"iops": 100, "bps": 1 << 20}, 8, 100),
        ({"iops": 1000, "bps": 1 << 20}, 8, 256),
        ({"bps": 1 << 20}, 64, 32),
    ],
)
def test_rates_are_honoured_within_5_percent(
    make_guest: MakeGuest, limits: dict[str, int], sectors: int, rate: int
) -> None:
    device = Blk("vda", MemoryStorage(), **limits)  # type: ignore[arg-type]
    device.worker.loop.close()
    device.worker.loop = clock = Clock()
    guest = make_guest(device)
    guest.start()
    driver = guest.queues[0]
    header = blk_spec.HEADER.pack(blk_spec.T_IN, 0)
    done = 0
    seconds = 10.0

    def run() -> None:
        nonlocal done
        while clock.time < seconds:
            driver.add([header], [sectors * 512, 1])
            driver.publish()
            device.pump(device.queues[0])
            while not driver.collect():
                clock.run_next()
                device.pump(device.queues[0])
            done += 1

    device.worker.call(run)
    assert abs(done / seconds / rate - 1) < 0.05
