"""The event loop of one machine: descriptors, timers and calls from other threads."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from pyvmm.errors import HostError
from pyvmm.typed import Protocol

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Timer:
    """A call that is due at a time; `cancel` may be called on any thread, also after it ran."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Do not make the call."""
        self.callback = None


class Timers(Protocol):
    """What a device needs of the loop: the time and calls at a time. Any thread."""

    def now(self) -> float:
        """CLOCK_MONOTONIC in seconds."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call back on the loop's thread once `now()` has reached `when`."""


class Loop:
    """Waits for descriptors and timers on the one thread that calls `run`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, Callable[[], object]] = {}
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._calls: list[Callable[[], object]] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._stopped = False
        self._thread = 0  # the one that runs it
        self.watch(self._wake, self._woken)

    def close(self) -> None:
        """Release the loop's own descriptors; those that are watched belong to others."""
        self._epoll.close()
        os.close(self._wake)

    def now(self) -> float:
        """CLOCK_MONOTONIC in seconds. Any thread."""
        return time.monotonic()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call back on the loop's thread as soon as it is free. Any thread."""
        with self._lock:
            self._calls.append(callback)
        os.eventfd_write(self._wake, 1)

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call back on the loop's thread once `now()` has reached `when` (seconds). Any thread."""
        timer = Timer(callback)
        with self._lock:
            heapq.heappush(self._timers, (when, next(self._order), timer))
            first = self._timers[0][2] is timer
        if first and threading.get_ident() != self._thread:  # which looks before it waits
            os.eventfd_write(self._wake, 1)
        return timer

    def watch(self, fd: int, callback: Callable[[], object], events: int = READ) -> None:
        """Call back whenever `fd` is ready for `events`, in place of an earlier watch of it.

        Any thread. Raises PermissionError for a descriptor that cannot be waited for: a file.
        """
        with self._lock:
            if fd in self._watches:
                self._epoll.modify(fd, events)
            else:
                self._epoll.register(fd, events)
            self._watches[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Stop watching `fd`; not watching it is no error. Any thread; call it before close()."""
        with self._lock:
            if self._watches.pop(fd, None) is not None:
                with suppress(OSError):  # closed already
                    self._epoll.unregister(fd)

    def stop(self) -> None:
        """Make `run` return. Any thread."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Wait and call back until `stop`. The thread that calls it is the loop's."""
        self._thread = threading.get_ident()
        while not self._stopped:
            ready = [(fd, self._watches.get(fd)) for fd, _ in self._epoll.poll(self._timeout())]
            for fd, callback in ready:
                # A callback before this one may have ended its watch, and closed what it is about.
                if callback is not None and self._watches.get(fd) is callback:
                    callback()
            self._run_due()
        self._stopped = False

    def _woken(self) -> None:
        os.eventfd_read(self._wake)
        with self._lock:
            calls, self._calls = self._calls, []
        try:
            while calls:
                calls.pop(0)()
        finally:
            if calls:  # one has raised; the others are still owed
                with self._lock:
                    self._calls[:0] = calls
                os.eventfd_write(self._wake, 1)

    def _timeout(self) -> float | None:
        with self._lock:
            while self._timers and self._timers[0][2].callback is None:
                heapq.heappop(self._timers)
            return max(self._timers[0][0] - self.now(), 0.0) if self._timers else None

    def _run_due(self) -> None:
        while True:
            with self._lock:
                if not self._timers or self._timers[0][0] > self.now():
                    return
                callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callback()


def start_thread(name: str, target: Callable[..., None], *args: object) -> threading.Thread:
    """Start a thread that does not keep the process; HostError if the host allows no more."""
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise HostError(f"The host allows no more threads; {name} needs one") from error
    return thread
