"""The console device: one console, and ports with names."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from pyvmm.backends.chardev import Chardev, Stream
from pyvmm.loop import Loop
from pyvmm.virtio import console as device_module
from pyvmm.virtio import console_spec as spec
from pyvmm.virtio.console import Console, Ports
from tests.fakes.driver import PATIENCE, Driver, Guest
from tests.unit.virtio.conftest import MakeGuest

RECEIVE, TRANSMIT = 0, 1


class Line(Chardev):
    """A back end that keeps what it gets, and can be made to take nothing."""

    def __init__(self) -> None:
        self.sent = b""
        self.stuck = b""
        self.slow = False
        self.columns_rows = (0, 0)
        self.resumed = threading.Semaphore(0)
        self.changed = threading.Condition()

    @property
    def size(self) -> tuple[int, int]:
        return self.columns_rows

    @property
    def unsent(self) -> int:
        return len(self.stuck)

    def transmit(self, data: bytes) -> None:
        with self.changed:
            if self.slow:
                self.stuck += data
            else:
                self.sent += data
            self.changed.notify_all()

    def resume(self) -> None:
        self.resumed.release()

    def type(self, data: bytes) -> int:
        return self._port.receive(data)

    def drain(self) -> None:
        """Its reader has come back."""
        with self.changed:
            self.slow = False
            self.sent += self.stuck
            self.stuck = b""
        self._port.drained()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE), (self.sent[-99:], len(self.stuck))


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def guest(line: Line, make_guest: MakeGuest) -> Guest:
    return make_guest(Console("hvc0", line))


def input_of(driver: Driver, length: int) -> bytes:
    """Read `length` bytes as a driver with small buffers does."""
    data = b""
    while len(data) < length:
        driver.add(writable=[16])
        driver.kick()
        data += driver.wait()[0].data
    return data


def config(guest: Guest) -> tuple[int, ...]:
    return spec.CONFIG.unpack(guest.device.read_config())


# ---- one console ----


def test_a_console_has_two_queues_and_no_control(guest: Guest) -> None:
    assert len(guest.device.queue_sizes) == 2
    assert not guest.device.features & spec.F_MULTIPORT


def test_output_reaches_the_line_in_order(guest: Guest, line: Line) -> None:
    guest.start()
    for text in (b"hello, ", b"world\n"):
        assert guest.queues[TRANSMIT].request([text[:3], text[3:]]) == b""
    assert line.sent == b"hello, world\n"


def test_a_large_output_is_whole(guest: Guest, line: Line) -> None:
    guest.start()
    data = os.urandom(100_000)
    guest.queues[TRANSMIT].request([data])
    assert line.sent == data


def test_input_waits_for_the_guests_buffers(guest: Guest, line: Line) -> None:
    assert line.type(b"early ") == 6
    guest.start()
    assert line.type(b"late") == 4
    assert input_of(guest.queues[RECEIVE], 10) == b"early late"


def test_a_buffer_that_waits_gets_input_at_once(guest: Guest, line: Line) -> None:
    guest.start()
    queue = guest.queues[RECEIVE]
    queue.add(writable=[4096])
    queue.kick()
    line.type(b"x")
    assert [used.data for used in queue.wait()] == [b"x"]


def test_a_guest_that_does_not_read_loses_nothing(guest: Guest, line: Line) -> None:
    guest.start()
    data = os.urandom(3 * device_module.INPUT_KEPT)
    given = line.type(data)
    assert given == device_module.INPUT_KEPT
    assert line.type(data[given:]) == 0
    assert input_of(guest.queues[RECEIVE], given) == data[:given]
    assert line.resumed.acquire(timeout=PATIENCE)
    assert line.type(data[given:]) == device_module.INPUT_KEPT


def test_a_line_that_takes_nothing_stalls_output_and_loses_none(guest: Guest, line: Line) -> None:
    guest.start()
    queue = guest.queues[TRANSMIT]
    line.slow = True
    data = os.urandom(4 * device_module.UNSENT_STALLS)
    queue.add([data[:100_000]])
    queue.add([data[100_000:]])
    queue.kick()
    line.wait(lambda: len(line.stuck) > device_module.UNSENT_STALLS)
    guest.device.worker.call(lambda: None)
    assert len(line.stuck) <= device_module.UNSENT_STALLS + device_module.CHUNK
    assert queue.collect() == []
    line.drain()
    queue.wait(2)
    assert line.sent == data


def test_a_reset_forgets_output_that_is_stalled(guest: Guest, line: Line) -> None:
    guest.start()
    line.slow = True
    guest.queues[TRANSMIT].add([bytes(200_000)])
    guest.queues[TRANSMIT].kick()
    line.wait(lambda: len(line.stuck) > device_module.UNSENT_STALLS)
    guest.reset()
    line.drain()
    line.sent = b""
    guest.start()
    guest.queues[TRANSMIT].request([b"new"])
    assert line.sent == b"new"


def test_input_that_a_reset_interrupts_goes_to_the_next_driver(guest: Guest, line: Line) -> None:
    guest.start()
    line.type(b"typed")
    guest.reset()
    guest.start()
    assert input_of(guest.queues[RECEIVE], 5) == b"typed"


def test_the_size_is_the_terminals(guest: Guest, line: Line) -> None:
    line.columns_rows = (132, 50)
    assert guest.device.features & spec.F_SIZE
    assert config(guest)[:2] == (132, 50)


def test_the_size_is_told_to_a_driver_that_has_become_ready(guest: Guest, line: Line) -> None:
    line.columns_rows = (80, 24)
    for _ in range(2):
        guest.start()
        guest.wait_config_changed()
        guest.reset()


def test_a_new_size_is_told(guest: Guest, line: Line) -> None:
    guest.start()
    line.columns_rows = (100, 30)
    line.resized()
    guest.wait_config_changed()
    assert config(guest)[:2] == (100, 30)


def test_emergency_output_needs_no_queue(guest: Guest, line: Line) -> None:
    assert guest.device.features & spec.F_EMERG_WRITE
    for letter in b"!?":
        guest.device.write_config(spec.EMERG_WRITE, bytes((letter, 9, 9, 9)))
    guest.device.write_config(0, b"abcd")
    assert line.sent == b"!?"


def test_buffers_of_the_wrong_direction_are_given_back(guest: Guest, line: Line) -> None:
    guest.start()
    assert guest.queues[TRANSMIT].request(writable=[8]) == b""
    guest.queues[RECEIVE].add([b"readable"])
    guest.queues[RECEIVE].kick()
    line.type(b"ok")
    assert guest.queues[RECEIVE].wait()[0].data == b""
    assert input_of(guest.queues[RECEIVE], 2) == b"ok"


def test_a_real_back_end_moves_bytes_both_ways(make_guest: MakeGuest) -> None:
    loop = Loop()
    ours, theirs = os.pipe(), os.pipe()
    guest = make_guest(Console("hvc0", Stream(loop, ours[0], theirs[1])))
    thread = threading.Thread(target=loop.run)
    thread.start()
    guest.start()
    os.write(ours[1], b"ping")
    assert input_of(guest.queues[RECEIVE], 4) == b"ping"
    guest.queues[TRANSMIT].request([b"pong"])
    assert os.read(theirs[0], 99) == b"pong"
    loop.stop()
    thread.join()
    loop.close()
    for fd in (*ours, *theirs):
        os.close(fd)


# ---- ports with names ----


class Multiport:
    """A driver that knows control messages, as Linux's does."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        guest.start()
        self.outbound = guest.queues[spec.CONTROL_TRANSMIT]
        self.inbound = guest.queues[spec.CONTROL_RECEIVE]

    def tell(self, index: int, event: int, value: int = 1) -> None:
        self.outbound.request([spec.CONTROL.pack(index, event, value)])

    def hear(self, count: int) -> list[tuple[int, int, int, bytes]]:
        for _ in range(count):
            self.inbound.add(writable=[64])
        self.inbound.kick()
        return [
            (*spec.CONTROL.unpack_from(used.data), used.data[spec.CONTROL.size :])
            for used in self.inbound.wait(count)
        ]


@pytest.fixture
def lines() -> list[Line]:
    return [Line(), Line()]


@pytest.fixture
def ports(lines: list[Line], make_guest: MakeGuest) -> Multiport:
    return Multiport(make_guest(Ports("ports", [("agent", lines[0]), ("log", lines[1])])))


def open_both(ports: Multiport) -> None:
    ports.tell(0, spec.DEVICE_READY)
    ports.hear(2)
    for index in range(2):
        ports.tell(index, spec.PORT_READY)
        ports.hear(2)
        ports.tell(index, spec.PORT_OPEN)


def test_every_port_has_two_queues_beside_those_for_control(ports: Multiport) -> None:
    assert len(ports.guest.device.queue_sizes) == 6
    assert config(ports.guest)[2] == 2


def test_ports_are_added_named_and_opened(ports: Multiport) -> None:
    ports.tell(0, spec.DEVICE_READY)
    assert ports.hear(2) == [(0, spec.DEVICE_ADD, 1, b""), (1, spec.DEVICE_ADD, 1, b"")]
    ports.tell(1, spec.PORT_READY)
    assert ports.hear(2) == [(1, spec.PORT_NAME, 1, b"log"), (1, spec.PORT_OPEN, 1, b"")]


def test_no_port_is_added_twice(ports: Multiport) -> None:
    ports.tell(0, spec.DEVICE_READY)
    ports.hear(2)
    ports.tell(0, spec.DEVICE_READY)
    ports.tell(0, spec.PORT_READY)
    assert [event for _, event, _, _ in ports.hear(2)] == [spec.PORT_NAME, spec.PORT_OPEN]


def test_each_port_is_its_own_line(ports: Multiport, lines: list[Line]) -> None:
    open_both(ports)
    for index, line in enumerate(lines):
        first = spec.receive_queue(index)
        ports.guest.queues[first + 1].request([b"to %d" % index])
        assert line.sent == b"to %d" % index
        line.type(b"from %d" % index)
        assert input_of(ports.guest.queues[first], 6) == b"from %d" % index


def test_input_waits_until_the_guest_opens_the_port(ports: Multiport, lines: list[Line]) -> None:
    queue = ports.guest.queues[spec.receive_queue(1)]
    queue.add(writable=[16])
    queue.kick()
    lines[1].type(b"early")
    ports.tell(0, spec.DEVICE_READY)
    ports.hear(2)
    ports.guest.device.worker.call(lambda: None)
    assert queue.collect() == []
    ports.tell(1, spec.PORT_OPEN)
    assert queue.wait()[0].data == b"early"
    ports.tell(1, spec.PORT_OPEN, 0)
    lines[1].type(b"more")
    ports.guest.device.worker.call(lambda: None)
    assert queue.collect() == []


def test_a_slow_line_stalls_its_own_port_only(ports: Multiport, lines: list[Line]) -> None:
    open_both(ports)
    lines[0].slow = True
    slow = ports.guest.queues[spec.receive_queue(0) + 1]
    slow.add([bytes(200_000)])
    slow.kick()
    lines[0].wait(lambda: len(lines[0].stuck) > device_module.UNSENT_STALLS)
    ports.guest.queues[spec.receive_queue(1) + 1].request([b"free"])
    assert lines[1].sent == b"free"
    assert slow.collect() == []


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"short",
        spec.CONTROL.pack(2, spec.PORT_OPEN, 1),
        spec.CONTROL.pack(0xFFFFFFFF, spec.PORT_READY, 1),
        spec.CONTROL.pack(0, spec.PORT_READY, 1),  # before it was added
        spec.CONTROL.pack(0, 99, 1),
        spec.CONTROL.pack(0, spec.DEVICE_READY, 0),
    ],
)
def test_messages_without_sense_are_ignored(ports: Multiport, message: bytes) -> None:
    ports.outbound.request([message] if message else [], [] if message else [8])
    ports.tell(0, spec.DEVICE_READY)
    assert [event for _, event, _, _ in ports.hear(2)] == [spec.DEVICE_ADD] * 2


def test_a_driver_that_knows_no_ports_has_the_first(
    lines: list[Line], make_guest: MakeGuest
) -> None:
    device = Ports("ports", [("agent", lines[0]), ("log", lines[1])])
    guest = make_guest(device)
    guest.start(device.features & ~spec.F_MULTIPORT, queues=[0, 1])
    guest.queues[TRANSMIT].request([b"plain"])
    lines[0].type(b"input")
    assert lines[0].sent == b"plain"
    assert input_of(guest.queues[RECEIVE], 5) == b"input"


def test_ports_are_announced_again_after_a_reset(ports: Multiport) -> None:
    open_both(ports)
    ports.guest.reset()
    again = Multiport(ports.guest)
    again.tell(0, spec.DEVICE_READY)
    assert [event for _, event, _, _ in again.hear(2)] == [spec.DEVICE_ADD] * 2


# ---- ends ----


def test_the_end_of_input_closes_the_port_once_the_guest_has_got_it_all(
    ports: Multiport, lines: list[Line]
) -> None:
    open_both(ports)
    queue = ports.guest.queues[spec.receive_queue(1)]
    lines[1].type(b"last")
    lines[1]._port.ended()
    ports.guest.device.worker.call(lambda: None)
    ports.inbound.add(writable=[64])
    ports.inbound.kick()
    ports.guest.device.worker.call(lambda: None)
    assert ports.inbound.collect() == []
    queue.add(writable=[16])
    queue.kick()
    assert queue.wait()[0].data == b"last"
    assert ports.inbound.wait()[0].data == spec.CONTROL.pack(1, spec.PORT_OPEN, 0)
    lines[1]._port.look_for_input()
    ports.tell(0, spec.PORT_READY)
    assert [message[:2] for message in ports.hear(2)] == [
        (0, spec.PORT_NAME),
        (0, spec.PORT_OPEN),
    ]


def test_input_that_ended_early_is_told_to_a_guest_that_opens_the_port(
    ports: Multiport, lines: list[Line]
) -> None:
    lines[0]._port.ended()
    ports.tell(0, spec.DEVICE_READY)
    ports.hear(2)
    ports.tell(0, spec.PORT_READY)
    assert ports.hear(2)[1] == (0, spec.PORT_OPEN, 1, b"")
    ports.tell(0, spec.PORT_OPEN)
    assert ports.hear(1) == [(0, spec.PORT_OPEN, 0, b"")]


def test_what_the_guest_wrote_last_goes_out_although_the_line_is_slow(
    guest: Guest, line: Line
) -> None:
    guest.start()
    queue = guest.queues[TRANSMIT]
    line.slow = True
    data = os.urandom(2 * device_module.UNSENT_STALLS)
    queue.add([data])
    queue.publish()  # without a doorbell, which may not have been heard yet
    guest.device.finish()
    assert line.stuck == data


def test_what_is_handed_on_at_the_end_is_bounded(
    guest: Guest, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "LAST_PIECES", 3)
    monkeypatch.setattr(device_module, "UNSENT_STALLS", 0)  # one piece stalls it
    line.slow = True
    guest.start()
    guest.queues[TRANSMIT].add([bytes(8 * device_module.CHUNK)])
    guest.queues[TRANSMIT].kick()
    line.wait(lambda: len(line.stuck) == device_module.CHUNK)
    guest.device.finish()
    assert len(line.stuck) == 4 * device_module.CHUNK


def test_a_ring_that_is_broken_does_not_matter_at_the_end(guest: Guest, line: Line) -> None:
    guest.start()
    queue = guest.queues[TRANSMIT]
    guest.memory.write(queue.ring.driver_area + 2, b"\xff\xff")  # the available index
    guest.device.finish()
    assert line.sent == b""
