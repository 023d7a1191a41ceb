"""The pump of all devices, and their life, with a worker's thread and rings in memory."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.virtqueue import Virtqueue
from tests.fakes.driver import PACKED, PATIENCE, SPLIT, Guest, SplitDriver
from tests.unit.virtio.conftest import MakeGuest

KEEP = b"keep"


class Echo(VirtioDevice):
    """Answers with what it is sent; a request that says KEEP is kept."""

    ID = spec.ID_RNG

    def __init__(self) -> None:
        super().__init__("echo", [64, 8], packed=True)
        self.kept: list[tuple[Virtqueue, Chain]] = []
        self.keeping = threading.Semaphore(0)
        self.threads: set[str] = set()

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        self.threads.add(threading.current_thread().name)
        data = chain.read(64)
        chain.write(data)
        if data == KEEP:
            self.kept.append((queue, chain))
            self.keeping.release()
        return data != KEEP

    def answer(self) -> None:
        """Answer the requests that were kept."""
        while self.kept:
            self.complete(*self.kept.pop(0))

    def wait_kept(self) -> None:
        assert self.keeping.acquire(timeout=PATIENCE)


@pytest.fixture
def device() -> Echo:
    return Echo()


@pytest.fixture
def guest(device: Echo, make_guest: MakeGuest) -> Guest:
    return make_guest(device)


def test_queue_features_are_offered_with_the_devices_own() -> None:
    class Own(Echo):
        def __init__(self) -> None:
            VirtioDevice.__init__(self, "own", [8], features=1 << 5)

    device = Own()
    assert device.features == 1 << 5 | SPLIT
    device.close()


@pytest.mark.parametrize("features", [SPLIT, PACKED, spec.F_VERSION_1])
def test_a_request_is_answered_on_the_workers_thread(
    device: Echo, guest: Guest, features: int
) -> None:
    guest.start(features)
    assert guest.queues[0].request([b"ping"], [8]) == b"ping"
    assert guest.queues[1].request([b"pong"], [8]) == b"pong"
    assert device.threads == {"echo"}


def test_what_was_available_before_activation_is_served(device: Echo, guest: Guest) -> None:
    device.activate = lambda *args: None  # type: ignore[method-assign]
    guest.start()
    del device.activate  # type: ignore[method-assign]
    queue = guest.queues[0]
    queue.add([b"early"], [8])
    queue.publish()
    device.worker.call(lambda: device.activate(device.features, [queue.ring]))
    assert queue.wait()[0].data == b"early"


def test_a_queue_that_the_driver_did_not_enable_is_left_alone(device: Echo, guest: Guest) -> None:
    guest.start(queues=[1])
    assert guest.queues[1].request([b"one"], [8]) == b"one"
    assert list(device.queues) == [1]


def test_a_batch_is_served_with_one_doorbell(guest: Guest) -> None:
    guest.start()
    queue = guest.queues[0]
    for number in range(20):
        queue.add([bytes((number,))], [1])
    queue.kick()
    assert [used.data[0] for used in queue.wait(20)] == list(range(20))


def test_a_request_that_is_kept_is_answered_later_and_others_meanwhile(
    device: Echo, guest: Guest
) -> None:
    guest.start()
    queue = guest.queues[0]
    kept = queue.add([KEEP], [8])
    queue.kick()
    device.wait_kept()
    assert queue.request([b"next"], [8]) == b"next"
    device.worker.call(device.answer)
    assert [used.token for used in queue.wait()] == [kept]


def test_a_reset_drops_what_is_kept_and_leaves_memory_alone(device: Echo, guest: Guest) -> None:
    guest.start()
    queue = guest.queues[0]
    queue.add([KEEP], [8])
    queue.kick()
    device.wait_kept()
    used = queue.ring.device_area
    before = guest.memory.read(used, 64)
    guest.reset()
    device.worker.call(device.answer)
    assert guest.memory.read(used, 64) == before
    assert device.negotiated == 0


def test_the_device_works_again_after_a_reset(device: Echo, guest: Guest) -> None:
    for features in (SPLIT, PACKED, SPLIT):
        guest.start(features)
        assert guest.queues[0].request([b"again"], [8]) == b"again"
        guest.reset()
        device.worker.call(device.deactivate)  # twice is no error


def test_a_broken_rule_is_logged_once_and_needs_a_reset(
    device: Echo, guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start(SPLIT)
    queue = guest.queues[0]
    assert isinstance(queue, SplitDriver)
    queue.offer(9999)
    queue.kick()
    guest.wait_reset_wanted()
    os.eventfd_write(queue.doorbell, 1)
    device.worker.call(lambda: None)
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "echo: the guest's driver broke a rule" in record.getMessage()
    assert "§2.7.5" in record.getMessage()
    guest.reset()
    guest.start()
    assert guest.queues[0].request([b"well"], [8]) == b"well"


def test_a_ring_outside_memory_needs_a_reset(device: Echo, guest: Guest) -> None:
    guest.start()
    ring = guest.queues[0].ring
    guest.reset()
    bad = ring.replace(driver_area=guest.memory.size - 2)
    device.worker.call(lambda: device.activate(SPLIT, [bad]))
    assert guest.reset_wanted.is_set()
    assert not device.queues


def test_a_rule_broken_while_answering_needs_a_reset_too(device: Echo, guest: Guest) -> None:
    guest.start(SPLIT)
    queue = guest.queues[0]
    assert isinstance(queue, SplitDriver)
    queue.add([KEEP], [8])
    queue.kick()
    device.wait_kept()
    queue.avail_index -= 1  # "unexposing" a buffer, §2.7.6.1
    queue.publish()
    os.eventfd_write(queue.doorbell, 1)
    guest.wait_reset_wanted()
    device.worker.call(device.answer)  # goes nowhere
    assert queue.collect() == []
