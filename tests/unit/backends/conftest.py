from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from pyvmm.loop import Loop

PATIENCE = 30.0  # seconds until a test that waits is called stuck


def no_monitor(client: socket.socket, hello: str) -> NoReturn:
    raise AssertionError("nobody has asked for a monitor")


class FakePort:
    """A serial port with as much room as the test gives it; called on the loop's thread."""

    def __init__(self) -> None:
        self.room = 1 << 30
        self.received = bytearray()
        self.drains = 0
        self.inputs_ended = 0

    def receive(self, data: bytes) -> int:
        taken = min(self.room, len(data))
        self.received += data[:taken]
        self.room -= taken
        return taken

    def drained(self) -> None:
        self.drains += 1

    def ended(self) -> None:
        self.inputs_ended += 1


class Stage:
    """A loop on a thread of its own, and a port."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.port = FakePort()
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def run(self, function: Callable[[], object]) -> None:
        """Call `function` on the loop's thread and wait for it."""
        done = threading.Event()
        errors: list[BaseException] = []

        def call() -> None:
            try:
                function()
            except BaseException as error:
                errors.append(error)
            done.set()

        self.loop.call_soon(call)
        assert done.wait(PATIENCE)
        if errors:
            raise errors[0]

    def until(self, condition: Callable[[], object]) -> None:
        """Let the loop run until `condition` is true there."""
        deadline = time.monotonic() + PATIENCE
        while True:
            met: list[object] = []
            self.run(lambda: met.append(condition()))  # noqa: B023
            if met[0]:
                return
            assert time.monotonic() < deadline, "the condition was never met"

    def close(self) -> None:
        self.loop.stop()
        self._thread.join()
        self.loop.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()
