"""The entropy device."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.loop import Loop, Timer
from pyvmm.virtio import rng
from pyvmm.virtio.rng import Rng
from tests.unit.virtio.conftest import MakeGuest


class StoppedClock(Loop):
    """A loop whose timers are run by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[tuple[float, Callable[[], object]]] = []

    def now(self) -> float:
        return 0.0

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        self.due.append((when, callback))
        return Timer(callback)


def limited(rate: int) -> tuple[Rng, StoppedClock]:
    device = Rng("rng", rate=rate)
    device.worker.loop.close()
    device.worker.loop = clock = StoppedClock()
    return device, clock


def test_every_request_gets_other_bytes(make_guest: MakeGuest) -> None:
    guest = make_guest(Rng("rng"))
    guest.start()
    first, second = (guest.queues[0].request(writable=[16, 48]) for _ in range(2))
    assert len(first) == len(second) == 64
    assert first != second


def test_a_request_without_room_is_answered_with_nothing(make_guest: MakeGuest) -> None:
    guest = make_guest(Rng("rng"))
    guest.start()
    assert guest.queues[0].request([b"read only"]) == b""


def test_a_large_request_gets_a_part_of_it(make_guest: MakeGuest) -> None:
    guest = make_guest(Rng("rng"))
    guest.start()
    assert len(guest.queues[0].request(writable=[2 * rng.MOST])) == rng.MOST


def test_beyond_the_rate_an_answer_waits(make_guest: MakeGuest) -> None:
    device, clock = limited(100)
    guest = make_guest(device)
    guest.start()
    queue = guest.queues[0]
    assert len(queue.request(writable=[1000])) == 100  # never more than a second's worth
    queue.add(writable=[50])
    queue.kick()
    device.worker.call(lambda: None)
    while not clock.due:  # the worker has not yet come to it
        device.worker.call(lambda: None)
    ((when, callback),) = clock.due
    assert when == 0.5
    assert queue.collect() == []
    device.worker.call(callback)
    assert [used.length for used in queue.wait()] == [50]


def test_a_waiting_answer_is_dropped_by_a_reset(make_guest: MakeGuest) -> None:
    device, clock = limited(100)
    guest = make_guest(device)
    guest.start()
    queue = guest.queues[0]
    queue.add(writable=[100])
    queue.add(writable=[100])
    queue.kick()
    queue.wait(1)
    used = queue.ring.device_area
    before = guest.memory.read(used, 64)
    guest.reset()
    for _, callback in clock.due:
        device.worker.call(callback)
    assert guest.memory.read(used, 64) == before
