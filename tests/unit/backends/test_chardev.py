"""Streams, files and pseudo-terminals as the ends of a serial line."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.backends.buffer import Buffer
from pyvmm.backends.chardev import KEPT_UNREAD, Chardev, FileOutput, Pty, Stream, open_chardev
from pyvmm.backends.sockets import UnixServer
from pyvmm.backends.terminal import Stdio
from pyvmm.errors import HostError, UsageError
from tests.unit.backends.conftest import Stage, no_monitor


class Pipes:
    """A stream between two pipes, of which the test has the other ends."""

    def __init__(self, stage: Stage) -> None:
        source, self.keyboard = os.pipe()
        self.screen, sink = os.pipe()
        self.stream = Stream(stage.loop, source, sink, owned=(source, sink))
        self.stream.attach(stage.port)

    def close(self) -> None:
        self.stream.close()
        for fd in (self.keyboard, self.screen):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipes(stage: Stage) -> Iterator[Pipes]:
    pipes = Pipes(stage)
    yield pipes
    stage.run(pipes.close)


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_output_is_written_at_once(pipes: Pipes) -> None:
    pipes.stream.transmit(b"hello")
    assert os.read(pipes.screen, 100) == b"hello"
    assert pipes.stream.unsent == 0


def test_output_that_does_not_fit_is_kept_and_finished_when_it_does(
    stage: Stage, pipes: Pipes
) -> None:
    data = os.urandom(300_000)
    pipes.stream.transmit(data)
    assert pipes.stream.unsent > 0
    assert stage.port.drains == 0
    got = b""
    while len(got) < len(data):
        got += os.read(pipes.screen, 1 << 16)
    assert got == data
    stage.until(lambda: stage.port.drains == 1)
    assert pipes.stream.unsent == 0


def test_shared_descriptors_stay_blocking(pipes: Pipes) -> None:
    pipes.stream.transmit(bytes(200_000))
    assert all(os.get_blocking(fd) for fd in pipes.stream._owned)


def test_input_reaches_the_port(stage: Stage, pipes: Pipes) -> None:
    os.write(pipes.keyboard, b"hello")
    stage.until(lambda: stage.port.received == b"hello")


def test_input_waits_until_the_guest_has_room_and_nothing_is_lost(
    stage: Stage, pipes: Pipes
) -> None:
    stage.port.room = 3
    os.write(pipes.keyboard, b"hello ")
    stage.until(lambda: stage.port.room == 0)
    os.write(pipes.keyboard, b"world")
    stage.run(lambda: None)
    assert stage.port.received == b"hel"
    for _ in range(3):

        def room() -> None:
            stage.port.room = 4

        stage.run(room)
        pipes.stream.resume()
        stage.until(lambda: stage.port.room == 0 or len(stage.port.received) == 11)
    assert stage.port.received == b"hello world"


def test_end_of_input_leaves_the_output(stage: Stage, pipes: Pipes) -> None:
    os.close(pipes.keyboard)
    pipes.keyboard = -1
    stage.until(lambda: pipes.stream._source is None)
    pipes.stream.transmit(b"still here")
    assert os.read(pipes.screen, 100) == b"still here"


def test_output_nobody_will_read_is_dropped_and_said_once(
    stage: Stage, pipes: Pipes, caplog: pytest.LogCaptureFixture
) -> None:
    pipes.stream.transmit(bytes(200_000))
    os.close(pipes.screen)
    pipes.screen = -1
    stage.until(lambda: pipes.stream.unsent == 0)
    assert stage.port.drains == 1
    pipes.stream.transmit(b"more")
    assert pipes.stream.unsent == 0
    assert len(caplog.records) == 1


@pytest.mark.parametrize("size", [0, 1, 10_000])
def test_input_may_be_a_file(stage: Stage, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "in").write_bytes(data)
    source = os.open(tmp_path / "in", os.O_RDONLY)
    stream = Stream(stage.loop, source, None, owned=(source,))
    stage.port.room = 16
    stream.attach(stage.port)

    def guest_reads() -> bool:
        stage.port.room = 16
        stream.resume()
        return stream._source is None and not stream._input

    stage.until(guest_reads)
    assert stage.port.received == data
    stage.run(stream.close)


def test_a_file_is_read_to_its_end_while_the_guest_takes_it(stage: Stage, tmp_path: Path) -> None:
    data = os.urandom(50_000)
    (tmp_path / "in").write_bytes(data)
    source = os.open(tmp_path / "in", os.O_RDONLY)
    stream = Stream(stage.loop, source, None, owned=(source,))
    stream.attach(stage.port)
    stage.until(lambda: stream._source is None)
    assert stage.port.received == data
    stage.run(stream.close)


def test_dev_null_as_input_is_its_end(stage: Stage) -> None:
    source = os.open(os.devnull, os.O_RDONLY)
    stream = Stream(stage.loop, source, None, owned=(source,))
    stream.attach(stage.port)
    stage.until(lambda: stream._source is None)
    stage.run(stream.close)


def test_close_releases_every_descriptor_and_watch(stage: Stage, tmp_path: Path) -> None:
    before = open_fds()
    pipes = Pipes(stage)
    devices: list[Chardev] = [
        pipes.stream,
        Pty(stage.loop),
        FileOutput(stage.loop, str(tmp_path / "out")),
        UnixServer(stage.loop, str(tmp_path / "socket")),
        Buffer(stage.loop),
    ]
    for device in devices:
        device.attach(stage.port)
        device.transmit(bytes(100_000))
        stage.run(lambda: None)
    for device in devices:
        stage.run(device.close)
        stage.run(device.close)  # once more does nothing
        device.transmit(b"late")
        device.resume()
    stage.run(pipes.close)
    stage.run(lambda: None)
    assert open_fds() == before
    assert len(stage.loop._watches) == 1


def test_close_sends_the_last_output_to_a_reader_who_is_behind(stage: Stage) -> None:
    pipes = Pipes(stage)
    data = os.urandom(500_000)
    got = bytearray()

    def read() -> None:
        while piece := os.read(pipes.screen, 5000):
            got.extend(piece)

    pipes.stream.transmit(data)
    reader = threading.Thread(target=read)
    reader.start()
    stage.run(pipes.stream.close)
    reader.join()
    assert got == data
    stage.run(pipes.close)


# Files.


def test_a_file_is_truncated_and_private(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "log"
    device = FileOutput(stage.loop, str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    device.attach(stage.port)
    device.transmit(b"hello")
    assert path.read_bytes() == b"hello"
    stage.run(device.close)
    stage.run(FileOutput(stage.loop, str(path)).close)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("path", ["", "missing/log"])
def test_a_file_that_cannot_be_made_is_named(stage: Stage, tmp_path: Path, path: str) -> None:
    target = str(tmp_path / path)
    with pytest.raises(HostError, match=target):
        FileOutput(stage.loop, target)


# Pseudo-terminals.


@pytest.fixture
def pty(stage: Stage) -> Iterator[Pty]:
    pty = Pty(stage.loop)
    pty.attach(stage.port)
    yield pty
    stage.run(pty.close)


def test_a_program_at_the_pty_gets_and_sends_bytes_as_they_are(stage: Stage, pty: Pty) -> None:
    terminal = os.open(pty.where, os.O_RDWR | os.O_NOCTTY)
    data = bytes(range(256))
    pty.transmit(data)
    got = b""
    while len(got) < 256:
        got += os.read(terminal, 256)
    assert got == data
    os.write(terminal, data)
    stage.until(lambda: stage.port.received == data)
    os.close(terminal)


def test_programs_at_the_pty_come_and_go(stage: Stage, pty: Pty) -> None:
    for text in (b"first", b"second"):
        terminal = os.open(pty.where, os.O_RDWR | os.O_NOCTTY)
        stage.port.received.clear()
        os.write(terminal, text)
        stage.until(lambda: stage.port.received == text)  # noqa: B023
        pty.transmit(text)
        assert os.read(terminal, 100) == text
        os.close(terminal)


def test_a_pty_that_nobody_reads_never_stalls_the_guest(pty: Pty) -> None:
    for _ in range(40):
        pty.transmit(bytes(10_000))
        assert pty.unsent == 0
    assert len(pty._output) <= KEPT_UNREAD


# By name.


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("none", Chardev),
        ("pty", Pty),
        ("buffer", Buffer),
        ("stdio", Stdio),
        ("file:{}/log", FileOutput),
        ("unix:{}/socket", UnixServer),
    ],
)
def test_every_kind_opens_by_name(
    stage: Stage, tmp_path: Path, kind: str, made: type[Chardev]
) -> None:
    device = open_chardev(kind.format(tmp_path), stage.loop, lambda: None, no_monitor)
    assert type(device) is made
    device.attach(stage.port)
    stage.run(device.close)


@pytest.mark.parametrize("kind", ["", "file", "file:", "unix:", "pty:x", "stdio:0", "tcp:1"])
def test_what_is_no_kind_is_refused(stage: Stage, kind: str) -> None:
    with pytest.raises(UsageError, match="must be stdio"):
        open_chardev(kind, stage.loop, lambda: None, no_monitor)


def test_none_takes_everything(stage: Stage) -> None:
    device = Chardev()
    device.attach(stage.port)
    device.transmit(bytes(1 << 20))
    assert device.unsent == 0
