"""A network device whose queues csrc/user.c walks, with a libslirp that is the test."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator

import pytest

from pyvmm.layout import MIB
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.net_frame import OVERHEAD
from pyvmm.virtio.user_net import UserNet
from tests.fakes.driver import PACKED, PATIENCE, SPLIT, Driver, Guest
from tests.fakes.netdriver import HEADER, MAC, frame, pieces, send
from tests.fakes.user import KEPT_MAX, Peer

MERGED = SPLIT | spec.F_MRG_RXBUF
NO_EVENTS = MERGED & ~virtio_spec.F_EVENT_IDX
FORMATS = {"split": MERGED, "packed": MERGED | PACKED, "flags": NO_EVENTS}
RECEIVE, TRANSMIT = 0, 1


class Rig:
    """A device and its guest."""

    def __init__(self, mtu: int | None = None) -> None:
        self.peer = Peer()
        self.net = UserNet("eth0", self.peer, MAC, mtu=mtu)
        self.guest = Guest(self.net, memory=16 * MIB)

    def start(self, features: int = MERGED, size: int = 64) -> tuple[Driver, Driver]:
        self.guest.start(features, size=size)
        return self.guest.queues[RECEIVE], self.guest.queues[TRANSMIT]

    def give(self, *frames: bytes) -> None:
        """Frames for the guest, in one turn."""

        def give() -> None:
            for one in frames:
                self.peer.take(one)
            self.peer.turn()

        self.net.worker.call(give)

    def settle(self) -> None:
        """Let what is due happen."""
        for _ in range(2):
            self.net.worker.call(lambda: None)

    @property
    def counters(self) -> dict[str, int]:
        self.settle()
        return self.net.statistics().asdict()  # type: ignore[union-attr]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.guest.close()


@pytest.fixture(params=FORMATS)
def features(request: pytest.FixtureRequest) -> int:
    return FORMATS[request.param]


def received(queue: Driver, tokens: list[int]) -> bytes:
    """One frame in buffers that the device gives back in order."""
    used = queue.wait()
    count = spec.HEADER.unpack(used[0].data[: spec.HEADER.size])[-1]
    assert used[0].data[: spec.HEADER.size - 2] == HEADER[:-2]
    assert [one.token for one in used] == tokens[:count]
    del tokens[:count]
    return b"".join(one.data for one in used)[len(HEADER) :]


# ---- from the guest ----


def test_frames_are_sent_whatever_buffers_they_are_in(rig: Rig, features: int) -> None:
    _, queue = rig.start(features)
    rng = random.Random(1)
    for number in range(200):
        data = frame(rng.randrange(14, 3000), number)
        send(queue, *pieces(HEADER + data, rng), indirect=bool(number % 2))
        assert rig.peer.sent.get(timeout=PATIENCE) == data
    assert rig.counters["tx_frames"] == 200


def test_frames_are_sent_in_order_more_than_one_turn_takes(rig: Rig, features: int) -> None:
    _, queue = rig.start(features, size=256)
    frames = [frame(60, number) for number in range(200)]
    for data in frames:
        queue.add([HEADER + data])
    queue.kick()
    queue.wait(len(frames))
    assert [rig.peer.sent.get(timeout=PATIENCE) for _ in frames] == frames
    assert rig.net.interrupts is not None
    assert rig.net.interrupts < len(frames)


def test_the_longest_frame_is_sent_and_one_that_is_longer_is_not(rig: Rig) -> None:
    _, queue = rig.start()
    longest = frame(Peer.mtu + OVERHEAD)
    send(queue, HEADER, longest[:30000], longest[30000:])
    assert rig.peer.sent.get(timeout=PATIENCE) == longest
    send(queue, HEADER, longest, b"x")
    assert rig.counters["tx_invalid"] == 1
    assert rig.peer.sent.empty()


BAD = {
    "is too short": [b"x" * 11],
    "is too short ": [HEADER, b"x" * 13],
    "must have its checksum": [spec.HEADER.pack(1, 0, 0, 0, 14, 2, 0), frame(60)],
    "must have its checksum ": [spec.HEADER.pack(0, 1, 54, 1448, 0, 0, 0), frame(60)],
    "has 70000 bytes": [HEADER, bytes(70000)],
}


@pytest.mark.parametrize("complaint", BAD)
def test_a_bad_frame_is_named_and_counted_and_not_sent(
    rig: Rig, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, queue = rig.start()
    with caplog.at_level(logging.WARNING):
        send(queue, *BAD[complaint])
        assert rig.counters["tx_invalid"] == 1
    assert f"sent a frame that {complaint.strip()}" in caplog.text
    send(queue, HEADER, frame(60))
    assert rig.peer.sent.get(timeout=PATIENCE) == frame(60)
    assert rig.counters["tx_invalid"] == 1


def test_a_chain_with_nothing_to_read_is_a_bad_frame(rig: Rig) -> None:
    _, queue = rig.start()
    queue.request([], [64])
    assert rig.counters["tx_invalid"] == 1


# ---- to the guest ----


def test_a_frame_takes_as_many_buffers_as_it_needs(rig: Rig, features: int) -> None:
    queue, _ = rig.start(features)
    rng = random.Random(2)
    tokens = [queue.add([], [rng.randrange(20, 100), rng.randrange(1, 900)]) for _ in range(32)]
    queue.kick()
    for number, length in enumerate([14, 60, 1514, 500, 1514, 64, 1000]):
        rig.give(frame(length, number))
        assert received(queue, tokens) == frame(length, number)
    counters = rig.counters
    assert counters["rx_frames"] == 7
    assert counters["rx_bytes"] == 14 + 60 + 1514 + 500 + 1514 + 64 + 1000


def test_a_burst_is_one_interrupt(rig: Rig, features: int) -> None:
    queue, _ = rig.start(features)
    for _ in range(20):
        queue.add([], [200])
    queue.kick()
    queue.enable_interrupts()
    rig.give(*(frame(60, number) for number in range(20)))
    assert [one.data[12:] for one in queue.wait(20)] == [frame(60, n) for n in range(20)]
    assert rig.net.interrupts == 1


def test_an_answer_that_comes_while_a_frame_is_sent_is_received(rig: Rig, features: int) -> None:
    receive, transmit = rig.start(features)
    tokens = [receive.add([], [100, 30]) for _ in range(30)]
    receive.kick()
    rig.peer.answers = [frame(300, 1), frame(60, 2)]
    for number in range(5):
        send(transmit, HEADER + frame(100, number)[:50], frame(100, number)[50:])
        assert rig.peer.sent.get(timeout=PATIENCE) == frame(100, number)
        used = receive.wait(4)
        assert [one.token for one in used] == tokens[:4]
        assert b"".join(one.data for one in used[:3])[12:] == frame(300, 1)
        assert used[3].data[12:] == frame(60, 2)
        del tokens[:4]


def test_without_mergeable_buffers_what_one_cannot_hold_is_dropped(rig: Rig, features: int) -> None:
    queue, _ = rig.start(features & ~spec.F_MRG_RXBUF)
    tokens = [queue.add([], [12, 100]) for _ in range(4)]
    queue.kick()
    rig.give(frame(101), frame(100))
    assert received(queue, tokens) == frame(100)
    assert rig.counters["rx_dropped"] == 1


def test_frames_wait_in_order_for_the_buffers_that_they_need(rig: Rig, features: int) -> None:
    queue, _ = rig.start(features)
    tokens = [queue.add([], [400])]
    queue.kick()
    rig.give(frame(1500, 5))
    rig.give(frame(100, 6), frame(100, 7))
    assert rig.peer.native.kept == 1700
    for count in (1, 1, 3):
        rig.settle()
        assert not queue.collect()
        tokens += [queue.add([], [400]) for _ in range(count)]
        queue.kick()
    used = queue.wait(6)
    assert [one.token for one in used] == tokens
    assert b"".join(one.data for one in used[:4])[12:] == frame(1500, 5)
    assert [one.data[12:] for one in used[4:]] == [frame(100, 6), frame(100, 7)]
    rig.settle()
    assert rig.peer.native.kept == 0


def test_only_so_much_waits(rig: Rig) -> None:
    queue, _ = rig.start()
    rig.give(*(frame(1000, number) for number in range(9)))
    assert rig.peer.native.kept == KEPT_MAX
    for _ in range(9):
        queue.add([], [2000])
    queue.kick()
    assert [one.data[12:] for one in queue.wait(4)] == [frame(1000, n) for n in range(4)]
    assert rig.counters["rx_frames"] == 4


def test_a_frame_that_the_whole_ring_cannot_hold_is_dropped(rig: Rig, features: int) -> None:
    queue, _ = rig.start(features, size=4)
    tokens = [queue.add([], [100]) for _ in range(4)]
    queue.kick()
    rig.give(frame(1500), frame(300))
    assert received(queue, tokens) == frame(300)
    assert rig.counters["rx_dropped"] == 1


def test_buffers_of_a_few_bytes_without_end_hold_nothing_up(rig: Rig) -> None:
    """More of them than are looked at for one frame: it is dropped, and the next is seen to."""
    queue, _ = rig.start(size=256)
    for _ in range(20):
        queue.add([], [12, *[1] * 60], indirect=True)
    queue.kick()
    rig.give(frame(1514))
    assert rig.peer.native.kept == 0
    assert rig.counters["rx_dropped"] == 1


@pytest.mark.parametrize("negotiated", [spec.F_MTU, 0])
def test_a_driver_that_knows_the_mtu_gets_no_longer_frame(negotiated: int) -> None:
    rig = Rig(mtu=1000)
    queue, _ = rig.start(MERGED | negotiated)
    for _ in range(4):
        queue.add([], [4000])
    queue.kick()
    rig.give(frame(1001 + OVERHEAD, 1), frame(1000 + OVERHEAD, 2))
    used = queue.wait(1 if negotiated else 2)
    assert used[-1].data[12:] == frame(1000 + OVERHEAD, 2)
    assert rig.counters["rx_dropped"] == bool(negotiated)
    rig.guest.close()


# ---- life ----


def test_it_is_C_that_moves_the_frames(rig: Rig) -> None:
    _, queue = rig.start()
    send(queue, HEADER, frame(60))
    assert rig.net.data_path == "C"
    positions: list[dict[int, int]] = []
    rig.net.worker.call(lambda: positions.append(rig.net.positions()))
    assert positions[0][TRANSMIT] == 1


def test_frames_are_counted_across_resets(rig: Rig) -> None:
    rig.give(frame(60))
    for count in (1, 2):
        _, queue = rig.start()
        send(queue, HEADER, frame(60))
        assert rig.counters["tx_frames"] == count
        rig.guest.reset()
        assert rig.counters["tx_frames"] == count
    assert rig.counters["rx_dropped"] == 1


def test_what_waits_for_room_is_dropped_with_the_driver(rig: Rig) -> None:
    rig.start()
    rig.give(frame(60), frame(60))
    rig.guest.reset()
    assert rig.peer.native.kept == 0
    assert rig.counters["rx_dropped"] == 2


def test_nothing_is_touched_while_it_is_quiesced(rig: Rig, features: int) -> None:
    receive, transmit = rig.start(features)
    tokens = [receive.add([], [400]) for _ in range(8)]
    receive.kick()
    rig.give(frame(60, 1))
    assert received(receive, tokens) == frame(60, 1)
    rig.net.worker.call(rig.net.quiesce)
    transmit.add([HEADER + frame(60, 3)])
    transmit.kick()
    before = rig.guest.memory.read(0, rig.guest.memory.size)
    rig.give(frame(1000, 2))
    rig.settle()
    assert rig.peer.sent.empty()
    assert rig.guest.memory.read(0, rig.guest.memory.size) == before
    rig.net.worker.call(rig.net.resume)
    assert received(receive, tokens) == frame(1000, 2)
    assert rig.peer.sent.get(timeout=PATIENCE) == frame(60, 3)


def test_a_link_that_is_down_drops_both_ways(rig: Rig) -> None:
    receive, transmit = rig.start(MERGED | spec.F_STATUS)
    rig.net.set_link(False)
    rig.guest.wait_config_changed()
    tokens = [receive.add([], [400])]
    receive.kick()
    send(transmit, HEADER, frame(60))
    rig.give(frame(70))
    assert rig.peer.sent.empty()
    counters = rig.counters
    assert (counters["tx_dropped"], counters["rx_dropped"]) == (1, 1)
    rig.net.set_link(True)
    rig.give(frame(80))
    assert received(receive, tokens) == frame(80)


@pytest.mark.parametrize("index", [RECEIVE, TRANSMIT])
def test_a_broken_ring_ends_it_until_a_reset(rig: Rig, features: int, index: int) -> None:
    queue = rig.start(features)[index]
    flags = virtio_spec.DESC_F_WRITE if index == RECEIVE else 0
    queue.add_descriptors([(1 << 40, 100, flags)])
    queue.kick()
    rig.give(frame(60))
    rig.guest.wait_reset_wanted()
    rig.guest.reset()
    _, transmit = rig.start(features)
    send(transmit, HEADER, frame(60))
    assert rig.peer.sent.get(timeout=PATIENCE) == frame(60)


def test_an_answer_to_a_broken_receive_queue_ends_sending_too(rig: Rig) -> None:
    receive, transmit = rig.start()
    receive.add([], [11])
    receive.kick()
    rig.peer.answers = [frame(60)]
    for _ in range(3):
        transmit.add([HEADER + frame(60)])
    transmit.kick()
    rig.guest.wait_reset_wanted()
    assert rig.peer.sent.qsize() == 1


@pytest.mark.parametrize("index", [RECEIVE, TRANSMIT])
def test_a_driver_may_use_one_queue_of_the_pair(rig: Rig, index: int) -> None:
    rig.guest.start(MERGED, queues=[index])
    queue = rig.guest.queues[index]
    if index == TRANSMIT:
        rig.give(frame(60))
        send(queue, HEADER, frame(60))
        assert rig.peer.sent.get(timeout=PATIENCE) == frame(60)
        assert rig.counters["rx_dropped"] == 1
    else:
        tokens = [queue.add([], [400])]
        queue.kick()
        rig.give(frame(60))
        assert received(queue, tokens) == frame(60)


def test_it_is_reset_in_the_midst_of_it(rig: Rig) -> None:
    rng = random.Random(3)
    rig.peer.answers = [frame(500)]
    for _ in range(20):
        receive, transmit = rig.start(FORMATS[rng.choice(list(FORMATS))])
        for _ in range(rng.randrange(40)):
            receive.add([], [rng.randrange(12, 700)])
            transmit.add([HEADER + frame(rng.randrange(14, 1500))])
        receive.kick()
        transmit.kick()
        rig.guest.reset()
        before = rig.guest.memory.read(0, rig.guest.memory.size)
        rig.give(frame(100))
        assert rig.guest.memory.read(0, rig.guest.memory.size) == before
