"""The network device: frames both ways, mergeable buffers, bad frames, its life."""

from __future__ import annotations

import errno
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.events import Event, LinkChanged
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.net import Net
from pyvmm.virtio.net_frame import WHOLE
from tests.fakes.driver import PACKED, Driver, Guest
from tests.fakes.link import FakeLink
from tests.unit.virtio.conftest import MakeGuest

RX, TX = 0, 1
MAC = bytes.fromhex("525400123456")
PEER = bytes.fromhex("525400654321")
ALL = spec.HOST_OFFLOADS | spec.GUEST_OFFLOADS
RING = virtio_spec.F_VERSION_1 | virtio_spec.F_EVENT_IDX | virtio_spec.F_INDIRECT_DESC


def frame(length: int = 60, to: bytes = MAC, kind: int = 0x88B5) -> bytes:
    payload = bytes(index & 0xFF for index in range(length - 14))
    return to + PEER + kind.to_bytes(2, "big") + payload


def ipv4(ports: bytes, swap: bool = False) -> bytes:
    """A frame of a flow; the other direction's with `swap`."""
    ends = [b"\x0a\0\0\1", b"\x0a\0\0\2"]
    both = [ports[:2], ports[2:]]
    if swap:
        ends.reverse()
        both.reverse()
    return frame(14, kind=0x0800) + bytes(12) + b"".join(ends) + b"".join(both) + bytes(20)


def header(
    flags: int = 0, gso: int = 0, length: int = 0, size: int = 0, start: int = 0, offset: int = 0
) -> bytes:
    return spec.HEADER.pack(flags, gso, length, size, start, offset, 0)


class Network:
    def __init__(self, guest: Guest, link: FakeLink, features: int | None, packed: bool) -> None:
        self.guest, self.link = guest, link
        assert isinstance(guest.device, Net)
        self.device = guest.device
        if packed:
            guest.device.features |= virtio_spec.F_RING_PACKED
        guest.start(features)

    @property
    def rx(self) -> Driver:
        return self.guest.queues[RX]

    @property
    def tx(self) -> Driver:
        return self.guest.queues[TX]

    def buffers(self, *sizes: int) -> None:
        """Offer receive buffers."""
        for size in sizes:
            self.rx.add(writable=[size])
        self.rx.kick()

    def send(self, data: bytes, head: bytes = WHOLE) -> None:
        """Send a frame, and wait until the buffer is back."""
        self.tx.request([head, data])

    def count(self, name: str) -> int:
        return self.device.statistics().asdict()[name]


MakeNet = Callable[..., Network]


@pytest.fixture
def make_net(make_guest: MakeGuest) -> MakeNet:
    def make(
        link: FakeLink | None = None,
        features: int | None = None,
        packed: bool = False,
        **options: Any,
    ) -> Network:
        link = link or FakeLink()
        return Network(make_guest(Net("eth0", link, MAC, **options)), link, features, packed)

    return make


@pytest.fixture
def net(make_net: MakeNet) -> Network:
    return make_net()


# ---- from the guest ----


@pytest.mark.parametrize("packed", [False, True])
def test_a_frame_reaches_the_link_as_it_was_sent(make_net: MakeNet, packed: bool) -> None:
    net = make_net(packed=packed)
    net.send(frame(1514))
    assert net.link.sent == [(WHOLE, frame(1514))]
    assert net.count("tx_frames") == 1
    assert net.count("tx_bytes") == 1514


@settings(deadline=None)
@given(cuts=st.lists(st.integers(1, 71), max_size=6, unique=True))
def test_any_framing_of_header_and_frame_means_the_same(cuts: list[int]) -> None:
    whole, link = WHOLE + frame(60), FakeLink()
    guest = Guest(Net("eth0", link, MAC))
    guest.start()
    edges = [0, *sorted(cuts), len(whole)]
    parts = [whole[start:end] for start, end in itertools.pairwise(edges)]
    guest.queues[TX].request(parts)
    guest.close()
    assert link.sent == [(WHOLE, frame(60))]


def test_frames_are_sent_in_their_order(net: Network) -> None:
    for length in range(60, 80):
        net.tx.add([WHOLE, frame(length)])
    net.tx.kick()
    net.tx.wait(20)
    assert [len(data) for _, data in net.link.sent] == list(range(60, 80))


def test_nothing_is_said_to_be_written_to_what_was_sent(net: Network) -> None:
    net.tx.add([WHOLE, frame()])
    net.tx.kick()
    assert [used.length for used in net.tx.wait()] == [0]


@pytest.mark.parametrize(
    ("parts", "wrong"),
    [
        ([WHOLE], "is too short"),
        ([WHOLE[:11]], "is too short"),
        ([WHOLE, frame(14)[:13]], "is too short"),
        ([WHOLE, frame(1523)], "has 1523 bytes, more than 1522"),
    ],
)
def test_a_frame_of_wrong_length_is_dropped_and_counted(
    net: Network, caplog: pytest.LogCaptureFixture, parts: list[bytes], wrong: str
) -> None:
    net.tx.request(parts)
    assert not net.link.sent
    assert net.count("tx_invalid") == 1
    assert f"eth0: the guest's driver sent a frame that {wrong}" in caplog.text
    net.send(frame())
    assert len(net.link.sent) == 1


def test_an_empty_buffer_is_dropped_and_returned(net: Network) -> None:
    net.tx.request(writable=[16])
    assert net.count("tx_invalid") == 1


def test_a_link_without_room_makes_frames_wait(net: Network) -> None:
    net.link.error = BlockingIOError()
    for length in (60, 61, 62):
        net.tx.add([WHOLE, frame(length)])
    net.tx.kick()
    net.link.call(lambda: None)
    net.link.error = None
    assert net.tx.collect() == []
    net.link.call(net.link.changed)
    net.tx.wait(3)
    assert [len(data) for _, data in net.link.sent] == [60, 61, 62]
    assert not net.count("tx_dropped")


def test_a_failing_link_drops_frames_and_says_so_once(
    net: Network, caplog: pytest.LogCaptureFixture
) -> None:
    net.link.error = OSError(errno.ENETDOWN, "Network is down")
    for _ in range(3):
        net.send(frame())
    assert net.count("tx_dropped") == 3
    assert caplog.text.count("a frame was not sent: Network is down") == 1


# ---- to the guest ----


@pytest.mark.parametrize("packed", [False, True])
def test_a_received_frame_fills_one_buffer(make_net: MakeNet, packed: bool) -> None:
    net = make_net(packed=packed)
    net.buffers(2048, 2048)
    assert net.link.give(frame(1514))
    (used,) = net.rx.wait()
    assert used.data == header()[:10] + b"\1\0" + frame(1514)
    assert used.length == 12 + 1514
    assert net.count("rx_frames") == 1
    assert net.count("rx_bytes") == 1514


def test_a_large_frame_is_merged_from_buffers(net: Network) -> None:
    net.buffers(100, 30, 12, 1000)
    assert net.link.give(frame(200))
    used = net.rx.wait(4)
    whole = b"".join(one.data for one in used)
    assert whole == header()[:10] + b"\4\0" + frame(200)
    assert [one.length for one in used] == [100, 30, 12, 70]


def test_the_header_may_fill_its_buffer_alone(net: Network) -> None:
    net.buffers(12, 60)
    assert net.link.give(frame(60))
    assert [one.data for one in net.rx.wait(2)] == [header()[:10] + b"\2\0", frame(60)]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(12, 300), min_size=1, max_size=20), length=st.integers(14, 1514))
def test_what_is_merged_is_whole_or_waits(sizes: list[int], length: int) -> None:
    link = FakeLink()
    guest = Guest(Net("eth0", link, MAC))
    guest.start()
    for size in sizes:
        guest.queues[RX].add(writable=[size])
    guest.queues[RX].kick()
    taken = link.give(frame(length))
    used = guest.queues[RX].collect()
    guest.close()
    assert taken == (sum(sizes) >= length + 12)
    whole = b"".join(one.data for one in used)
    if taken:
        assert whole[12:] == frame(length)
        assert int.from_bytes(whole[10:12], "little") == len(used)
    else:
        assert not used


def test_a_frame_waits_for_room_and_none_is_lost(net: Network) -> None:
    net.buffers(100)
    assert net.link.give(frame(60))
    assert not net.link.give(frame(61))
    assert not net.count("rx_dropped")
    net.buffers(100, 100)
    assert net.link.woken.acquire(timeout=20)
    assert [one.data[12:] for one in net.rx.wait(2)] == [frame(60), frame(61)]


def test_buffers_that_did_not_suffice_are_used_when_there_are_more(net: Network) -> None:
    net.buffers(40, 40)
    assert not net.link.give(frame(100))
    net.buffers(40)
    assert b"".join(one.data for one in net.rx.wait(3))[12:] == frame(100)


def test_a_frame_that_no_number_of_buffers_holds_is_dropped(make_guest: MakeGuest) -> None:
    link = FakeLink()
    guest = make_guest(Net("eth0", link, MAC))
    guest.start(size=4)
    for _ in range(4):
        guest.queues[RX].add(writable=[20])
    guest.queues[RX].kick()
    assert link.give(frame(100))
    assert guest.device.statistics().asdict()["rx_dropped"] == 1  # type: ignore[attr-defined]
    assert link.give(frame(60))  # 12 + 60 bytes fit
    assert len(guest.queues[RX].wait(4)) == 4


def test_without_mergeable_buffers_a_frame_that_is_too_long_is_dropped(make_net: MakeNet) -> None:
    net = make_net(features=RING)
    net.buffers(100, 100)
    assert net.link.give(frame(89))
    assert net.count("rx_dropped") == 1
    assert net.link.give(frame(88))
    assert net.rx.wait()[0].data == header()[:10] + b"\1\0" + frame(88)


@pytest.mark.parametrize("room", [[], [11], [5, 6]])
def test_a_buffer_without_room_for_the_header_breaks_the_device(
    net: Network, room: list[int]
) -> None:
    net.rx.add([b"x"], room)
    net.rx.kick()
    net.link.give(frame())
    net.guest.wait_reset_wanted()
    assert net.link.give(frame())  # and is dropped
    assert net.count("rx_dropped") == 1


def test_a_header_of_the_link_reaches_the_driver(make_net: MakeNet) -> None:
    net = make_net(FakeLink(ALL))
    net.buffers(2048)
    head = header(spec.HDR_F_NEEDS_CSUM, spec.GSO_TCPV4, 54, 1448, 34, 16)
    net.link.give(frame(100), head)
    assert net.rx.wait()[0].data[:12] == head[:10] + b"\1\0"


def test_a_link_may_answer_while_it_is_sent_to(net: Network) -> None:
    def echo(parts: list[memoryview]) -> None:
        assert net.link.receive((WHOLE, b"".join(parts[1:])))

    net.link.send = echo  # type: ignore[method-assign,assignment]
    net.buffers(100)
    net.send(frame())
    assert net.rx.wait()[0].data[12:] == frame()


def test_a_device_that_an_answer_breaks_sends_no_more(net: Network) -> None:
    def echo(parts: list[memoryview]) -> None:
        net.link.sent.append((WHOLE, b""))
        net.link.receive((WHOLE, b"".join(parts[1:])))

    net.link.send = echo  # type: ignore[method-assign,assignment]
    net.buffers(1)
    net.tx.add([WHOLE, frame()])
    net.tx.add([WHOLE, frame()])
    net.tx.kick()
    net.guest.wait_reset_wanted()
    net.link.call(lambda: None)
    assert len(net.link.sent) == 1


# ---- offloads ----


def offered(link: FakeLink, **options: int) -> int:
    device = Net("eth0", link, MAC, **options)
    device.close()
    return device.features


def test_only_what_the_link_can_do_is_offered() -> None:
    assert not offered(FakeLink()) & (ALL | spec.F_CTRL_GUEST_OFFLOADS)
    some = spec.F_CSUM | spec.F_HOST_TSO4 | spec.F_GUEST_CSUM
    assert offered(FakeLink(some)) & ALL == some
    assert offered(FakeLink(some)) & spec.F_CTRL_GUEST_OFFLOADS
    assert offered(FakeLink(spec.F_HOST_TSO4 | spec.F_GUEST_TSO6)) & ALL == 0  # without checksums


def test_the_link_learns_what_the_driver_takes(make_net: MakeNet) -> None:
    taken = spec.F_GUEST_CSUM | spec.F_GUEST_TSO4
    net = make_net(FakeLink(ALL), features=RING | taken | spec.F_CSUM)
    assert net.link.accepted == taken
    without_checksum = spec.F_GUEST_TSO4 | spec.F_GUEST_ECN
    net.guest.reset()
    net.guest.start(RING | without_checksum)
    assert net.link.accepted == 0


def test_offloads_that_were_negotiated_are_passed_on(make_net: MakeNet) -> None:
    net = make_net(FakeLink(ALL))
    head = header(spec.HDR_F_NEEDS_CSUM, spec.GSO_TCPV4, 54, 1448, 34, 16)
    net.send(frame(60000), head)
    assert net.link.sent == [(head, frame(60000))]


def test_a_wrong_header_is_dropped_and_counted(make_net: MakeNet) -> None:
    net = make_net(FakeLink(ALL))
    net.send(frame(), header(spec.HDR_F_NEEDS_CSUM, start=58, offset=1))
    net.send(frame(), header(gso=spec.GSO_TCPV4, size=1448))
    assert net.count("tx_invalid") == 2
    assert not net.link.sent


# ---- multiple queues ----


def test_a_flow_is_received_where_it_is_sent(make_net: MakeNet) -> None:
    net = make_net(pairs=3)
    queues = net.guest.queues
    assert len(queues) == 7
    assert queues[6].request([bytes([4, 0]) + b"\3\0"], [1]) == b"\0"
    for index in (0, 2, 4):
        queues[index].add(writable=[200])
        queues[index].kick()
    queues[5].request([WHOLE, ipv4(b"\0\1\0\2")])
    queues[3].request([WHOLE, ipv4(b"\0\5\0\6")])
    net.link.give(ipv4(b"\0\1\0\2", swap=True))
    net.link.give(ipv4(b"\0\5\0\6", swap=True))
    net.link.give(ipv4(b"\0\7\0\7"))
    assert queues[4].wait()[0].data[12:] == ipv4(b"\0\1\0\2", swap=True)
    assert queues[2].wait()[0].data[12:] == ipv4(b"\0\5\0\6", swap=True)
    assert queues[0].wait()[0].data[12:] == ipv4(b"\0\7\0\7")


def test_only_the_first_pair_receives_until_the_driver_asks_for_more(make_net: MakeNet) -> None:
    net = make_net(pairs=2)
    queues = net.guest.queues
    for index in (0, 2):
        queues[index].add(writable=[200])
        queues[index].kick()
    queues[3].request([WHOLE, ipv4(b"\0\1\0\2")])
    net.link.give(ipv4(b"\0\1\0\2", swap=True))
    assert queues[0].wait()
    assert not queues[2].collect()


def test_a_pair_that_is_not_in_use_receives_nothing(make_net: MakeNet) -> None:
    net = make_net(pairs=3)
    queues = net.guest.queues
    assert queues[6].request([bytes([4, 0]) + b"\2\0"], [1]) == b"\0"
    for index in (0, 4):
        queues[index].add(writable=[200])
        queues[index].kick()
    queues[5].request([WHOLE, ipv4(b"\0\1\0\2")])
    net.link.give(ipv4(b"\0\1\0\2", swap=True))
    assert queues[0].wait()
    assert not queues[4].collect()


def test_what_waits_for_a_queue_goes_to_another_when_it_is_given_up(make_net: MakeNet) -> None:
    net = make_net(pairs=2)
    queues = net.guest.queues
    assert queues[4].request([bytes([4, 0]) + b"\2\0"], [1]) == b"\0"
    queues[3].request([WHOLE, ipv4(b"\0\1\0\2")])
    net.buffers(200)
    assert not net.link.give(ipv4(b"\0\1\0\2", swap=True))
    assert queues[4].request([bytes([4, 0]) + b"\1\0"], [1]) == b"\0"
    assert queues[0].wait()[0].data[12:] == ipv4(b"\0\1\0\2", swap=True)


# ---- link and life ----


def test_configuration_tells_mac_link_queues_and_mtu(make_net: MakeNet) -> None:
    net = make_net(FakeLink(mtu=9000), pairs=2)
    assert net.device.read_config() == MAC + b"\1\0" + b"\2\0" + (9000).to_bytes(2, "little")
    assert net.device.features & spec.F_MTU
    assert offered(FakeLink(), mtu=1280) & spec.F_MTU
    assert not offered(FakeLink(mtu=spec.MTU_MAX)) & spec.F_MTU


def test_a_driver_that_does_not_know_the_mtu_may_send_what_the_link_carries(
    make_net: MakeNet,
) -> None:
    net = make_net(mtu=1280)
    net.send(frame(1514))
    assert net.link.sent == [(WHOLE, frame(1514))]


def test_a_driver_that_knows_the_mtu_gets_no_longer_frame(make_net: MakeNet) -> None:
    net = make_net(FakeLink(ALL, mtu=1280))
    net.buffers(*[2048] * 3)
    assert net.link.give(frame(1280 + 23))
    assert net.count("rx_dropped") == 1
    to_be_cut = header(spec.HDR_F_NEEDS_CSUM, spec.GSO_TCPV4, 54, 1200, 34, 16)
    for length, head in ((1280 + 22, WHOLE), (1800, to_be_cut)):
        assert net.link.give(frame(length), head)
        assert net.rx.wait()[0].data[12:] == frame(length)
    net.guest.reset()
    net.guest.start(RING)
    net.buffers(2048)
    assert net.link.give(frame(1280 + 23))
    assert net.rx.wait()


def test_the_driver_learns_of_a_pulled_cable(make_net: MakeNet) -> None:
    told: list[Event] = []
    net = make_net(tell=told.append)
    net.buffers(100)
    net.device.set_link(False)
    net.guest.wait_config_changed()
    assert net.device.read_config()[6] == 0
    assert net.link.give(frame())
    net.send(frame())
    assert (net.count("rx_dropped"), net.count("tx_dropped")) == (1, 1)
    net.device.set_link(True)
    net.guest.wait_config_changed()
    assert net.device.read_config()[6] == spec.STATUS_LINK_UP | spec.STATUS_ANNOUNCE
    assert net.link.give(frame())
    assert net.rx.wait()
    assert told == [LinkChanged("eth0", False), LinkChanged("eth0", True)]


def test_a_link_that_is_down_is_down_whatever_the_user_says(net: Network) -> None:
    net.link.set_up(False)
    net.guest.wait_config_changed()
    net.device.set_link(True)
    net.link.call(lambda: None)
    assert net.device.read_config()[6] == 0


def test_frames_before_the_driver_are_dropped(make_guest: MakeGuest) -> None:
    link = FakeLink()
    device = Net("eth0", link, MAC)
    make_guest(device)
    assert link.give(frame())
    assert device.statistics().asdict()["rx_dropped"] == 1


def test_frames_wait_while_the_device_may_not_reach_memory(net: Network) -> None:
    net.buffers(100)
    net.device.worker.call(net.device.quiesce)
    assert not net.link.give(frame())
    assert not net.rx.collect()
    net.device.worker.call(net.device.resume)
    assert net.rx.wait()[0].data[12:] == frame()


def test_a_reset_lets_go_what_waits_for_room(net: Network) -> None:
    assert not net.link.give(frame())
    net.guest.reset()
    assert net.link.woken.acquire(timeout=20)
    assert not net.link.waiting
    assert net.count("rx_dropped") == 1


def test_after_a_reset_everything_is_as_before(make_net: MakeNet) -> None:
    net = make_net(pairs=2)
    control = net.guest.queues[4]
    assert control.request([bytes([4, 0]) + b"\2\0"], [1]) == b"\0"
    assert control.request([bytes([1, 1]) + PEER], [1]) == b"\0"
    net.link.error = BlockingIOError()
    net.tx.add([WHOLE, frame()])
    net.tx.kick()
    net.guest.reset()
    net.link.error = None
    assert net.device.read_config()[:6] == MAC
    net.guest.start()
    assert net.device.control.pairs == 1
    net.send(frame(61))
    assert net.link.sent == [(WHOLE, frame(61))]


def test_buffers_of_before_a_reset_are_not_touched(net: Network) -> None:
    net.buffers(40)
    assert not net.link.give(frame(100))
    (old,) = net.rx.requests.values()
    net.guest.reset()
    net.guest.start()
    net.guest.memory.write(*old.writable[0][:1], b"y" * 40)
    net.rx.place(64)
    net.buffers(200)
    assert net.link.give(frame(100))
    assert net.rx.wait()[0].data[12:] == frame(100)


def test_a_rebooting_guest_may_flood(net: Network) -> None:
    for _ in range(20):
        for _ in range(30):
            net.tx.add([WHOLE, frame()])
        net.tx.kick()
        net.link.give(frame())
        net.guest.reset()
        net.guest.start()
    net.send(frame(61))
    assert net.link.sent[-1] == (WHOLE, frame(61))


def test_closing_the_device_closes_its_link() -> None:
    link = FakeLink()
    guest = Guest(Net("eth0", link, MAC))
    guest.start()
    guest.close()
    assert link.closed


def test_bad_frames_do_not_fill_the_log(net: Network, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(100):
        net.send(b"short")
    assert net.count("tx_invalid") == 100
    assert len(caplog.records) == 16


# ---- malice ----

RAM = 8 << 20
ADDRESSES = st.sampled_from([0, 0x1000, 0x2000, RAM - 100, RAM - 1, RAM, (1 << 64) - 8])
LENGTHS = st.sampled_from([0, 1, 11, 12, 13, 26, 60, 100, 1514, 1537, 70000, RAM, (1 << 32) - 1])
FLAGS = st.sampled_from([0, 0, 0, 2, 2, 2, 4, 6, 0x7F7E])  # not those that a ring is made of
CHAINS = st.lists(
    st.lists(st.tuples(ADDRESSES, LENGTHS, FLAGS), min_size=1, max_size=4), max_size=8
)


@settings(max_examples=50, deadline=None)
@given(CHAINS, st.sampled_from([RX, TX, 2]), st.binary(max_size=64), st.booleans())
def test_whatever_a_queue_holds_is_answered_or_needs_a_reset(
    chains: list[list[tuple[int, int, int]]], index: int, content: bytes, packed: bool
) -> None:
    link = FakeLink(ALL)
    guest = Guest(Net("eth0", link, MAC))
    features = guest.device.features | (PACKED if packed else 0)
    guest.start(features)
    guest.memory.write(0x1000, content * 60)
    queue = guest.queues[index]
    for chain in chains:
        queue.add_descriptors(chain)
    queue.kick()
    for length in (14, 60, 1514):
        link.give(frame(length))
    link.call(lambda: None)
    if index != RX and not guest.reset_wanted.is_set():
        queue.wait(len(chains)) if chains else None
    assert all(len(data) <= 65597 for _, data in link.sent)
    guest.reset()
    guest.start(RING)
    link.sent.clear()
    guest.queues[TX].request([WHOLE, frame()])
    assert link.sent == [(WHOLE, frame())]
    guest.close()
