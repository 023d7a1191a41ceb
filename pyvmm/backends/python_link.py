"""A network that is a Python object."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Sequence

from pyvmm.backends import frame_spec as spec
from pyvmm.errors import UsageError
from pyvmm.loop import Loop
from pyvmm.typed import Any, Protocol

KEPT = 256  # frames for which the guest has no room yet


class Backend(Protocol):
    """What a program gives as a network. Frames are bytes, from the Ethernet header on."""

    def attach(self, receive: Callable[[bytes], bool]) -> object:
        """Learn how to give the guest a frame, before anything else is called.

        Any thread may call `receive`; it is False if the frame is dropped, because too many wait
        already. It raises ValueError for what is no frame.
        """

    def send(self, frame: bytes) -> object:
        """The guest sends a frame. The device's own thread; an exception drops the frame."""


class PythonLink:
    """A Backend as a pyvmm.virtio.net.Link."""

    offloads = 0
    mtu = spec.MTU_MAX
    up = True

    def __init__(self, backend: Any) -> None:
        """Raises UsageError if `backend` has not what a network must have."""
        for name in ("attach", "send"):
            if not callable(getattr(backend, name, None)):
                raise UsageError(f"A network's backend must have a method {name}")
        self._backend = backend
        self._lock = threading.Lock()
        self._frames: deque[bytes] = deque()
        self._loop: Loop | None = None  # while frames may be given to the guest

    def open(
        self,
        loop: Loop,
        receive: Callable[[Sequence[bytes | memoryview]], bool],
        changed: Callable[[], object],
    ) -> None:
        """See Link."""
        self._loop, self._take = loop, receive
        self._backend.attach(self.receive)

    def close(self) -> None:
        """See Link. The program made the backend, and it remains the program's."""
        with self._lock:
            self._loop = None

    def set_offloads(self, offloads: int) -> None:
        """See Link."""

    def send(self, frame: Sequence[bytes | memoryview]) -> None:
        """See Link."""
        try:
            self._backend.send(b"".join(frame[1:]))
        except Exception as error:
            name = type(self._backend).__name__
            raise OSError(errno.EIO, f"{name}.send() raised {error!r}") from error

    def receive(self, frame: bytes) -> bool:
        """See Backend.attach."""
        if not spec.ETHERNET_SIZE <= len(frame) <= spec.FRAME_MAX:
            raise ValueError(
                f"A frame must have {spec.ETHERNET_SIZE} to {spec.FRAME_MAX} bytes, "
                f"not {len(frame)}"
            )
        with self._lock:
            if self._loop is None or len(self._frames) == KEPT:
                return False
            self._frames.append(bytes(frame))
            if len(self._frames) == 1:
                self._loop.call_soon(self.wake)
        return True

    def wake(self) -> None:
        """See Link."""
        while self._frames and self._take((spec.WHOLE, self._frames[0])):
            with self._lock:
                self._frames.popleft()
