"""Ctrl-A c: one terminal for the guest and the monitor, and nothing lost in either."""

from __future__ import annotations

import os
import re
import select
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from pyvmm.backends.chardev import CHUNK
from pyvmm.backends.monitorline import TYPED_MAX, Unconnected
from pyvmm.backends.terminal import FOCUS_IN, FOCUS_OUT, LEAVE, Stdio, raw_mode
from tests.unit.backends.conftest import PATIENCE, Stage

SWITCH = b"\x01c"
HELLO = re.compile(r"terminal \d+ \d+ \S+")


class Monitor:
    """What serves the monitor: here, the test."""

    def __init__(self) -> None:
        self.hello = ""
        self.opened = 0
        self.waited = 0

    def serve(self, client: socket.socket, hello: str) -> Callable[[], object]:
        self.client, self.hello = client, hello
        self.client.settimeout(PATIENCE)
        self.opened += 1
        return self._wait

    def _wait(self) -> None:
        self.waited += 1

    def expect(self, data: bytes) -> None:
        received = b""
        while len(received) < len(data):
            received += self.client.recv(len(data) - len(received))
        assert received == data


class Terminal:
    """A Stdio on a terminal, and the user of that."""

    def __init__(self, stage: Stage) -> None:
        self.user, self.program = os.openpty()
        self.monitor = Monitor()
        self.stage = stage
        self.quits: list[bool] = []
        self._raw = raw_mode(self.program)
        self._raw.__enter__()
        self.stdio = Stdio(
            stage.loop,
            lambda: self.quits.append(True),
            self.monitor.serve,
            self.program,
            self.program,
        )
        self.stdio.attach(stage.port)
        self.shown = b""

    def type(self, data: bytes) -> None:
        os.write(self.user, data)

    def switch(self) -> None:
        """Press the keys, and wait until that has happened."""
        before = self.stdio._in_front
        self.type(SWITCH)
        self.stage.until(lambda: self.stdio._in_front != before)

    def until(self, end: bytes) -> bytes:
        """All that is shown until it ends so, since the last time."""
        while not self.shown.endswith(end):
            assert select.select([self.user], [], [], PATIENCE)[0], self.shown[-200:]
            self.shown += os.read(self.user, 65536)
        shown, self.shown = self.shown, b""
        return shown

    def close(self) -> None:
        self.stage.run(self.stdio.close)
        self._raw.__exit__(None, None, None)
        os.close(self.user)
        os.close(self.program)
        if self.monitor.opened:
            self.monitor.client.close()


@pytest.fixture
def terminal(stage: Stage) -> Iterator[Terminal]:
    terminal = Terminal(stage)
    yield terminal
    terminal.close()


def test_keys_go_to_the_one_in_front_also_within_one_read(terminal: Terminal, stage: Stage) -> None:
    terminal.type(b"guest" + SWITCH + b"monitor" + SWITCH + b"guest")
    stage.until(lambda: stage.port.received == b"guestguest")
    terminal.monitor.expect(b"monitor" + FOCUS_OUT)
    assert HELLO.fullmatch(terminal.monitor.hello)
    terminal.type(SWITCH + b"again")
    terminal.monitor.expect(FOCUS_IN + b"again")
    assert terminal.monitor.opened == 1


def test_what_the_guest_writes_meanwhile_is_kept_and_stalls_it(
    terminal: Terminal, stage: Stage
) -> None:
    terminal.stdio.transmit(b"before")
    terminal.until(b"before")
    terminal.switch()
    terminal.stdio.transmit(b"x" * 200_000)
    assert terminal.stdio.unsent == 200_000  # the serial port stalls the guest by this
    terminal.monitor.client.sendall(b"monitor")
    assert b"x" not in terminal.until(b"monitor")
    drains = stage.port.drains
    terminal.switch()
    terminal.stdio.transmit(b"after")
    shown = terminal.until(b"after")
    assert shown.startswith(LEAVE.replace(b"\n", b"\r\n"))  # by the terminal
    assert shown.count(b"x") == 200_000
    stage.until(lambda: stage.port.drains == drains + 1)
    assert terminal.stdio.unsent == 0


def test_what_the_monitor_writes_meanwhile_is_kept_and_stalls_it(terminal: Terminal) -> None:
    terminal.switch()
    terminal.switch()
    terminal.stdio.transmit(b"guest")
    writer = threading.Thread(
        target=terminal.monitor.client.sendall, args=(b"y" * 1_000_000 + b"end",)
    )
    writer.start()
    assert b"y" not in terminal.until(b"guest")
    assert writer.is_alive()
    terminal.switch()
    assert terminal.until(b"end").count(b"y") == 1_000_000
    writer.join(PATIENCE)


def test_the_users_commands_work_while_the_guest_takes_nothing(
    terminal: Terminal, stage: Stage
) -> None:
    stage.port.room = 1
    for _ in range(3):
        terminal.type(b"typed")
    terminal.type(b"\x01x")
    stage.until(lambda: terminal.quits)
    terminal.switch()
    terminal.switch()
    stage.port.room = 1 << 30
    stage.run(terminal.stdio.resume)
    stage.until(lambda: stage.port.received == b"typedtypedtyped")


def test_typing_is_bounded_and_nothing_of_it_is_lost(terminal: Terminal, stage: Stage) -> None:
    stage.port.room = 0
    os.set_blocking(terminal.user, False)
    typed = 0
    while terminal.stdio._hungry:
        with suppress(BlockingIOError):
            typed += os.write(terminal.user, b"z" * 1000)
        stage.run(lambda: None)
    assert len(terminal.stdio._input) < TYPED_MAX + CHUNK
    stage.port.room = 1 << 30
    stage.run(terminal.stdio.resume)
    stage.until(lambda: len(stage.port.received) == typed)


def test_a_monitor_that_is_left_gives_the_terminal_back_and_can_be_opened_again(
    terminal: Terminal, stage: Stage
) -> None:
    terminal.switch()
    terminal.monitor.client.sendall(b"bye")
    terminal.monitor.client.close()
    stage.until(lambda: not terminal.stdio._in_front)
    assert terminal.monitor.waited == 1
    terminal.stdio.transmit(b"guest")
    assert b"bye" in terminal.until(b"guest")
    terminal.switch()
    assert terminal.monitor.opened == 2


def test_a_new_size_is_told_to_both(terminal: Terminal, stage: Stage) -> None:
    stage.port.resized = lambda: resized.append(True)  # type: ignore[attr-defined]
    resized: list[bool] = []
    terminal.switch()
    termios.tcsetwinsize(terminal.user, (50, 132))
    stage.run(terminal.stdio.resized)
    terminal.monitor.expect(b"\x1b[48;50;132;0;0t")
    assert resized


def test_help_names_the_keys_in_both(terminal: Terminal) -> None:
    last = b"send Ctrl-A itself\r\r\n"
    terminal.type(b"\x01h")
    assert b"Ctrl-A c" in terminal.until(last)
    terminal.switch()
    terminal.type(b"\x01h")
    assert b"Ctrl-A c" in terminal.until(last)
    terminal.monitor.expect(FOCUS_IN)  # draw the prompt again


def test_the_last_words_of_both_are_shown_at_the_end(terminal: Terminal, stage: Stage) -> None:
    terminal.switch()
    terminal.stdio.transmit(b"last of the guest")

    def say() -> None:
        assert terminal.monitor.client.recv(100) == b""  # there is no more input
        terminal.monitor.client.sendall(b"last of the monitor")
        terminal.monitor.client.close()

    speaker = threading.Thread(target=say)
    speaker.start()
    stage.run(terminal.stdio.close)
    speaker.join(PATIENCE)
    shown = terminal.until(b"last of the guest")
    assert b"last of the monitor" in shown


def test_in_a_pipe_the_monitor_has_stdio_without_escapes(stage: Stage) -> None:
    source, keyboard = os.pipe()
    reader, sink = os.pipe()
    monitor = Monitor()
    stdio = Stdio(stage.loop, lambda: None, monitor.serve, source, sink)
    stage.run(stdio.switch)
    stdio.attach(Unconnected())
    assert monitor.hello == "prompt off"
    os.write(keyboard, b"info\x01c\n")
    monitor.expect(b"info\x01c\n")
    os.close(keyboard)
    assert monitor.client.recv(10) == b""
    monitor.client.sendall(b"answer")
    monitor.client.close()
    assert os.read(reader, 100) == b"answer"
    stage.run(stdio.close)
    for fd in (source, reader, sink):
        os.close(fd)
