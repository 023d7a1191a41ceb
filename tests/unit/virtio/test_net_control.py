"""The control queue of a network device, and the filter that it sets."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.virtio import net_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.net import Net
from pyvmm.virtio.net_filter import Filter
from tests.fakes.driver import Guest
from tests.fakes.link import FakeLink
from tests.unit.virtio.conftest import MakeGuest

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400654321")
GROUP = bytes.fromhex("01005e000001")
BROADCAST = b"\xff" * 6
PAIRS = 4
CONTROL = 2 * PAIRS
OK, ERR = True, False
ALL = spec.HOST_OFFLOADS | spec.GUEST_OFFLOADS


class Driver:
    def __init__(self, guest: Guest, features: int | None = None) -> None:
        assert isinstance(guest.device, Net)
        self.guest, self.device = guest, guest.device
        guest.start(features)

    @property
    def filter(self) -> Filter:
        return self.device.control.filter

    def command(self, kind: int, command: int, data: bytes = b"", index: int = CONTROL) -> bool:
        """Whether the device carried it out."""
        answer = self.guest.queues[index].request([bytes([kind, command]), data], [1])
        assert answer in (b"\0", b"\1")
        return answer == b"\0"

    def takes(self, to: bytes, vlan: int | None = None) -> bool:
        tag = b"" if vlan is None else b"\x81\0" + vlan.to_bytes(2, "big")
        return self.filter.passes(to + OTHER + tag + b"\x88\xb5" + bytes(46))


@pytest.fixture
def link() -> FakeLink:
    return FakeLink(ALL)


@pytest.fixture
def driver(make_guest: MakeGuest, link: FakeLink) -> Driver:
    return Driver(make_guest(Net("eth0", link, MAC, pairs=PAIRS)))


def table(*addresses: bytes) -> bytes:
    return struct.pack("<I", len(addresses)) + b"".join(addresses)


# ---- receive modes and addresses ----


def test_a_driver_that_says_nothing_receives_everything(driver: Driver) -> None:
    assert all(driver.takes(to) for to in (MAC, OTHER, GROUP, BROADCAST))


@pytest.mark.parametrize(
    ("mode", "passing"),
    [
        (None, {MAC, BROADCAST}),
        (spec.CTRL_RX_PROMISC, {MAC, OTHER, GROUP, BROADCAST}),
        (spec.CTRL_RX_ALLMULTI, {MAC, GROUP, BROADCAST}),
        (spec.CTRL_RX_ALLUNI, {MAC, OTHER, BROADCAST}),
        (spec.CTRL_RX_NOUNI, {BROADCAST}),
        (spec.CTRL_RX_NOBCAST, {MAC}),
    ],
)
def test_modes_choose_what_is_received(
    driver: Driver, mode: int | None, passing: set[bytes]
) -> None:
    assert driver.command(spec.CTRL_RX, spec.CTRL_RX_PROMISC, b"\0") == OK
    if mode is not None:
        assert driver.command(spec.CTRL_RX, mode, b"\1") == OK
    assert {to for to in (MAC, OTHER, GROUP, BROADCAST) if driver.takes(to)} == passing


def test_no_multicast_is_stronger_than_the_table(driver: Driver) -> None:
    driver.command(spec.CTRL_RX, spec.CTRL_RX_PROMISC, b"\0")
    assert driver.command(spec.CTRL_MAC, spec.CTRL_MAC_TABLE_SET, table() + table(GROUP)) == OK
    assert driver.takes(GROUP)
    assert driver.command(spec.CTRL_RX, spec.CTRL_RX_NOMULTI, b"\1") == OK
    assert not driver.takes(GROUP)
    assert driver.takes(BROADCAST)


@pytest.mark.parametrize(
    ("command", "data"), [(6, b"\1"), (255, b"\1"), (0, b""), (0, b"\2"), (0, b"\1\1")]
)
def test_a_mode_that_is_none_is_refused(driver: Driver, command: int, data: bytes) -> None:
    assert driver.command(spec.CTRL_RX, command, data) == ERR
    assert driver.takes(OTHER)


def test_tables_are_replaced_as_a_whole(driver: Driver) -> None:
    driver.command(spec.CTRL_RX, spec.CTRL_RX_PROMISC, b"\0")
    third = bytes.fromhex("525400000003")
    tables = table(OTHER) + table(GROUP)
    assert driver.command(spec.CTRL_MAC, spec.CTRL_MAC_TABLE_SET, tables) == OK
    assert driver.takes(OTHER)
    assert driver.takes(GROUP)
    assert driver.command(spec.CTRL_MAC, spec.CTRL_MAC_TABLE_SET, table(third) + table()) == OK
    assert driver.takes(third)
    assert not driver.takes(OTHER)
    assert not driver.takes(GROUP)
    assert driver.takes(MAC)


def test_a_table_with_more_than_can_be_told_apart_lets_all_of_its_kind_pass(
    driver: Driver,
) -> None:
    driver.command(spec.CTRL_RX, spec.CTRL_RX_PROMISC, b"\0")
    many = [OTHER[:4] + bytes([7, index]) for index in range(spec.TABLE_MAX + 1)]
    tables = table(*many) + table()
    assert driver.command(spec.CTRL_MAC, spec.CTRL_MAC_TABLE_SET, tables) == OK
    assert driver.takes(OTHER)
    assert not driver.takes(GROUP)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        table(),
        table() + b"\0\0\0",
        table() + struct.pack("<I", 2) + GROUP,
        struct.pack("<I", 2) + OTHER + table(),
        struct.pack("<I", 0xFFFFFFFF) + OTHER * 100,
        table(OTHER) + table(GROUP) + b"x",
    ],
)
def test_a_table_that_claims_more_than_is_there_is_refused(driver: Driver, data: bytes) -> None:
    before = driver.filter.unicast, driver.filter.multicast
    assert driver.command(spec.CTRL_MAC, spec.CTRL_MAC_TABLE_SET, data) == ERR
    assert (driver.filter.unicast, driver.filter.multicast) == before


def test_the_driver_may_take_another_address(driver: Driver) -> None:
    driver.command(spec.CTRL_RX, spec.CTRL_RX_PROMISC, b"\0")
    assert driver.command(spec.CTRL_MAC, spec.CTRL_MAC_ADDR_SET, OTHER) == OK
    assert driver.takes(OTHER)
    assert not driver.takes(MAC)
    assert driver.device.read_config()[:6] == OTHER
    driver.guest.wait_config_changed()


@pytest.mark.parametrize("address", [b"", MAC[:5], MAC + b"\0", GROUP, BROADCAST, bytes(6)])
def test_what_is_no_address_is_refused(driver: Driver, address: bytes) -> None:
    assert driver.command(spec.CTRL_MAC, spec.CTRL_MAC_ADDR_SET, address) == ERR
    assert driver.device.read_config()[:6] == MAC


def test_frames_that_are_not_wanted_are_counted(driver: Driver, link: FakeLink) -> None:
    driver.command(spec.CTRL_RX, spec.CTRL_RX_PROMISC, b"\0")
    assert link.give(OTHER + MAC + bytes(50))
    assert driver.device.statistics().asdict()["rx_filtered"] == 1


# ---- VLANs ----


def test_a_vlan_is_received_once_it_is_added(driver: Driver) -> None:
    assert driver.takes(MAC)
    assert not driver.takes(MAC, vlan=7)
    assert driver.command(spec.CTRL_VLAN, spec.CTRL_VLAN_ADD, b"\7\0") == OK
    assert driver.takes(MAC, vlan=7)
    assert driver.takes(MAC, vlan=0xE007)  # of any priority
    assert not driver.takes(MAC, vlan=8)
    assert driver.command(spec.CTRL_VLAN, spec.CTRL_VLAN_DEL, b"\7\0") == OK
    assert not driver.takes(MAC, vlan=7)


@pytest.mark.parametrize(
    ("command", "data"), [(0, b""), (0, b"\1"), (0, b"\0\x10"), (2, b"\1\0"), (0, b"\1\0\0")]
)
def test_what_is_no_vlan_is_refused(driver: Driver, command: int, data: bytes) -> None:
    assert driver.command(spec.CTRL_VLAN, command, data) == ERR


def test_without_the_feature_every_vlan_is_received(make_guest: MakeGuest) -> None:
    device = Net("eth0", FakeLink(), MAC, pairs=PAIRS)
    driver = Driver(make_guest(device), device.features & ~spec.F_CTRL_VLAN)
    assert driver.takes(MAC, vlan=7)
    assert driver.command(spec.CTRL_VLAN, spec.CTRL_VLAN_ADD, b"\7\0") == ERR


# ---- the others ----


def test_an_announcement_is_asked_for_until_it_is_acknowledged(
    driver: Driver, link: FakeLink
) -> None:
    assert driver.command(spec.CTRL_ANNOUNCE, spec.CTRL_ANNOUNCE_ACK) == ERR  # nobody asked
    link.set_up(False)
    link.set_up(True)
    assert driver.device.read_config()[6] == spec.STATUS_LINK_UP | spec.STATUS_ANNOUNCE
    assert driver.command(spec.CTRL_ANNOUNCE, spec.CTRL_ANNOUNCE_ACK, b"x") == ERR
    assert driver.command(spec.CTRL_ANNOUNCE, spec.CTRL_ANNOUNCE_ACK) == OK
    assert driver.device.read_config()[6] == spec.STATUS_LINK_UP


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\1\0", OK),
        (b"\4\0", OK),
        (b"\0\0", ERR),
        (b"\5\0", ERR),
        (b"\0\x80", ERR),
        (b"\1", ERR),
        (b"\1\0\0", ERR),
    ],
)
def test_the_driver_may_use_as_many_pairs_as_there_are(
    driver: Driver, data: bytes, answer: bool
) -> None:
    assert driver.command(spec.CTRL_MQ, spec.CTRL_MQ_VQ_PAIRS_SET, data) == answer
    assert driver.device.control.pairs == (data[0] if answer else 1)


def test_without_multiple_queues_the_control_queue_is_the_third(make_guest: MakeGuest) -> None:
    device = Net("eth0", FakeLink(), MAC, pairs=PAIRS)
    driver = Driver(make_guest(device), device.features & ~spec.F_MQ)
    assert driver.command(spec.CTRL_RX, spec.CTRL_RX_PROMISC, b"\0", index=2) == OK
    assert driver.command(spec.CTRL_MQ, spec.CTRL_MQ_VQ_PAIRS_SET, b"\2\0", index=2) == ERR


def test_offloads_may_be_given_up_and_taken_back(driver: Driver, link: FakeLink) -> None:
    def ask(offloads: int, more: bytes = b"") -> bool:
        data = struct.pack("<Q", offloads) + more
        return driver.command(spec.CTRL_GUEST_OFFLOADS, spec.CTRL_GUEST_OFFLOADS_SET, data)

    assert link.accepted == spec.GUEST_OFFLOADS
    assert ask(0) == OK
    assert link.accepted == 0
    assert ask(spec.F_GUEST_CSUM | spec.F_GUEST_TSO4) == OK
    assert link.accepted == spec.F_GUEST_CSUM | spec.F_GUEST_TSO4
    assert ask(spec.F_GUEST_TSO4) == ERR  # which needs the checksum
    assert ask(spec.F_CSUM) == ERR  # the other side's
    assert ask(0, b"\0") == ERR
    assert link.accepted == spec.F_GUEST_CSUM | spec.F_GUEST_TSO4


@pytest.mark.parametrize(
    ("kind", "command", "feature"),
    [
        (spec.CTRL_RX, spec.CTRL_RX_PROMISC, spec.F_CTRL_RX),
        (spec.CTRL_RX, spec.CTRL_RX_ALLUNI, spec.F_CTRL_RX_EXTRA),
        (spec.CTRL_MAC, spec.CTRL_MAC_ADDR_SET, spec.F_CTRL_MAC_ADDR),
        (spec.CTRL_MAC, spec.CTRL_MAC_TABLE_SET, spec.F_CTRL_RX),
        (spec.CTRL_GUEST_OFFLOADS, spec.CTRL_GUEST_OFFLOADS_SET, spec.F_CTRL_GUEST_OFFLOADS),
    ],
)
def test_a_command_needs_its_feature(
    make_guest: MakeGuest, kind: int, command: int, feature: int
) -> None:
    data = {
        spec.CTRL_RX: b"\1",
        spec.CTRL_MAC: table() * 2 if command == spec.CTRL_MAC_TABLE_SET else OTHER,
        spec.CTRL_GUEST_OFFLOADS: bytes(8),
    }[kind]
    for wanted, answer in ((-1, OK), (~feature, ERR)):
        device = Net("eth0", FakeLink(ALL), MAC, pairs=PAIRS)
        driver = Driver(make_guest(device), device.features & wanted)
        assert driver.command(kind, command, data) == answer


@pytest.mark.parametrize(("kind", "command"), [(6, 0), (255, 255), (4, 1), (5, 1), (3, 1), (1, 2)])
def test_unknown_commands_are_refused(driver: Driver, kind: int, command: int) -> None:
    assert driver.command(kind, command, bytes(8)) == ERR


@pytest.mark.parametrize("readable", [[], [b"\0"], [bytes(70000)]])
def test_a_command_that_is_cut_short_or_endless_is_refused(
    driver: Driver, readable: list[bytes]
) -> None:
    assert driver.guest.queues[CONTROL].request(readable, [1]) == b"\1"


def test_a_command_without_room_for_an_answer_breaks_the_device(driver: Driver) -> None:
    driver.guest.queues[CONTROL].add([b"\0\0\1"])
    driver.guest.queues[CONTROL].kick()
    driver.guest.wait_reset_wanted()


@pytest.fixture(scope="module")
def shared() -> Iterator[Driver]:
    guest = Guest(Net("eth0", FakeLink(ALL), MAC, pairs=PAIRS))
    yield Driver(guest)
    guest.close()


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=3), st.integers(0, 6), st.integers(0, 6))
def test_every_command_is_answered(
    shared: Driver, parts: list[bytes], kind: int, command: int
) -> None:
    answer = shared.guest.queues[CONTROL].request([bytes([kind, command]), *parts], [1])
    assert answer in (b"\0", b"\1")


def test_without_a_control_queue_a_third_queue_is_none(make_guest: MakeGuest) -> None:
    device = Net("eth0", FakeLink(), MAC)
    driver = Driver(make_guest(device), virtio_spec.F_VERSION_1 | spec.F_MQ | spec.F_CTRL_RX)
    assert device.control.index is None
    assert device.negotiated & (spec.F_MQ | spec.F_CTRL_RX) == 0
    driver.guest.queues[2].add([b"\0\0\1"], [20])
    driver.guest.queues[2].kick()  # it is a receive queue that is never used
    assert driver.guest.queues[1].request([bytes(12), MAC + OTHER + bytes(50)]) == b""
