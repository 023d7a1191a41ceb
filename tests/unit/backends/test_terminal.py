"""Raw mode, the escape key and stdio."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator

import pytest

from pyvmm.backends.terminal import EscapeParser, Stdio, raw_mode
from tests.unit.backends.conftest import Stage


@pytest.fixture
def tty() -> Iterator[tuple[int, int]]:
    """The user's side and the program's side of a terminal."""
    user, program = os.openpty()
    yield user, program
    os.close(user)
    os.close(program)


def test_raw_mode_lets_keys_through_and_keeps_output_processing(tty: tuple[int, int]) -> None:
    with raw_mode(tty[1]):
        during = termios.tcgetattr(tty[1])
    assert not during[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert not during[0] & (termios.ICRNL | termios.IXON)
    assert during[1] & termios.OPOST  # our own messages share the terminal


def test_raw_mode_is_undone_also_after_an_exception(tty: tuple[int, int]) -> None:
    before = termios.tcgetattr(tty[1])
    with pytest.raises(KeyError), raw_mode(tty[1]):
        raise KeyError
    assert termios.tcgetattr(tty[1]) == before


def test_raw_mode_leaves_what_is_no_terminal_alone() -> None:
    read_end, write_end = os.pipe()
    with raw_mode(read_end):
        pass
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize(
    ("typed", "guest", "quits"),
    [
        (b"hello", b"hello", 0),
        (b"a\x01xb", b"ab", 1),
        (b"\x01\x01", b"\x01", 0),
        (b"\x01\x01x", b"\x01x", 0),
        (b"\x01z", b"\x01z", 0),
        (b"\x01", b"", 0),
        (b"\x01x\x01x", b"", 2),
    ],
)
def test_escapes(typed: bytes, guest: bytes, quits: int) -> None:
    for step in (1, len(typed)):  # key by key and all at once
        quit_requests: list[None] = []
        parser = EscapeParser({ord("x"): lambda: quit_requests.append(None)})  # noqa: B023
        pieces = [typed[at : at + step] for at in range(0, len(typed), step)]
        assert b"".join(parser.feed(piece) for piece in pieces) == guest
        assert len(quit_requests) == quits


def test_stdio_at_a_terminal_escapes_and_helps(stage: Stage, tty: tuple[int, int]) -> None:
    user, program = tty
    quit_requests: list[None] = []
    stdio = Stdio(stage.loop, lambda: quit_requests.append(None), program, program)
    with raw_mode(program):
        stdio.attach(stage.port)
        os.write(user, b"l\x01x")
        stage.until(lambda: stage.port.received == b"l" and quit_requests)
        os.write(user, b"\x01h")
        assert b"Ctrl-A x" in os.read(user, 1000)
        stdio.transmit(b"guest")
        shown = b""
        while not shown.endswith(b"guest"):
            shown += os.read(user, 1000)
    stage.run(stdio.close)
    assert os.get_blocking(program)
    assert os.isatty(program)


def test_a_terminal_that_takes_nothing_does_not_block(stage: Stage, tty: tuple[int, int]) -> None:
    user, program = tty
    stdio = Stdio(stage.loop, lambda: None, program, program)
    with raw_mode(program):
        stdio.attach(stage.port)
        stdio.transmit(b"x" * 1000)  # so that the room left is no multiple of a chunk
        stdio.transmit(b"x" * 199_000)
        assert stdio.unsent > 0
        shown = 0
        while shown < 200_000:
            shown += len(os.read(user, 1 << 16))
        stage.until(lambda: stage.port.drains == 1)
    stage.run(stdio.close)


def test_stdio_on_a_pipe_passes_every_byte(stage: Stage) -> None:
    source, keyboard = os.pipe()
    stdio = Stdio(stage.loop, lambda: None, source, source)
    stdio.attach(stage.port)
    os.write(keyboard, b"\x01x\x01h")
    stage.until(lambda: stage.port.received == b"\x01x\x01h")
    stage.run(stdio.close)
    os.close(source)
    os.close(keyboard)
