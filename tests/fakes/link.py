"""The host's side of a network device, in the hands of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from pyvmm.loop import Loop
from pyvmm.virtio.net_frame import WHOLE
from tests.fakes.driver import PATIENCE

HEADER = len(WHOLE)


class FakeLink:
    """Keeps what is sent as (header, frame); `give` offers a frame as a real link does."""

    def __init__(self, offloads: int = 0, mtu: int = 1500) -> None:
        self.offloads = offloads
        self.mtu = mtu
        self.up = True
        self.sent: list[tuple[bytes, bytes]] = []
        self.error: OSError | None = None  # that `send` raises
        self.accepted: int | None = None  # the offloads that the driver takes
        self.waiting: list[Sequence[bytes]] = []  # what the guest has no room for
        self.woken = threading.Semaphore(0)
        self.closed = False
        self._changed = threading.Condition()

    def open(
        self,
        loop: Loop,
        receive: Callable[[Sequence[bytes]], bool],
        changed: Callable[[], object],
    ) -> None:
        self.loop, self.receive, self.changed = loop, receive, changed

    def set_offloads(self, offloads: int) -> None:
        self.accepted = offloads

    def send(self, frame: Sequence[memoryview]) -> None:
        if self.error is not None:
            raise self.error
        assert len(frame[0]) == HEADER
        with self._changed:
            self.sent.append((bytes(frame[0]), b"".join(frame[1:])))
            self._changed.notify_all()

    def wake(self) -> None:
        while self.waiting and self.receive(self.waiting[0]):
            self.waiting.pop(0)
        self.woken.release()

    def close(self) -> None:
        self.closed = True

    # ---- the test's side ----

    def call(self, function: Callable[[], object]) -> None:
        """Run it on the device's worker, and wait."""
        done = threading.Event()
        self.loop.call_soon(lambda: (function(), done.set()))
        assert done.wait(PATIENCE)

    def give(self, frame: bytes, header: bytes = WHOLE) -> bool:
        """Whether the device took a frame; if not, it waits."""
        taken: list[bool] = []

        def offer() -> None:
            taken.append(self.receive((header, frame)))
            if not taken[0]:
                self.waiting.append((header, frame))

        self.call(offer)
        return taken[0]

    def wait_sent(self, count: int) -> list[tuple[bytes, bytes]]:
        """The first `count` frames that were sent, once they are."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.sent) >= count, PATIENCE)
            return self.sent[:count]

    def set_up(self, up: bool) -> None:
        """The other end has come or gone."""
        self.up = up
        self.call(self.changed)
