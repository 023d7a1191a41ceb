"""Network devices on a tap: csrc/net.c and Net itself, to the same effect; a socket is the tap."""

from __future__ import annotations

import random
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from pyvmm.backends.tap import Tap
from pyvmm.layout import MIB
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio import virtio_spec
from pyvmm.virtio.tap_net import TapNet
from tests.fakes.driver import PACKED, PATIENCE, SPLIT, Driver, Guest
from tests.fakes.netdriver import HEADER, MAC, frame, pieces, send
from tests.fakes.netns import network_namespace
from tests.fakes.tap import HELD_BACK, SocketTap

CSUM_HEADER = spec.HEADER.pack(spec.HDR_F_NEEDS_CSUM, 0, 0, 0, 14, 2, 0)
MERGED = SPLIT | spec.F_MRG_RXBUF | spec.F_GUEST_CSUM
FORMATS = {"split": MERGED, "packed": MERGED | PACKED}
RECEIVE, TRANSMIT = 0, 1


class Rig:
    """A device with one pair and its guest."""

    def __init__(self, pairs: int = 1) -> None:
        self.tap = SocketTap(pairs)
        self.net = TapNet("eth0", self.tap, MAC, pairs=pairs)
        self.guest = Guest(self.net, memory=16 * MIB)

    def start(self, features: int = MERGED, size: int = 64) -> tuple[Driver, Driver]:
        self.guest.start(features, size=size)
        return self.guest.queues[RECEIVE], self.guest.queues[TRANSMIT]

    @property
    def counters(self) -> dict[str, int]:
        self.net.worker.call(lambda: None)  # Python counts a frame once the driver has it
        return self.net.statistics().asdict()  # type: ignore[union-attr]


MakeRig = Callable[..., Rig]


@pytest.fixture
def make() -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(**options: int) -> Rig:
        rigs.append(Rig(**options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.guest.close()
        for wire in rig.tap.wires:
            wire.close()


@pytest.fixture(params=["C", "Python"])
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, make: MakeRig) -> Rig:
    monkeypatch.setenv("PYVMM_NO_FASTPATH", str(int(request.param == "Python")))
    return make()


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch, make: MakeRig) -> Rig:
    monkeypatch.delenv("PYVMM_NO_FASTPATH", raising=False)
    return make()


@pytest.fixture(params=FORMATS)
def features(request: pytest.FixtureRequest) -> int:
    return FORMATS[request.param]


def test_how_far_it_has_come_is_known_whoever_moves_the_frames(rig: Rig) -> None:
    rig.guest.start(MERGED | spec.F_CTRL_VQ)
    for _ in range(3):
        send(rig.guest.queues[TRANSMIT], HEADER, frame(100))
    rig.guest.queues[2].request([bytes([spec.CTRL_RX, spec.CTRL_RX_PROMISC, 1])], [1])
    positions: list[dict[int, int]] = []
    rig.net.worker.call(lambda: positions.append(rig.net.positions()))
    assert (positions[0][TRANSMIT], positions[0][2]) == (3, 1)


def received(queue: Driver, tokens: list[int]) -> bytes:
    """One frame in buffers that the device gives back in order, with its header."""
    first, *more = queue.wait()
    count = spec.HEADER.unpack(first.data[: spec.HEADER.size])[-1]
    while len(more) < count - 1:
        more += queue.wait()
    assert len(more) == count - 1
    assert [used.token for used in (first, *more)] == tokens[:count]
    del tokens[:count]
    return b"".join(used.data for used in (first, *more))


# ---- transmission ----


def test_frames_are_sent_whatever_buffers_they_are_in(rig: Rig, features: int) -> None:
    _, queue = rig.start(features)
    rng = random.Random(1)
    for number in range(200):
        whole = HEADER + frame(rng.randrange(14, 1514), number)
        send(queue, *pieces(whole, rng))
        assert rig.tap.arrives() == whole
    assert rig.counters["tx_frames"] == 200


def test_frames_are_sent_in_order_many_at_once(rig: Rig, features: int) -> None:
    _, queue = rig.start(features)
    frames = [HEADER + frame(60, number) for number in range(48)]
    for whole in frames:
        queue.add([whole])
    queue.kick()
    queue.wait(len(frames))
    assert [rig.tap.arrives() for _ in frames] == frames


def test_a_large_frame_is_sent_with_its_header(rig: Rig) -> None:
    _, queue = rig.start(MERGED | rig.net.features & spec.HOST_OFFLOADS)
    header = spec.HEADER.pack(spec.HDR_F_NEEDS_CSUM, spec.GSO_TCPV4, 54, 1448, 34, 16, 0)
    whole = header + frame(65549)
    send(queue, whole[:12], whole[12:30000], whole[30000:])
    assert rig.tap.arrives() == whole


LIES = {
    "a checksum behind the end": spec.HEADER.pack(spec.HDR_F_NEEDS_CSUM, 0, 0, 0, 60000, 16, 0),
    "a checksum that ends behind it": spec.HEADER.pack(spec.HDR_F_NEEDS_CSUM, 0, 0, 0, 14, 45, 0),
    "headers longer than all": spec.HEADER.pack(1, spec.GSO_TCPV4, 2000, 1448, 34, 16, 0),
    "segments of nothing": spec.HEADER.pack(1, spec.GSO_TCPV4, 54, 0, 34, 16, 0),
    "segments of no kind": spec.HEADER.pack(1, 0x7F, 54, 1448, 34, 16, 0),
}


@pytest.mark.parametrize("way", ["0", "1"], ids=["C", "Python"])
def test_a_header_that_lies_is_dropped_and_counted(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C leaves that to the kernel, and so to a real tap."""
    monkeypatch.setenv("PYVMM_NO_FASTPATH", way)
    with network_namespace():
        net = TapNet("eth0", Tap("tap0"), MAC)
        guest = Guest(net, memory=16 * MIB)
        guest.start(MERGED | net.features & spec.HOST_OFFLOADS, size=64)
        queue = guest.queues[TRANSMIT]
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("tap0", 0x88B5))
            wire.settimeout(PATIENCE)
            for lie in LIES.values():
                send(queue, lie, frame(60, 1))
            send(queue, HEADER, frame(60, 2))
            assert wire.recv(2048) == frame(60, 2)
        net.worker.call(lambda: None)
        assert net.statistics().asdict()["tx_invalid"] == len(LIES)
        guest.close()


@pytest.mark.parametrize("length", [0, 1, 11, 12, 25, 12 + 65536 + 19])
def test_a_frame_too_short_or_too_long_is_dropped_and_counted(rig: Rig, length: int) -> None:
    _, queue = rig.start()
    parts = [bytes(length)] if length else []
    if parts:
        send(queue, *parts)
    else:
        queue.add([], [64])
        queue.kick()
        assert queue.wait()[0].length == 0
    send(queue, HEADER, frame(60))
    assert rig.tap.arrives() == HEADER + frame(60)
    assert rig.counters["tx_invalid"] == 1


def test_the_driver_need_not_be_interrupted_for_what_was_sent(rig: Rig, features: int) -> None:
    _, queue = rig.start(features)
    queue.disable_interrupts()
    for number in range(20):
        queue.add([HEADER + frame(60, number)])
        queue.kick()
        rig.tap.arrives()
    rig.net.worker.call(rig.net.quiesce)
    assert not queue.interrupted()
    assert len(queue.collect()) == 20


# ---- reception ----


def test_a_frame_takes_as_many_buffers_as_it_needs(rig: Rig, features: int) -> None:
    queue, _ = rig.start(features)
    rng = random.Random(2)
    tokens = [queue.add([], [rng.randrange(20, 100), rng.randrange(1, 900)]) for _ in range(32)]
    queue.kick()
    for number, length in enumerate([14, 60, 1514, 500, 1514, 64, 1000]):
        whole = frame(length, number)
        rig.tap.wires[0].send(CSUM_HEADER + whole)
        got = received(queue, tokens)
        assert got[:10] == CSUM_HEADER[:10]
        assert got[12:] == whole
    assert rig.counters["rx_frames"] == 7


def test_a_burst_arrives_in_order(rig: Rig, features: int) -> None:
    queue, _ = rig.start(features)
    tokens = [queue.add([], [200]) for _ in range(60)]
    queue.kick()
    frames = [frame(60 + number % 40, number) for number in range(60)]
    for whole in frames:
        rig.tap.wires[0].send(HEADER + whole)
    used = queue.wait(60)
    assert [one.token for one in used] == tokens
    assert [one.data[12:] for one in used] == frames


def test_without_mergeable_buffers_a_frame_has_one(rig: Rig, features: int) -> None:
    queue, _ = rig.start(features & ~spec.F_MRG_RXBUF)
    tokens = [queue.add([], [12, 1514]) for _ in range(8)]
    queue.kick()
    for number in range(8):
        rig.tap.wires[0].send(HEADER + frame(60 + number, number))
        assert received(queue, tokens)[12:] == frame(60 + number, number)


def test_what_one_buffer_cannot_hold_is_dropped(rig: Rig) -> None:
    queue, _ = rig.start(MERGED & ~spec.F_MRG_RXBUF)
    tokens = [queue.add([], [100]) for _ in range(4)]
    queue.kick()
    rig.tap.wires[0].send(HEADER + frame(200))
    rig.tap.wires[0].send(HEADER + frame(88))
    assert received(queue, tokens)[12:] == frame(88)
    assert rig.counters["rx_dropped"] == 1


def test_a_frame_waits_for_the_buffers_that_it_needs(rig: Rig, features: int) -> None:
    queue, _ = rig.start(features)
    whole, later = frame(1500, 5), frame(100, 6)
    tokens = [queue.add([], [400])]
    queue.kick()
    rig.tap.wires[0].send(HEADER + whole)
    rig.tap.wires[0].send(HEADER + later)
    for _ in range(3):
        assert not queue.interrupted(HELD_BACK / 3)
        assert not queue.collect()
        tokens.append(queue.add([], [400]))
        queue.kick()
    tokens.append(queue.add([], [400]))
    queue.kick()
    used = queue.wait(5)
    assert [one.token for one in used] == tokens
    assert b"".join(one.data for one in used[:4])[12:] == whole
    assert used[4].data[12:] == later


def test_a_frame_that_the_whole_ring_cannot_hold_is_dropped(rig: Rig, features: int) -> None:
    queue, _ = rig.start(features, size=4)
    tokens = [queue.add([], [100]) for _ in range(4)]
    queue.kick()
    rig.tap.wires[0].send(HEADER + frame(1500))
    rig.tap.wires[0].send(HEADER + frame(300))
    assert received(queue, tokens)[12:] == frame(300)
    assert rig.counters["rx_dropped"] == 1


def test_a_large_frame_is_received(rig: Rig) -> None:
    queue, _ = rig.start(MERGED | rig.net.features & spec.GUEST_OFFLOADS)
    tokens = [queue.add([], [1536]) for _ in range(60)]
    queue.kick()
    rig.tap.wires[0].send(HEADER + frame(65549))
    assert received(queue, tokens)[12:] == frame(65549)


def test_a_driver_is_told_nothing_of_checksums_that_it_knows_nothing_of(rig: Rig) -> None:
    """As the kernel does: it says so of frames whose checksum it has verified."""
    queue, _ = rig.start(MERGED & ~spec.F_GUEST_CSUM)
    tokens = [queue.add([], [1600])]
    queue.kick()
    verified = bytes([2]) + HEADER[1:]  # VIRTIO_NET_HDR_F_DATA_VALID, §5.1.6
    rig.tap.wires[0].send(verified + frame(60))
    assert received(queue, tokens)[0] == 0


# ---- life ----


def test_nothing_is_touched_while_it_is_quiesced(rig: Rig, features: int) -> None:
    receive, transmit = rig.start(features)
    tokens = [receive.add([], [400]) for _ in range(16)]
    receive.kick()
    rig.tap.wires[0].send(HEADER + frame(60, 1))
    assert received(receive, tokens)[12:] == frame(60, 1)
    rig.net.worker.call(rig.net.quiesce)
    before = rig.guest.memory.read(0, rig.guest.memory.size)
    rig.tap.wires[0].send(HEADER + frame(1000, 2))
    assert rig.tap.silent()
    assert rig.guest.memory.read(0, rig.guest.memory.size) == before
    transmit.add([HEADER + frame(60, 3)])
    transmit.kick()
    assert rig.tap.silent()
    rig.net.worker.call(rig.net.resume)
    assert received(receive, tokens)[12:] == frame(1000, 2)
    assert rig.tap.arrives() == HEADER + frame(60, 3)


FLOOD = "import os\nwhile True: os.write(0, bytes(60000))"


def test_frames_are_counted_across_resets(rig: Rig) -> None:
    for count in (1, 2):
        _, queue = rig.start()
        send(queue, HEADER, frame(60))
        assert rig.counters["tx_frames"] == count
        assert rig.counters["tx_bytes"] == 60 * count
        rig.guest.reset()
        assert rig.counters["tx_frames"] == count


def test_it_is_quiesced_in_the_midst_of_it(native: Rig) -> None:
    queue, _ = native.start(MERGED & ~spec.F_MRG_RXBUF, size=256)
    native.tap.wires[0].setblocking(True)
    at, length = queue.place(60000)
    command = [sys.executable, "-c", FLOOD]
    with subprocess.Popen(command, stdin=native.tap.wires[0], stderr=subprocess.DEVNULL) as flood:
        for turn in range(40):
            while len(queue.requests) < 256:
                queue.add_descriptors([(at, length, virtio_spec.DESC_F_WRITE)])
            queue.kick()
            while turn and not queue.collect():
                queue.interrupted(HELD_BACK)
            native.net.worker.call(native.net.quiesce)
            done = native.guest.memory.u16(queue.ring.device_area + 2)
            select.select([], [], [], HELD_BACK / 10)
            assert native.guest.memory.u16(queue.ring.device_area + 2) == done
            native.net.worker.call(native.net.resume)
        flood.kill()


def test_it_is_reset_in_the_midst_of_it(native: Rig) -> None:
    rng = random.Random(3)
    native.tap.wires[0].setblocking(False)
    for number in range(20):
        receive, transmit = native.start(FORMATS[rng.choice(list(FORMATS))])
        for _ in range(rng.randrange(40)):
            receive.add([], [rng.randrange(12, 700)])
            transmit.add([HEADER + frame(rng.randrange(14, 1500))])
            with suppress(BlockingIOError):  # it is full
                arriving = HEADER + frame(rng.randrange(14, 1500))
                native.tap.wires[0].send(arriving)
        receive.kick()
        transmit.kick()
        if number % 2 and transmit.requests:
            native.tap.arrives()
        native.guest.reset()
        before = native.guest.memory.read(0, native.guest.memory.size)
        while not native.tap.silent():
            native.tap.arrives()
        assert native.guest.memory.read(0, native.guest.memory.size) == before


@pytest.mark.parametrize("index", [RECEIVE, TRANSMIT])
def test_a_broken_ring_ends_it_until_a_reset(rig: Rig, index: int) -> None:
    queue = rig.start()[index]
    flags = virtio_spec.DESC_F_WRITE if index == RECEIVE else 0
    queue.add_descriptors([(1 << 40, 100, flags)])
    queue.kick()
    rig.tap.wires[0].send(HEADER + frame(60))
    rig.guest.wait_reset_wanted()
    rig.guest.reset()
    _, transmit = rig.start()
    send(transmit, HEADER, frame(60))
    assert rig.tap.arrives() == HEADER + frame(60)


def test_a_receive_buffer_without_room_for_a_header_is_a_broken_ring(rig: Rig) -> None:
    queue, _ = rig.start()
    queue.add([], [11])
    queue.kick()
    rig.tap.wires[0].send(HEADER + frame(60))
    rig.guest.wait_reset_wanted()


@pytest.mark.parametrize("index", [RECEIVE, TRANSMIT])
def test_a_driver_may_use_one_queue_of_a_pair(rig: Rig, index: int) -> None:
    rig.guest.start(MERGED, queues=[index])
    queue = rig.guest.queues[index]
    if index == TRANSMIT:
        rig.tap.wires[0].send(HEADER + frame(60))
        send(queue, HEADER, frame(60))
        assert rig.tap.arrives() == HEADER + frame(60)
    else:
        tokens = [queue.add([], [400])]
        queue.kick()
        rig.tap.wires[0].send(HEADER + frame(60))
        assert received(queue, tokens)[12:] == frame(60)


def test_a_link_that_is_down_carries_nothing(native: Rig) -> None:
    receive, transmit = native.start(MERGED | spec.F_STATUS)
    native.net.set_link(False)
    native.guest.wait_config_changed()
    native.net.worker.call(lambda: None)  # the driver is told before the frames stop
    assert native.net.read_config()[6] == 0
    transmit.add([HEADER + frame(60)])
    transmit.kick()
    tokens = [receive.add([], [400])]
    receive.kick()
    native.tap.wires[0].send(HEADER + frame(70))
    assert native.tap.silent()
    assert not receive.collect()
    native.net.set_link(True)
    assert native.tap.arrives() == HEADER + frame(60)
    assert received(receive, tokens)[12:] == frame(70)
    assert [what for what in native.tap.asked if what[0] == "carrier"] == [
        ("carrier", False),
        ("carrier", True),
    ]


def test_a_tap_that_is_gone_is_a_link_that_is_down(native: Rig) -> None:
    receive, _ = native.start(MERGED | spec.F_STATUS)
    receive.add([], [400])
    receive.kick()
    native.tap.wires[0].close()
    native.guest.wait_config_changed()
    assert native.net.read_config()[6] == 0


# ---- the control queue ----


def command(rig: Rig, queue: int, kind: int, number: int, data: bytes) -> int:
    """The answer to a command."""
    return rig.guest.queues[queue].request([bytes([kind, number]), data], [1])[0]


def test_the_filter_is_the_taps(native: Rig) -> None:
    native.start(MERGED | spec.F_CTRL_VQ | spec.F_CTRL_RX | spec.F_CTRL_RX_EXTRA)
    asked = native.tap.asked
    assert asked[-1] == ("filter", ((), False))  # everything, until the driver says otherwise
    assert command(native, 2, spec.CTRL_RX, spec.CTRL_RX_PROMISC, b"\0") == spec.ACK_OK
    assert asked[-1] == ("filter", ([MAC, spec.BROADCAST], False))
    other, group = bytes.fromhex("525400000002"), bytes.fromhex("01005e000001")
    tables = spec.ENTRIES.pack(1) + other + spec.ENTRIES.pack(1) + group
    assert command(native, 2, spec.CTRL_MAC, spec.CTRL_MAC_TABLE_SET, tables) == spec.ACK_OK
    assert asked[-1] == ("filter", ([MAC, spec.BROADCAST, other, group], False))
    assert command(native, 2, spec.CTRL_RX, spec.CTRL_RX_ALLMULTI, b"\1") == spec.ACK_OK
    assert asked[-1] == ("filter", ([MAC, spec.BROADCAST, other, group], True))
    assert command(native, 2, spec.CTRL_RX, spec.CTRL_RX_ALLUNI, b"\1") == spec.ACK_OK
    assert asked[-1] == ("filter", ((), False))


def test_each_pair_has_its_own_queue_of_the_tap(
    monkeypatch: pytest.MonkeyPatch, make: MakeRig
) -> None:
    monkeypatch.delenv("PYVMM_NO_FASTPATH", raising=False)
    rig = make(pairs=3)
    rig.start(MERGED | spec.F_CTRL_VQ | spec.F_MQ)
    assert ("attach", 1) in rig.tap.asked
    pairs = spec.U16.pack(3)
    assert command(rig, 6, spec.CTRL_MQ, spec.CTRL_MQ_VQ_PAIRS_SET, pairs) == spec.ACK_OK
    assert ("attach", 3) in rig.tap.asked
    for pair in range(3):
        receive, transmit = (rig.guest.queues[index] for index in spec.queue_indices(pair))
        send(transmit, HEADER, frame(60, pair))
        assert rig.tap.arrives(pair) == HEADER + frame(60, pair)
        tokens = [receive.add([], [400])]
        receive.kick()
        rig.tap.wires[pair].send(HEADER + frame(80, pair))
        assert received(receive, tokens)[12:] == frame(80, pair)
