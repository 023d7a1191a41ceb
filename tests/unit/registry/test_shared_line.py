"""A serial port that several consoles share with what it is connected to."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from pyvmm.backends.chardev import Chardev
from pyvmm.devices.serial import Serial
from pyvmm.errors import UsageError
from pyvmm.loop import Loop, start_thread
from pyvmm.registry import console
from pyvmm.registry.console import ANOTHER_TYPES, SharedLine
from tests.fakes.lines import FakeLine

THR, RBR, FCR = 0, 0, 2
FIFO_ON, FIFO_SIZE = 1, 16
PATIENCE = 10.0  # seconds for what takes milliseconds


class Original(Chardev):
    """What the port was connected to before."""

    def __init__(self) -> None:
        self.shown = bytearray()
        self.resumed = 0

    def transmit(self, data: bytes) -> None:
        self.shown += data

    def resume(self) -> None:
        self.resumed += 1


class Rig:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.original = Original()
        self.history = bytearray()
        self.port = Serial("COM1", FakeLine(), self.original, self.history.extend)
        self.port.write(FCR, 1, FIFO_ON)
        self.line = SharedLine(self.port, loop)

    def attach(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        self.line.add(theirs, b"ok\n", lambda: bytes(self.history))
        return ours

    def print(self, data: bytes) -> None:
        """The guest's output, as a vCPU or the exit loop hands it to the port."""
        with self.port.lock:
            self.port.posted(THR, data)

    def read(self, count: int) -> bytes:
        """What the guest gets, within PATIENCE."""
        got = bytearray()
        while len(got) < count:
            self.wait_for_loop()
            with self.port.lock:
                while self.port.read(5, 1) & 1:
                    got.append(self.port.read(RBR, 1))
        return bytes(got)

    def wait_for_loop(self) -> None:
        done = threading.Event()
        self.loop.call_soon(done.set)
        assert done.wait(PATIENCE)


@pytest.fixture
def rig() -> Iterator[Rig]:
    loop = Loop()
    thread = start_thread("loop", loop.run)
    rig = Rig(loop)
    yield rig
    loop.stop()
    thread.join()
    rig.line.close()
    loop.close()


def receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := client.recv(count - len(data))):
        data += more
    return data


def test_a_console_gets_the_last_output_and_then_what_follows(rig: Rig) -> None:
    rig.print(b"before ")
    with rig.attach() as client:
        rig.print(b"after")
        assert receive(client, 15) == b"ok\nbefore after"
    assert rig.original.shown == b"before after"


def test_no_byte_is_lost_or_doubled_while_the_guest_writes(rig: Rig) -> None:
    text = b"".join(b"%05d\n" % number for number in range(5000))

    def write() -> None:
        for at in range(0, len(text), 6):
            rig.print(text[at : at + 6])

    writer = start_thread("guest", write)
    clients = [rig.attach() for _ in range(4)]
    writer.join()
    for at, client in enumerate(clients):
        said = b"ok\n" + (ANOTHER_TYPES if at else b"") + text
        assert receive(client, len(said)) == said
        client.close()


def test_what_is_typed_reaches_the_guest_beside_the_original(rig: Rig) -> None:
    with rig.attach() as client:
        client.sendall(b"typed")
        assert rig.read(5) == b"typed"
    assert rig.port.receive(b"own") == 3
    assert rig.read(3) == b"own"


def test_what_the_guest_has_no_room_for_waits(rig: Rig) -> None:
    text = os.urandom(1000)
    with rig.attach() as client:
        client.sendall(text)
        assert rig.read(1000) == text
    assert rig.original.resumed


def test_a_console_that_types_and_leaves_has_typed(rig: Rig) -> None:
    text = os.urandom(10 * FIFO_SIZE)
    with rig.attach() as client:
        rig.print(b"unread by it")
        client.sendall(text)
    assert rig.read(len(text)) == text


def test_the_second_console_only_shows_until_the_first_has_gone(rig: Rig) -> None:
    with rig.attach() as first, rig.attach() as second:
        assert receive(second, 3 + len(ANOTHER_TYPES)).endswith(ANOTHER_TYPES)
        second.sendall(b"second")
        first.sendall(b"first")
        assert rig.read(5) == b"first"
        first.close()
        while rig.line.typist is not None:
            rig.wait_for_loop()
        with rig.attach() as third:
            third.sendall(b"third")
            assert rig.read(5) == b"third"


def test_one_that_does_not_read_stalls_neither_the_guest_nor_the_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "KEPT", 1000)
    with rig.attach() as stalled, rig.attach() as reader:
        receive(reader, 3 + len(ANOTHER_TYPES))
        for _ in range(1000):
            rig.print(bytes(1000))
            assert len(receive(reader, 1000)) == 1000
        assert rig.line.unsent == 0
        closing = start_thread("closing", rig.line.close)
        assert len(receive(stalled, 2_000_000)) < 1_000_000  # what the kernel has, and KEPT
        closing.join()


def test_the_last_output_reaches_a_console_before_it_is_let_go(rig: Rig) -> None:
    with rig.attach() as client:
        rig.print(b"bye")
        rig.line.close()
        assert receive(client, 100) == b"ok\nbye"


def test_one_that_does_not_read_does_not_hold_up_the_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LAST_SECONDS", 0.01)
    with rig.attach() as stalled, rig.attach() as reader:
        for _ in range(10):
            rig.print(bytes(100_000))
        rig.line.close()
        assert len(receive(stalled, 2_000_000)) < 1_000_000
        assert receive(reader, 3 + len(ANOTHER_TYPES)).endswith(ANOTHER_TYPES)


def test_there_is_a_limit(rig: Rig) -> None:
    clients = [rig.attach() for _ in range(console.CONSOLES_MAX)]
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(UsageError, match="at most 16 consoles"):
        rig.line.add(theirs, b"", bytes)
    for client in clients:
        client.close()
