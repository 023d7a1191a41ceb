"""User networking whose frames and sockets csrc/user.c sees to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyvmm.backends import libslirp
from pyvmm.backends.libslirp import LibSlirp
from pyvmm.backends.slirp_options import Subnet
from pyvmm.errors import HostError
from pyvmm.loop import Loop
from pyvmm.native import ffi, lib
from pyvmm.typed import Any

FUNCTIONS = {  # libslirp's, by their names in struct pv_user
    "input": "slirp_input",
    "fill": "slirp_pollfds_fill",
    "poll": "slirp_pollfds_poll",
}
CALLBACKS = {  # by their names in SlirpCb
    "send_packet": "pv_user_take",
    "clock_get_ns": "pv_user_clock",
    "register_poll_fd": "pv_user_forget",
    "unregister_poll_fd": "pv_user_forget",
    "notify": "pv_user_notify",
}


class NativeSlirp(LibSlirp):
    """See UserLink in pyvmm/virtio/user_net.py. Any thread may make it; the rest is on one."""

    def __init__(self, subnet: Subnet, **options: Any) -> None:
        """See LibSlirp."""
        self.native = ffi.new("struct pv_user *", {"up": True})
        if lib.pv_user_open(self.native):
            raise HostError("The host has no memory for user networking")
        self._opaque = _address(self.native)
        self._stalled = False
        try:
            super().__init__(subnet, **options)
        except BaseException:
            lib.pv_user_close(self.native)
            raise
        native = self.native
        native.slirp = _ours("void *", self._slirp)
        native.epoll = self._epoll.fileno()
        native.kept_max = libslirp.KEPT_MAX
        for name, theirs in FUNCTIONS.items():
            kind = ffi.typeof(getattr(native, name))
            setattr(native, name, _ours(kind, getattr(self._lib, theirs)))

    def open(
        self,
        loop: Loop,
        receive: Callable[[Sequence[Any]], bool],
        changed: Callable[[], object],
    ) -> None:
        """See Link; `receive` is not called, for csrc/user.c gives the driver its frames."""
        self._loop = loop
        loop.watch(self._epoll.fileno(), self.turn)
        self.turn()

    def send(self, frame: Sequence[memoryview]) -> None:
        """See Link: csrc/user.c sends."""
        raise NotImplementedError

    def wake(self) -> None:
        """See Link: nothing was refused."""

    def turn(self) -> None:
        """Move what there is, both ways, and find out what to wait for now."""
        if self._loop is None:
            return
        lib.pv_user_turn(self.native)
        stalled = self.native.kept > 0
        if stalled != self._stalled:
            self._stalled = stalled
            if stalled:  # what comes for the guest is left in the sockets
                self._loop.unwatch(self._epoll.fileno())
            else:
                self._loop.watch(self._epoll.fileno(), self.turn)
        self._set_timer(self.native.timeout)

    def close(self) -> None:
        """See Link. May be called twice."""
        super().close()
        lib.pv_user_close(self.native)

    def _functions(self) -> dict[str, Callable[..., Any] | int]:
        natively = {name: _address(ffi.addressof(lib, ours)) for name, ours in CALLBACKS.items()}
        return super()._functions() | natively


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def _ours(kind: Any, theirs: Any) -> Any:
    """A pointer of libslirp's cffi as one of this."""
    return ffi.cast(kind, _address(theirs))
