"""A named thread that owns one device's queues, state and back end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from pyvmm.log import Log
from pyvmm.loop import Loop, start_thread

log = Log(__name__)


class Worker:
    """A thread with an event loop of its own. It is started by the first `call`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = Loop()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def call(self, function: Callable[[], object]) -> None:
        """Run `function` on the worker's thread and wait for its end; raise what it raises.

        Any thread; on the worker's own it is just called. Raises HostError if the
        host allows no more threads.
        """
        if self._thread is threading.current_thread():
            function()
            return
        done = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                function()
            except BaseException as error:
                failed.append(error)
            done.set()

        self._start()
        self.loop.call_soon(run)
        done.wait()
        if failed:
            raise failed[0]

    def close(self) -> None:
        """End the thread and release the loop. Any other thread."""
        if self._thread is not None:
            self.loop.stop()
            self._thread.join()
            self._thread = None
        self.loop.close()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = start_thread(self.name, self._run)

    def _run(self) -> None:
        """A mistake in one device's code costs it that event, and neither it nor others more."""
        comm = f"/proc/self/task/{threading.get_native_id()}/comm"
        with suppress(OSError), open(comm, "w") as file:
            file.write(self.name)  # or it keeps that of the thread that started it, a vCPU's
        while True:
            try:
                self.loop.run()
            except Exception:
                log.exception("A mistake in the code of %s", self.name)
            else:
                return
