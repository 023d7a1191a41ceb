"""Raw mode, the escape key and stdio."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyvmm.backends.terminal import EscapeParser, StandardFile, Stdio, raw_mode
from tests.unit.backends.conftest import Stage, no_monitor


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
        assert b"".join(b"".join(parser.feed(piece)) for piece in pieces) == guest
        assert len(quit_requests) == quits


def test_stdio_at_a_terminal_escapes_and_helps(stage: Stage, tty: tuple[int, int]) -> None:
    user, program = tty
    quit_requests: list[None] = []
    stdio = Stdio(stage.loop, lambda: quit_requests.append(None), no_monitor, program, program)
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
    stdio = Stdio(stage.loop, lambda: None, no_monitor, program, program)
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
    stdio = Stdio(stage.loop, lambda: None, no_monitor, source, source)
    stdio.attach(stage.port)
    os.write(keyboard, b"\x01x\x01h")
    stage.until(lambda: stage.port.received == b"\x01x\x01h")
    stage.run(stdio.close)
    os.close(source)
    os.close(keyboard)


@contextmanager
def piped(fd: int) -> Iterator[int]:
    """Make a standard file a pipe, and give its other end, which the test closes."""
    kept = os.dup(fd)
    source, sink = os.pipe()
    ours, theirs = (source, sink) if fd == 0 else (sink, source)
    os.dup2(ours, fd)
    os.close(ours)
    try:
        yield theirs
    finally:
        os.dup2(kept, fd)
        os.close(kept)


def test_standard_input_alone_ends(stage: Stage) -> None:
    with piped(0) as keyboard:
        line = StandardFile(stage.loop, "stdin", lambda: None)
        line.attach(stage.port)
        os.write(keyboard, b"last\x01x")
        stage.until(lambda: stage.port.received == b"last\x01x")
        assert stage.port.inputs_ended == 0
        os.close(keyboard)
        stage.until(lambda: stage.port.inputs_ended == 1)
        stage.run(line.close)


def test_standard_output_that_nobody_reads_ends_the_machine(stage: Stage) -> None:
    quits: list[bool] = []
    with piped(1) as reader:
        line = StandardFile(stage.loop, "stdout", lambda: quits.append(True))
        line.attach(stage.port)
        line.transmit(b"first")
        assert os.read(reader, 9) == b"first"
        os.close(reader)
        line.transmit(b"second")
        stage.until(lambda: quits)
        stage.run(line.close)


def test_the_end_of_input_is_not_told_where_it_would_end_output_too(stage: Stage) -> None:
    source, keyboard = os.pipe()
    other, sink = os.pipe()
    stdio = Stdio(stage.loop, lambda: None, no_monitor, source, sink)
    stdio.attach(stage.port)
    os.close(keyboard)
    stage.until(lambda: stdio._source is None)
    assert stage.port.inputs_ended == 0
    stage.run(stdio.close)
    for fd in (source, other, sink):
        os.close(fd)
