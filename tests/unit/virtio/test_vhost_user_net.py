"""A network device whose frames another process moves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.events import Event, LinkChanged
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio import vhost_user_spec as vhost
from pyvmm.virtio.vhost_user_net import VhostUserNet
from tests.fakes.driver import Guest
from tests.fakes.vhost_backend import FEATURES, FakeBackEnd

MAC = bytes.fromhex("525400000001")
OFFLOADS = spec.F_CSUM | spec.F_HOST_TSO4


@pytest.fixture
def fake() -> FakeBackEnd:
    fake = FakeBackEnd()
    fake.features = FEATURES | OFFLOADS | spec.F_MRG_RXBUF | spec.F_HOST_TSO6 | spec.F_GUEST_TSO4
    fake.queues = 2
    return fake


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def guest(fake: FakeBackEnd, told: list[Event]) -> Iterator[Guest]:
    guest = Guest(VhostUserNet("eth0", fake, MAC, pairs=4, mtu=1400, tell=told.append))
    yield guest
    guest.close()


def enabled(fake: FakeBackEnd) -> dict[int, int]:
    """The rings as the back end was last told of them."""
    return dict(vhost.VRING_STATE.unpack(payload) for payload in fake.enabled)


def wait_link(guest: Guest, up: bool) -> None:
    while bool(guest.device.read_config()[6] & spec.STATUS_LINK_UP) != up:
        guest.wait_config_changed()


def test_it_has_what_the_back_end_and_the_control_queue_can(guest: Guest) -> None:
    device = guest.device
    assert len(device.queue_sizes) == 5  # the back end has two pairs
    assert device.features & spec.HOST_OFFLOADS == OFFLOADS | spec.F_HOST_TSO6
    assert not device.features & spec.GUEST_OFFLOADS  # which need their checksum
    wanted = spec.F_MQ | spec.F_MAC | spec.F_MTU | spec.F_CTRL_RX | spec.F_MRG_RXBUF
    assert device.features & wanted == wanted
    assert device.read_config() == MAC + b"\1\0\2\0" + (1400).to_bytes(2, "little")


def test_frames_go_through_the_back_end(guest: Guest, fake: FakeBackEnd) -> None:
    guest.start()
    assert guest.queues[1].request([b"frame"], [5]) == b"frame"
    assert fake.served == [b"frame"]


def test_commands_do_not_reach_the_back_end(guest: Guest, fake: FakeBackEnd) -> None:
    guest.start()
    assert guest.queues[4].request([bytes([spec.CTRL_MAC, spec.CTRL_MAC_ADDR_SET]) + MAC], [1]) == (
        b"\0"
    )
    assert fake.served == []
    assert fake.features_set[-1] & (OFFLOADS | spec.F_MAC | spec.F_CTRL_VQ) == OFFLOADS


def test_only_the_pairs_that_the_driver_uses_are_enabled(guest: Guest, fake: FakeBackEnd) -> None:
    guest.start()
    assert enabled(fake) == {0: 1, 1: 1, 2: 0, 3: 0}
    assert guest.queues[4].request([bytes([4, 0, 2, 0])], [1]) == b"\0"
    assert enabled(fake) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_the_link_is_down_until_another_back_end_is_there(guest: Guest, fake: FakeBackEnd) -> None:
    guest.start()
    guest.queues[0].add(writable=[100])  # a receive buffer, which it keeps
    guest.queues[0].kick()
    for _ in range(2):  # however often
        fake.refusing = True
        fake.die()
        wait_link(guest, False)
        fake.refusing = False
        wait_link(guest, True)
        assert guest.queues[1].request([b"again"], [5]) == b"again"
    assert not guest.reset_wanted.is_set()


def test_no_ring_is_served_while_the_cable_is_pulled(
    guest: Guest, fake: FakeBackEnd, told: list[Event]
) -> None:
    guest.start()
    assert isinstance(guest.device, VhostUserNet)
    guest.device.set_link(False)
    wait_link(guest, False)
    guest.device.worker.call(lambda: None)
    assert not any(enabled(fake).values())
    fake.die()
    guest.device.worker.call(lambda: None)
    guest.device.set_link(True)
    wait_link(guest, True)
    assert guest.queues[1].request([b"frame"], [5]) == b"frame"
    assert told == [LinkChanged("eth0", False), LinkChanged("eth0", True)]


def test_a_cable_that_was_pulled_before_the_driver_came_stays_so(
    guest: Guest, fake: FakeBackEnd
) -> None:
    assert isinstance(guest.device, VhostUserNet)
    guest.device.set_link(False)
    guest.start()
    assert not guest.device.read_config()[6] & spec.STATUS_LINK_UP
    assert not any(enabled(fake).values())


def test_commands_wait_while_the_device_may_not_reach_memory(guest: Guest) -> None:
    guest.start()
    device = guest.device
    device.worker.call(device.quiesce)
    guest.queues[4].add([bytes([4, 0, 2, 0])], [1])
    guest.queues[4].kick()
    device.worker.call(lambda: None)
    assert not guest.queues[4].collect()
    device.worker.call(device.resume)
    assert guest.queues[4].wait()[0].data == b"\0"
    assert guest.queues[1].request([b"frame"], [5]) == b"frame"


def test_a_reset_sets_everything_back(guest: Guest) -> None:
    guest.start()
    assert guest.queues[4].request([bytes([4, 0, 2, 0])], [1]) == b"\0"
    guest.reset()
    assert isinstance(guest.device, VhostUserNet)
    assert guest.device.control.pairs == 1
    guest.start()
    assert guest.queues[1].request([b"frame"], [5]) == b"frame"


def test_a_bad_command_breaks_the_device_and_stops_the_back_end(guest: Guest) -> None:
    guest.start()
    guest.queues[4].add([b"\0"])
    guest.queues[4].kick()
    guest.wait_reset_wanted()
    guest.queues[1].add([b"frame"])
    guest.queues[1].kick()
    guest.device.worker.call(lambda: None)
    assert not guest.queues[1].collect()


def test_a_back_end_without_multiple_queues_has_one_pair(fake: FakeBackEnd) -> None:
    fake.protocol &= ~vhost.PROTOCOL_F_MQ
    device = VhostUserNet("eth0", fake, MAC, pairs=4)
    assert len(device.queue_sizes) == 3
    assert not device.features & (spec.F_MQ | spec.F_MTU)
    device.close()
