"""The front end of vhost-user devices, against a back end in another thread of this process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator

import pytest

from pyvmm.errors import HostError
from pyvmm.virtio import vhost_user, vhost_user_device
from pyvmm.virtio import vhost_user_spec as vhost
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.vhost_user_device import VhostUserDevice
from pyvmm.virtio.virtqueue import Ring
from tests.fakes.driver import PATIENCE, SPLIT, Guest
from tests.fakes.vhost_backend import HOLD, RECORD, FakeBackEnd
from tests.unit.virtio.conftest import MakeGuest

WRITE, FLUSH = b"write", b"flush"
CONFIG_SIZE = 16
OTHER_FEATURE = 1 << 5


class Device(VhostUserDevice):
    ID = spec.ID_BLOCK

    def __init__(self, back_end: FakeBackEnd) -> None:
        super().__init__(
            "disk",
            back_end,
            queues=2,
            queue_size=64,
            features=OTHER_FEATURE,
            config_size=CONFIG_SIZE,
        )

    def kind(self, ring: Ring, head: int) -> str:
        address = self.memory.u64(ring.descriptor_area + head * spec.DESC_SIZE)
        return self.memory.read(address, len(WRITE)).decode()


@pytest.fixture
def fake() -> FakeBackEnd:
    return FakeBackEnd()


@pytest.fixture
def device(fake: FakeBackEnd, request: pytest.FixtureRequest) -> Device:
    if "anyhow" in request.fixturenames:
        request.getfixturevalue("anyhow")  # before the first connection
    return Device(fake)


@pytest.fixture
def guest(device: Device, make_guest: MakeGuest) -> Guest:
    return make_guest(device)


@pytest.fixture(params=["journal", "record", "neither"])
def anyhow(request: pytest.FixtureRequest, fake: FakeBackEnd) -> int:
    """The ways to know what is in flight; the features that the driver then accepts."""
    if request.param == "record":
        fake.protocol |= vhost.PROTOCOL_F_INFLIGHT_SHMFD
    return SPLIT if request.param != "neither" else SPLIT & ~spec.F_EVENT_IDX


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a back end gives up soon."""
    monkeypatch.setattr(vhost_user, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(vhost_user_device, "STOP_SECONDS", 0.05)
    monkeypatch.setattr(vhost_user_device, "RETURN_SECONDS", 0.05)
    monkeypatch.setattr(vhost_user_device, "RETRY_SECONDS", 0.01)


def echo(guest: Guest, text: bytes, queue: int = 0) -> None:
    assert guest.queues[queue].request([text], [len(text)]) == text


def hold(fake: FakeBackEnd, guest: Guest, queue: int = 0) -> int:
    """A request that the back end has and does not answer."""
    token = guest.queues[queue].add([HOLD], [len(HOLD)])
    guest.queues[queue].kick()
    assert fake.holding.acquire(timeout=PATIENCE)
    return token


# ---- what the driver sees ----


def test_the_driver_is_offered_what_both_sides_know(fake: FakeBackEnd) -> None:
    fake.features = SPLIT | OTHER_FEATURE | 1 << 6 | vhost.F_PROTOCOL_FEATURES
    fake.features &= ~spec.F_INDIRECT_DESC
    device = Device(fake)
    assert device.features == spec.F_VERSION_1 | spec.F_EVENT_IDX | OTHER_FEATURE
    device.close()


@pytest.mark.parametrize(("offered", "used"), [(4, 2), (1, 1)])
def test_there_are_no_more_queues_than_the_back_end_serves(
    fake: FakeBackEnd, offered: int, used: int
) -> None:
    fake.queues = offered
    device = Device(fake)
    assert device.queue_sizes == (64,) * used
    device.close()


def test_a_back_end_without_multiple_queues_gets_one(fake: FakeBackEnd) -> None:
    fake.protocol &= ~vhost.PROTOCOL_F_MQ
    device = Device(fake)
    assert len(device.queue_sizes) == 1
    device.close()


def test_the_configuration_space_is_the_back_ends(device: Device) -> None:
    assert device.read_config() == bytes(range(CONFIG_SIZE))
    device.close()


@pytest.mark.parametrize("flags", [0, vhost.FLAG_NEED_REPLY])
def test_a_changed_configuration_reaches_the_driver(
    fake: FakeBackEnd, device: Device, guest: Guest, flags: int
) -> None:
    guest.start()
    fake.config[:] = bytes(64)
    fake.say(vhost.HEADER.pack(vhost.BACKEND_CONFIG_CHANGE_MSG, vhost.VERSION | flags, 0))
    guest.wait_config_changed()
    assert device.read_config() == bytes(CONFIG_SIZE)
    echo(guest, b"as before")


# ---- requests ----


def test_requests_are_served_in_shared_memory(guest: Guest, anyhow: int) -> None:
    guest.start(anyhow)
    for number in range(300):
        echo(guest, b"request %d" % number, queue=number % 2)


def test_what_was_available_before_the_start_is_served(
    fake: FakeBackEnd, guest: Guest, anyhow: int
) -> None:
    guest.start(anyhow)
    guest.device.worker.call(guest.device.quiesce)
    queue = guest.queues[0]
    queue.add([b"early"], [5])
    queue.publish()  # and no doorbell
    guest.device.worker.call(guest.device.resume)
    assert [used.data for used in queue.wait()] == [b"early"]


def test_answers_may_come_in_another_order(fake: FakeBackEnd, guest: Guest, anyhow: int) -> None:
    guest.start(anyhow)
    held = hold(fake, guest)
    for number in range(200):
        echo(guest, b"%d" % number)
    fake.release()
    assert [used.token for used in guest.queues[0].wait()] == [held]


def test_nothing_is_served_while_the_device_is_quiesced(
    fake: FakeBackEnd, guest: Guest, anyhow: int
) -> None:
    guest.start(anyhow)
    echo(guest, b"before")
    guest.device.worker.call(guest.device.quiesce)
    queue = guest.queues[0]
    queue.add([b"meanwhile"], [9])
    queue.kick()
    guest.device.worker.call(lambda: None)
    assert fake.served == [b"before"]
    guest.device.worker.call(guest.device.resume)
    assert [used.data for used in queue.wait()] == [b"meanwhile"]
    echo(guest, b"after")


def test_a_reset_waits_for_what_is_in_flight(fake: FakeBackEnd, guest: Guest, anyhow: int) -> None:
    guest.start(anyhow)
    hold(fake, guest)
    used = guest.queues[0].ring.device_area + spec.RING_INDEX_OFFSET
    seen: list[int] = []

    def release() -> None:
        assert fake.stopping.wait(PATIENCE)
        seen.append(guest.memory.u16(used))
        fake.release()

    thread = threading.Thread(target=release)
    thread.start()
    guest.device.worker.call(guest.device.deactivate)
    thread.join()
    assert seen == [0]
    assert guest.memory.u16(used) == 1
    guest.reset()
    guest.start(anyhow)
    echo(guest, b"after")


@pytest.mark.usefixtures("_quick")
def test_a_reset_does_not_wait_for_ever(
    fake: FakeBackEnd, guest: Guest, anyhow: int, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start(anyhow)
    hold(fake, guest)
    guest.reset()
    assert "does not finish its requests" in caplog.text
    fake.hold = False
    guest.start(anyhow)
    echo(guest, b"served by another")
    assert len(fake.connections) == 2


# ---- a driver that breaks the rules ----


def test_an_area_outside_of_memory_needs_a_reset(guest: Guest) -> None:
    guest.start(queues=[0])
    ring = guest.queues[0].ring.replace(device_area=guest.memory.size - 8)
    guest.device.worker.call(guest.device.deactivate)
    guest.device.worker.call(lambda: guest.device.activate(SPLIT, [ring]))
    guest.wait_reset_wanted()


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    ("what", "value"),
    [("available index", 65), ("head", 64), ("head twice", 0), ("used index", 7)],
)
def test_a_broken_ring_needs_a_reset(
    fake: FakeBackEnd, guest: Guest, what: str, value: int, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start(queues=[0])
    ring = guest.queues[0].ring
    index = 1
    if what == "available index":
        index = value
    elif what == "used index":
        guest.memory.write_u16(ring.device_area + spec.RING_INDEX_OFFSET, value)
    else:
        guest.memory.write_u16(ring.driver_area + spec.RING_HEADER_SIZE, value)
        index = 2 if what == "head twice" else 1
    guest.memory.write_u16(ring.driver_area + spec.RING_INDEX_OFFSET, index)
    os.eventfd_write(ring.doorbell, 1)
    guest.wait_reset_wanted()
    assert "the guest's driver broke a rule" in caplog.text
    assert fake.served == []
    guest.reset()
    guest.start()
    echo(guest, b"after the reset")


def test_what_the_back_end_finds_broken_needs_a_reset(fake: FakeBackEnd, guest: Guest) -> None:
    guest.start()
    os.eventfd_write(fake.now.error, 1)
    guest.wait_reset_wanted()


# ---- a back end that dies ----


def test_another_goes_on_when_a_back_end_dies(
    fake: FakeBackEnd, guest: Guest, anyhow: int, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start(anyhow)
    echo(guest, b"before")
    fake.die()
    for _ in range(2):  # so that it is noticed before there is more to do
        guest.device.worker.call(lambda: None)
    echo(guest, b"after")
    assert "The fake failed: it has hung up; another is to go on" in caplog.text


def test_what_was_in_flight_is_done_again_and_nothing_else(fake: FakeBackEnd, guest: Guest) -> None:
    guest.start()
    queue = guest.queues[0]
    held = [hold(fake, guest)]
    for _ in range(200):  # so that its place in the ring is long another's
        echo(guest, b"done")
    held.append(hold(fake, guest))
    fake.served.clear()
    fake.hold = False
    fake.die()
    assert {used.token: used.data for used in queue.wait(2)} == dict.fromkeys(held, HOLD)
    assert fake.served == [HOLD, HOLD]
    echo(guest, b"after")


def test_requests_of_a_time_without_a_back_end_are_served(fake: FakeBackEnd, guest: Guest) -> None:
    guest.start()
    held = hold(fake, guest)
    fake.refusing, fake.hold = True, False
    fake.die()
    queue = guest.queues[0]
    late = queue.add([b"late"], [4])
    queue.kick()
    fake.refusing = False
    assert [used.token for used in queue.wait(2)] == [held, late]


def test_a_back_ends_own_record_is_passed_to_the_next(
    fake: FakeBackEnd, make_guest: MakeGuest
) -> None:
    fake.protocol |= vhost.PROTOCOL_F_INFLIGHT_SHMFD
    guest = make_guest(Device(fake))
    guest.start()
    held = hold(fake, guest)
    fake.hold = False
    fake.die()
    assert [used.token for used in guest.queues[0].wait()] == [held]
    assert fake.now.record == RECORD
    assert fake.requests.count(vhost.GET_INFLIGHT_FD) == 1


def test_without_any_record_what_is_in_flight_needs_a_reset(
    fake: FakeBackEnd, guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start(SPLIT & ~spec.F_EVENT_IDX)
    hold(fake, guest)
    fake.die()
    guest.wait_reset_wanted()
    assert "nobody knows what it was doing" in caplog.text


def test_a_second_death_needs_a_reset(
    fake: FakeBackEnd, guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start()
    fake.die()
    echo(guest, b"between")
    fake.die()
    guest.wait_reset_wanted()
    assert "again; it does nothing until its driver resets it" in caplog.text
    guest.reset()
    guest.start()
    echo(guest, b"after the reset")


@pytest.mark.usefixtures("_quick")
def test_a_back_end_that_does_not_come_back_needs_a_reset(
    fake: FakeBackEnd, guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start()
    fake.refusing = True
    fake.die()
    guest.wait_reset_wanted()
    assert "Nobody is there; it does nothing until its driver resets it" in caplog.text


def test_the_driver_may_reset_while_a_back_end_is_looked_for(
    fake: FakeBackEnd, guest: Guest
) -> None:
    guest.start()
    fake.refusing = True
    fake.die()
    guest.reset()
    fake.refusing = False
    guest.start()
    echo(guest, b"after the reset")
    assert len(fake.connections) == 2


@pytest.mark.usefixtures("_quick")
def test_a_successor_that_lacks_features_does_not_do(fake: FakeBackEnd, guest: Guest) -> None:
    guest.start()
    fake.features &= ~spec.F_INDIRECT_DESC
    fake.die()
    guest.wait_reset_wanted()


def test_a_death_between_two_lives_of_the_driver_is_made_good(
    fake: FakeBackEnd, guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start()
    guest.reset()
    fake.die()
    guest.start()
    echo(guest, b"after")
    assert "The fake failed" in caplog.text


def test_a_lost_interrupt_is_made_up_for(fake: FakeBackEnd, guest: Guest) -> None:
    guest.start()
    queue = guest.queues[0]
    echo(guest, b"answered")
    queue.interrupted()
    fake.die()
    assert queue.interrupted(PATIENCE)


# ---- writes that a back end had not made safe ----


def test_writes_that_may_be_lost_need_a_reset(
    fake: FakeBackEnd, guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start()
    echo(guest, WRITE)
    echo(guest, FLUSH)
    echo(guest, WRITE)
    fake.die()
    guest.wait_reset_wanted()
    assert "writes may be lost that the guest had not flushed" in caplog.text


def test_a_flush_makes_the_writes_of_all_queues_safe(fake: FakeBackEnd, guest: Guest) -> None:
    guest.start()
    echo(guest, WRITE, queue=0)
    echo(guest, WRITE, queue=1)
    echo(guest, FLUSH, queue=0)
    fake.die()
    echo(guest, b"after")


def test_a_flush_makes_only_writes_safe_that_were_answered_before_it(
    fake: FakeBackEnd, guest: Guest
) -> None:
    guest.start()
    queue = guest.queues[0]
    for text in (WRITE, FLUSH):
        queue.add([text], [len(text)])
    queue.kick()
    queue.wait(2)
    fake.die()
    guest.wait_reset_wanted()


def test_writes_of_before_a_reset_may_be_lost_too(
    fake: FakeBackEnd, guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start()
    echo(guest, WRITE)
    guest.reset()
    guest.start()
    fake.die()
    guest.wait_reset_wanted()


# ---- a back end that is not to be trusted ----


def wrong_heads() -> Iterator[tuple[str, bytes]]:
    good = vhost.VERSION | vhost.FLAG_REPLY
    yield "another request", vhost.HEADER.pack(vhost.GET_QUEUE_NUM, good, 8)
    yield "no reply", vhost.HEADER.pack(vhost.GET_FEATURES, vhost.VERSION, 8)
    yield "another version", vhost.HEADER.pack(vhost.GET_FEATURES, 2 | vhost.FLAG_REPLY, 8)
    yield "a huge reply", vhost.HEADER.pack(vhost.GET_FEATURES, good, 0xFFFFFFFF)
    yield "a short reply", vhost.HEADER.pack(vhost.GET_FEATURES, good, 4)


@pytest.mark.parametrize("head", [head for _, head in wrong_heads()], ids=dict(wrong_heads()))
def test_an_answer_that_is_wrong_is_refused(fake: FakeBackEnd, head: bytes) -> None:
    fake.heads[vhost.GET_FEATURES] = head
    with pytest.raises(HostError, match="The fake failed: it answers vhost-user request 1"):
        Device(fake)
    assert fake.closed


@pytest.mark.usefixtures("_quick")
def test_a_back_end_that_hangs_at_the_start_is_refused(fake: FakeBackEnd) -> None:
    fake.answers[vhost.GET_FEATURES] = None
    with pytest.raises(HostError, match="it has not answered for"):
        Device(fake)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (vhost.GET_QUEUE_NUM, vhost.U64.pack(0)),
        (vhost.GET_QUEUE_NUM, vhost.U64.pack(1 << 40)),
        (vhost.GET_CONFIG, b""),
        (vhost.GET_CONFIG, bytes(300)),
        (vhost.SET_OWNER, vhost.U64.pack(1)),
    ],
)
def test_an_answer_out_of_bounds_is_refused(
    fake: FakeBackEnd, request_: int, answer: bytes
) -> None:
    fake.answers[request_] = answer
    with pytest.raises(HostError, match="The fake failed"):
        Device(fake)


def test_a_back_end_of_before_virtio_1_is_refused(fake: FakeBackEnd) -> None:
    fake.features &= ~spec.F_VERSION_1
    with pytest.raises(HostError, match="it must offer VIRTIO_F_VERSION_1"):
        Device(fake)


def test_a_back_end_without_configuration_space_is_refused(fake: FakeBackEnd) -> None:
    fake.protocol &= ~vhost.PROTOCOL_F_CONFIG
    with pytest.raises(HostError, match="VHOST_USER_PROTOCOL_F_CONFIG"):
        Device(fake)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    "request_", [vhost.SET_MEM_TABLE, vhost.SET_VRING_KICK, vhost.GET_VRING_BASE]
)
def test_a_back_end_that_hangs_later_is_replaced(
    fake: FakeBackEnd, guest: Guest, request_: int, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answers[request_] = None
    if request_ == vhost.GET_VRING_BASE:
        guest.start()
        guest.reset()
    else:
        guest.start()
        guest.wait_reset_wanted()
        guest.reset()
    assert "it has not answered for" in caplog.text
    fake.answers.clear()
    guest.start()
    echo(guest, b"after")


@pytest.mark.parametrize(
    "message",
    [
        vhost.HEADER.pack(1, vhost.VERSION, 0),
        vhost.HEADER.pack(vhost.BACKEND_CONFIG_CHANGE_MSG, vhost.VERSION, 1 << 31),
    ],
)
def test_a_request_that_it_must_not_make_ends_the_connection(
    fake: FakeBackEnd, guest: Guest, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start()
    fake.say(message)
    echo(guest, b"before or after")
    fake.connections[0].join(PATIENCE)
    echo(guest, b"after")
    assert "which it must not" in caplog.text
    assert len(fake.connections) == 2


def test_the_log_tells_of_a_death_once(
    fake: FakeBackEnd, guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    guest.start()
    fake.die()
    echo(guest, b"after")
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
