"""Networks that are Python objects."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pyvmm.backends import python_link
from pyvmm.backends.python_link import PythonLink
from pyvmm.errors import UsageError
from pyvmm.virtio.net import Net
from pyvmm.virtio.net_frame import WHOLE
from tests.fakes.driver import Guest

RX, TX = 0, 1
MAC = bytes.fromhex("525400000001")


def frame(length: int = 60) -> bytes:
    return (b"\xff" * 6 + MAC + b"\x88\xb5").ljust(length, b"x")


class Backend:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.threads: set[str] = set()

    def attach(self, receive: Callable[[bytes], bool]) -> None:
        self.receive = receive

    def send(self, frame: bytes) -> None:
        self.threads.add(threading.current_thread().name)
        self.sent.append(frame)


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def guest(backend: Backend) -> Guest:
    guest = Guest(Net("eth0", PythonLink(backend), MAC))
    guest.start()
    yield guest
    guest.close()


def test_frames_go_both_ways(guest: Guest, backend: Backend) -> None:
    guest.queues[TX].request([WHOLE, frame(60)])
    assert backend.sent == [frame(60)]
    assert backend.threads == {"eth0"}
    guest.queues[RX].add(writable=[100])
    guest.queues[RX].kick()
    assert backend.receive(frame(61))
    assert guest.queues[RX].wait()[0].data[12:] == frame(61)


def test_frames_wait_for_room_up_to_a_number(guest: Guest, backend: Backend) -> None:
    taken = [backend.receive(frame(60 + number)) for number in range(python_link.KEPT + 1)]
    assert taken == [True] * python_link.KEPT + [False]
    rx, got = guest.queues[RX], []
    while len(got) < python_link.KEPT:
        for _ in range(32):
            rx.add(writable=[500])
        rx.kick()
        got += [used.data[12:] for used in rx.wait(32)]
    assert got == [frame(60 + number) for number in range(python_link.KEPT)]


def test_an_answer_within_send_reaches_the_guest(guest: Guest, backend: Backend) -> None:
    backend.send = lambda data: backend.receive(data)  # type: ignore[method-assign]
    guest.queues[RX].add(writable=[100])
    guest.queues[RX].kick()
    guest.queues[TX].request([WHOLE, frame()])
    assert guest.queues[RX].wait()[0].data[12:] == frame()


def test_an_exception_of_send_drops_the_frame(
    guest: Guest, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(data: bytes) -> None:
        raise ZeroDivisionError("oh")

    good, backend.send = backend.send, fail  # type: ignore[method-assign]
    guest.queues[TX].request([WHOLE, frame()])
    assert "eth0: a frame was not sent: Backend.send() raised ZeroDivisionError('oh')" in (
        caplog.text
    )
    backend.send = good  # type: ignore[method-assign]
    guest.queues[TX].request([WHOLE, frame()])
    assert backend.sent == [frame()]


@pytest.mark.parametrize("data", [b"", frame()[:13], bytes(65558)])
def test_what_is_no_frame_is_the_programs_mistake(
    guest: Guest, backend: Backend, data: bytes
) -> None:
    with pytest.raises(ValueError, match=f"A frame must have 14 to 65557 bytes, not {len(data)}"):
        backend.receive(data)


def test_frames_after_the_end_are_dropped(backend: Backend) -> None:
    guest = Guest(Net("eth0", PythonLink(backend), MAC))
    guest.close()
    assert not backend.receive(frame())


@pytest.mark.parametrize("backend", [None, object(), type("Half", (), {"send": print})()])
def test_an_object_without_the_methods_is_refused(backend: object) -> None:
    with pytest.raises(UsageError, match="A network's backend must have a method attach"):
        PythonLink(backend)
