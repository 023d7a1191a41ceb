"""The line that a program drives."""

from __future__ import annotations

import threading

import pytest

from pyvmm.backends import buffer as buffer_module
from pyvmm.backends.buffer import Buffer
from pyvmm.errors import PyvmmError
from tests.unit.backends.conftest import PATIENCE, Stage


@pytest.fixture
def buffer(stage: Stage) -> Buffer:
    buffer = Buffer(stage.loop)
    buffer.attach(stage.port)
    return buffer


def test_expect_returns_all_up_to_the_pattern_and_goes_on_after_it(buffer: Buffer) -> None:
    buffer.transmit(b"Debian\r\nlogin: root\r\nlogin: ")
    assert buffer.expect(b"login: ", 0) == b"Debian\r\nlogin: "
    assert buffer.expect(b"login: ", 0) == b"root\r\nlogin: "


def test_expect_waits_for_a_pattern_that_comes_in_pieces(buffer: Buffer) -> None:
    found: list[bytes] = []
    waiter = threading.Thread(target=lambda: found.append(buffer.expect(b"login: ", PATIENCE)))
    waiter.start()
    for piece in (b"log", b"in", b": "):
        buffer.transmit(piece)
    waiter.join()
    assert found == [b"login: "]


def test_expect_that_times_out_quotes_the_last_output(buffer: Buffer) -> None:
    buffer.transmit(b"Kernel panic")
    with pytest.raises(TimeoutError, match=r"b'login: '.*Kernel panic"):
        buffer.expect(b"login: ", 0)
    assert buffer.expect(b"panic", 0) == b"Kernel panic"


def test_closing_ends_every_wait(buffer: Buffer) -> None:
    errors: list[Exception] = []

    def wait() -> None:
        try:
            buffer.expect(b"login: ", PATIENCE)
        except PyvmmError as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    buffer.close()
    waiter.join()
    assert "closed" in str(errors[0])
    buffer.transmit(b"login: ")
    assert buffer.expect(b"login: ", 0) == b"login: "


def test_history_is_bounded_and_keeps_the_last(buffer: Buffer) -> None:
    buffer.transmit(b"first")
    assert buffer.expect(b"fir", 0) == b"fir"
    for _ in range(20):
        buffer.transmit(b"x" * 100_000)
    buffer.transmit(b"last")
    assert len(buffer.output) == buffer_module.HISTORY
    assert buffer.expect(b"last", 0).endswith(b"xlast")


def test_expect_finds_its_place_again_after_old_output_is_dropped(buffer: Buffer) -> None:
    buffer.transmit(b"x" * buffer_module.HISTORY + b"one")
    buffer.expect(b"one", 0)
    buffer.transmit(b"two" + b"x" * 600_000)
    assert buffer.expect(b"two", 0) == b"two"


def test_written_input_waits_for_room_and_keeps_its_order(stage: Stage, buffer: Buffer) -> None:
    stage.port.room = 4
    buffer.write(b"root\n")
    buffer.write(b"ls\n")
    stage.until(lambda: stage.port.received == b"root")

    def room() -> None:
        stage.port.room = 100

    stage.run(room)
    buffer.resume()
    stage.until(lambda: stage.port.received == b"root\nls\n")
