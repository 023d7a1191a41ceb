"""A serial line for a program: wait for output, send input."""

from __future__ import annotations

import threading

from pyvmm.backends.chardev import Chardev
from pyvmm.errors import PyvmmError
from pyvmm.loop import Loop

HISTORY = 1 << 20  # bytes of output kept
SHOWN = 200  # bytes of output that an error quotes


class Buffer(Chardev):
    """Keeps the guest's output, the last MiB of it. All methods may be called on any thread.

    Input that the guest has no room for waits, without a limit: it is the program's own.
    """

    where = "buffer"

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._input = bytearray()  # the loop's thread only
        self._history = bytearray()
        self._seen = 0  # how much of the history `expect` has returned
        self._changed = threading.Condition()
        self._ended: object = None  # by what
        self._closed = False

    @property
    def output(self) -> bytes:
        """What the guest has written, the last MiB of it."""
        with self._changed:
            return bytes(self._history)

    def expect(self, pattern: bytes, timeout: float) -> bytes:
        """Wait for `pattern` in the output that no earlier call returned; return all up to it.

        Raises TimeoutError after `timeout` seconds, PyvmmError once the guest has ended, with
        its end, or the machine is closed; each quotes the last output. One thread at a time.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._find(pattern) >= 0 or self._ended or self._closed, timeout
            )
            at = self._find(pattern)
            if at < 0:
                last = bytes(self._history[self._seen :][-SHOWN:])
                missing = f"the guest wrote {pattern!r}; its last output is {last!r}"
                if self._closed:
                    raise PyvmmError(f"The machine was closed before {missing}")
                if self._ended:
                    raise PyvmmError(
                        f"The guest ended before {missing}; its end is {self._ended!r}"
                    )
                raise TimeoutError(f"{timeout:g} s passed before {missing}")
            end = at + len(pattern)
            found = bytes(self._history[self._seen : end])
            self._seen = end
        return found

    def write(self, data: bytes) -> None:
        """Send `data` to the guest."""
        self._loop.call_soon(lambda: self._feed(data))

    def transmit(self, data: bytes) -> None:
        """Keep the guest's output."""
        with self._changed:
            self._history += data
            excess = max(len(self._history) - HISTORY, 0)
            del self._history[:excess]
            self._seen = max(self._seen - excess, 0)
            self._changed.notify_all()

    def resume(self) -> None:
        """Offer what waits, on the loop's thread."""
        self._loop.call_soon(lambda: self._feed(b""))

    def ended(self, how: object) -> None:
        """Wake those who wait."""
        with self._changed:
            self._ended = how
            self._changed.notify_all()

    def close(self) -> None:
        """Wake those who wait; the output stays."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _find(self, pattern: bytes) -> int:
        return self._history.find(pattern, self._seen)

    def _feed(self, data: bytes) -> None:
        self._input += data
        if self._input and not self._closed:
            del self._input[: self._port.receive(bytes(self._input))]
