"""User networking in Python: a network of the guest's own behind libslirp, which needs no rights.

csrc/user.c does the same for a device whose queues it walks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from pyvmm.backends import libslirp
from pyvmm.backends import slirp_spec as spec
from pyvmm.backends.libslirp import LibSlirp
from pyvmm.backends.slirp_options import Subnet
from pyvmm.loop import Loop
from pyvmm.typed import Any, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

WHOLE = bytes(12)  # struct virtio_net_hdr (VIRTIO 1.2 §5.1.6) of a frame with nothing left to do
# SLIRP_POLL_ flags as epoll's events, and these as those.
SWAP = [
    events & ~(spec.POLL_OUT | spec.POLL_PRI)
    | (events & spec.POLL_OUT) << 1
    | (events & spec.POLL_PRI) >> 1
    for events in range(spec.POLL_ALL + 1)
]


class Slirp(LibSlirp):
    """See pyvmm.virtio.net.Link. Any thread may make it; the rest is on the worker's."""

    def __init__(self, subnet: Subnet, **options: Any) -> None:
        """See LibSlirp."""
        self._receive: Callable[[Sequence[Buffer]], bool]
        self._may_receive = False  # not before `open` has returned, nor in `send`: see Link
        self._kept: deque[bytes] = deque()  # frames that wait to be received
        self._kept_size = 0
        self._stalled = False  # the guest has no room for them
        self._wanted: dict[int, int] = {}  # libslirp's sockets: what it waits for
        self._watched: dict[int, int] = {}  # the same, as the epoll has it
        self._ready: dict[int, int] = {}
        self._polling = False  # a turn is about to be made
        super().__init__(subnet, **options)
        self._timeout = self._ffi.new("uint32_t *")
        self._add_poll = self._ffi.callback("SlirpAddPollCb", self._want)
        self._get_revents = self._ffi.callback("SlirpGetREventsCb", self._readiness)

    def open(
        self,
        loop: Loop,
        receive: Callable[[Sequence[Buffer]], bool],
        changed: Callable[[], object],
    ) -> None:
        """See Link."""
        self._loop, self._receive = loop, receive
        loop.watch(self._epoll.fileno(), self.turn)
        self._poll_soon()

    def send(self, frame: Sequence[Buffer]) -> None:
        """See Link."""
        data = frame[1] if len(frame) == 2 else b"".join(frame[1:])
        self._may_receive = False
        self._lib.slirp_input(self._slirp, self._ffi.from_buffer(data), len(data))
        self._poll_soon()

    def wake(self) -> None:
        """See Link."""
        if self._stalled and self._loop is not None:
            self._stalled = False
            self._loop.watch(self._epoll.fileno(), self.turn)
            self._poll_soon()

    def close(self) -> None:
        """See Link. May be called twice."""
        self._may_receive = False
        super().close()

    def _functions(self) -> dict[str, Callable[..., Any] | int]:
        return super()._functions() | {
            "send_packet": self._take,
            "clock_get_ns": lambda _: time.monotonic_ns(),
            "register_poll_fd": self._forget,
            "unregister_poll_fd": self._forget,
            "notify": lambda _: None,  # whatever it is about is followed by a turn
        }

    # ---- waiting ----

    def _poll_soon(self) -> None:
        """Poll once this turn of the loop is done: once for all frames that are sent in it."""
        if not self._polling and self._loop is not None:
            self._polling = True
            self._loop.call_at(0.0, self.turn)

    def turn(self) -> None:
        """Receive what waits, tell libslirp what is ready, and ask what it waits for now."""
        self._polling = False
        if self._loop is None:
            return
        self._may_receive = True
        while self._kept and not self._stalled:
            if self._offer(self._kept[0]):
                self._kept_size -= len(self._kept.popleft())
        # While the guest has no room what comes for it is left in the sockets.
        ready = () if self._stalled else self._epoll.poll(0)
        self._ready = {fd: SWAP[events] for fd, events in ready}
        self._lib.slirp_pollfds_poll(self._slirp, False, self._get_revents, self._ffi.NULL)
        self._wanted = {}
        self._timeout[0] = spec.TIMEOUT_NONE
        self._lib.slirp_pollfds_fill(self._slirp, self._timeout, self._add_poll, self._ffi.NULL)
        self._watch()
        self._set_timer(self._timeout[0])

    def _watch(self) -> None:
        """Make the epoll what libslirp wants."""
        if self._wanted == self._watched:
            return
        for fd in self._watched.keys() - self._wanted.keys():
            self._forget(fd, None)
        for fd, events in self._wanted.items():
            if fd not in self._watched:
                self._epoll.register(fd, SWAP[events])
            elif self._watched[fd] != events:
                self._epoll.modify(fd, SWAP[events])
        self._watched = self._wanted

    def _offer(self, frame: bytes | memoryview) -> bool:
        """Have the guest receive a frame; if it has no room, stall until `wake`."""
        if self._receive((WHOLE, frame)):
            return True
        assert self._loop is not None
        self._stalled = True
        self._loop.unwatch(self._epoll.fileno())
        return False

    # ---- what libslirp calls ----

    def _take(self, frame: Any, length: int, _: Any) -> int:
        """Receive a frame now if that may be, else keep it, else drop it: TCP sends it again."""
        view = memoryview(self._ffi.buffer(frame, length))
        if self._may_receive and not self._stalled and self._offer(view):
            return length
        if self._kept_size + length <= libslirp.KEPT_MAX:
            self._kept.append(bytes(view))
            self._kept_size += length
        return length

    def _want(self, fd: int, events: int, _: Any) -> int:
        self._wanted[fd] = events
        return fd  # by which _readiness is asked for it

    def _readiness(self, fd: int, _: Any) -> int:
        return self._ready.get(fd, 0)

    def _forget(self, fd: int, _: Any) -> None:
        """A socket is about to be closed, or is new and has the number of one that was."""
        if self._watched.pop(fd, None) is not None:
            with suppress(OSError):
                self._epoll.unregister(fd)
