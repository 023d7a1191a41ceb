"""libslirp, without those who move its frames: how it is made, its timers and its complaints.

It ends the guest's connections in sockets of this process, and is a DHCP and name server. It has no
thread: before each wait it is asked which sockets it waits for and how long, after each it is told
which of them are ready. They are in an epoll of their own, which the worker's loop watches as one
descriptor.
"""

from __future__ import annotations

import itertools
import os
import select
import time
from collections.abc import Callable, Sequence
from functools import partial

from pyvmm.backends import slirp_spec as spec
from pyvmm.backends.slirp_options import Forward, Subnet, parse_address
from pyvmm.errors import HostError
from pyvmm.log import Log
from pyvmm.loop import Loop, Timer
from pyvmm.typed import Any

log = Log(__name__)
_handlers: list[Any] = []  # GLib's, for as long as the process lives
_warnings = itertools.count()

KEPT_MAX = 4 << 20  # bytes of frames that wait for room in the guest; what is more is dropped
COMPLAINTS_MAX = 16  # log lines about what the guest did wrong: it could cause any number
MS = 1_000_000  # nanoseconds


class LibSlirp:
    """One network. Any thread may make it; the rest is on the worker's."""

    offloads = 0
    up = True
    _opaque = 0  # what its callbacks get, an address

    def __init__(
        self,
        subnet: Subnet,
        *,
        mtu: int = 0,
        forwards: Sequence[Forward] = (),
        restrict: bool = False,
        ipv6: bool = True,
        hostname: str = "",
    ) -> None:
        """`restrict` keeps the guest from everything but DHCP and what is forwarded to it.

        `mtu` is the most bytes that a frame carries, from 68 on, or 0 for as many as can be;
        `hostname` is what DHCP tells the guest that it is called. Raises HostError: there is no
        libslirp, or a port cannot be listened on.
        """
        self.mtu = min(mtu or spec.MTU, spec.MTU)
        self._ffi, self._lib = _load()
        self._loop: Loop | None = None
        self._complaints = 0
        self._epoll = select.epoll()
        self._timer: Timer | None = None
        self._due = 0.0  # when it is
        self._inner_timers: dict[Any, _InnerTimer] = {}
        self._callbacks = self._make_callbacks()
        self._slirp = self._make(subnet, restrict, ipv6, hostname)
        try:
            for forward in forwards:
                self._forward(forward, subnet)
        except BaseException:
            self.close()
            raise

    def set_offloads(self, offloads: int) -> None:
        """See pyvmm.virtio.net.Link: there are none."""

    def turn(self) -> None:
        """See to what has come, and find out what to wait for now."""
        raise NotImplementedError

    def close(self) -> None:
        """See pyvmm.virtio.net.Link. May be called twice."""
        if self._epoll.closed:
            return
        if self._loop is not None:
            self._loop.unwatch(self._epoll.fileno())
        self._loop = None
        self._lib.slirp_cleanup(self._slirp)
        self._epoll.close()

    # ---- making it ----

    def _functions(self) -> dict[str, Callable[..., Any] | int]:
        """What it calls, by its names in SlirpCb: in Python, or the address of a function in C."""
        return {
            "guest_error": self._complain,
            "timer_new": self._timer_new,
            "timer_free": self._timer_free,
            "timer_mod": self._timer_mod,
        }

    def _make_callbacks(self) -> Any:
        functions = self._functions()
        self._kept_alive = [  # a structure does not
            self._callback(field.type, functions[name])
            for name, field in self._ffi.typeof("SlirpCb").fields
        ]
        return self._ffi.new("SlirpCb *", self._kept_alive)

    def _callback(self, kind: Any, function: Callable[..., Any] | int) -> Any:
        if isinstance(function, int):
            return self._ffi.cast(kind, function)
        return self._ffi.callback(kind, function)

    def _make(self, subnet: Subnet, restrict: bool, ipv6: bool, hostname: str) -> Any:
        name = self._ffi.new("char[]", hostname.encode()) if hostname else self._ffi.NULL
        config = {
            "version": spec.CONFIG_VERSION,
            "restricted": restrict,
            "in_enabled": True,
            "vnetwork": _in_addr(subnet.address(0)),
            "vnetmask": _in_addr(subnet.mask),
            "vhost": _in_addr(subnet.address(spec.HOST)),
            "vnameserver": _in_addr(subnet.address(spec.NAME_SERVER)),
            "vdhcp_start": _in_addr(subnet.address(spec.FIRST_GUEST)),
            "in6_enabled": ipv6,
            "vprefix_addr6": _in6_addr(0),
            "vprefix_len": spec.PREFIX6_BITS,
            "vhost6": _in6_addr(spec.HOST),
            "vnameserver6": _in6_addr(spec.NAME_SERVER),
            "vhostname": name,
            "if_mtu": self.mtu,
            "if_mru": self.mtu,
        }
        return self._lib.slirp_new(
            self._ffi.new("SlirpConfig *", config),
            self._callbacks,
            self._ffi.cast("void *", self._opaque),
        )

    def _forward(self, forward: Forward, subnet: Subnet) -> None:
        flags = spec.FORWARD_UDP if forward.protocol == "udp" else 0
        if ":" in forward.host:
            flags |= spec.FORWARD_IPV6_ONLY
            address = bytes(16)  # libslirp finds out which the guest has
        else:
            address = subnet.address(spec.FIRST_GUEST)
        host = _sockaddr(parse_address(forward.host), forward.port)
        guest = _sockaddr(address, forward.guest_port)
        if self._lib.slirp_add_hostxfwd(self._slirp, host, len(host), guest, len(guest), flags):
            raise HostError(
                f"{forward.protocol.upper()} port {forward.port} of {forward.host} cannot be "
                f"forwarded: {os.strerror(self._ffi.errno)}"
            )

    # ---- time ----

    def _set_timer(self, timeout: int) -> None:
        """Have a turn after `timeout` ms at most; a timer that is due before does no harm."""
        assert self._loop is not None
        due = self._loop.now() + timeout / 1000
        if self._timer is None or due < self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._due = due
            self._timer = self._loop.call_at(due, self._expired)

    def _expired(self) -> None:
        self._timer = None
        for timer in [*self._inner_timers.values()]:
            timer.run()
        if self._loop is not None:
            self.turn()

    # ---- what libslirp calls ----

    def _complain(self, message: Any, _: Any) -> None:
        self._complaints += 1
        if self._complaints <= COMPLAINTS_MAX:
            log.warning("the guest: %s", self._ffi.string(message).decode(errors="replace"))

    def _timer_new(self, function: Any, argument: Any, _: Any) -> Any:
        timer = _InnerTimer(function, argument)
        handle = self._ffi.new_handle(timer)
        self._inner_timers[handle] = timer
        return handle

    def _timer_free(self, handle: Any, _: Any) -> None:
        self._inner_timers.pop(handle, None)

    def _timer_mod(self, handle: Any, expiry: int, _: Any) -> None:
        self._inner_timers[handle].expiry = expiry


class _InnerTimer:
    """A timer of libslirp's: the sending of router advertisements."""

    def __init__(self, function: Callable[[Any], object], argument: Any) -> None:
        self._function, self._argument = function, argument
        self.expiry = 0  # ms of CLOCK_MONOTONIC; 0 if it does not run

    def run(self) -> None:
        """Call back if it is time."""
        if self.expiry and self.expiry <= time.monotonic_ns() // MS:
            self.expiry = 0
            self._function(self._argument)


def _load() -> tuple[Any, Any]:
    """cffi and libslirp, loaded once. Raises HostError."""
    try:
        from pyvmm.backends._libslirp import ffi
    except ImportError:
        raise HostError("pyvmm's part for libslirp is not built; run `make build`") from None
    try:
        lib = ffi.dlopen(spec.LIBRARY)
    except OSError as error:
        raise HostError(
            f"User networking needs libslirp, the package {spec.PACKAGE}: {error}"
        ) from None
    try:
        lib.slirp_add_hostxfwd  # noqa: B018  to look it up
    except AttributeError:
        version = ffi.string(lib.slirp_version_string()).decode()
        raise HostError(
            f"User networking needs libslirp {spec.VERSION_MIN} or later, not {version}"
        ) from None
    if not _handlers:  # GLib would print
        _handlers.append(ffi.callback("GLogFunc", partial(_log, ffi)))
        lib.g_log_set_handler(spec.LOG_DOMAIN, spec.LOG_LEVELS, _handlers[0], ffi.NULL)
    return ffi, lib


def _log(ffi: Any, domain: Any, level: int, message: Any, data: Any) -> None:
    """Log a warning of libslirp's own, unless there have been enough. Any thread."""
    if level <= spec.LOG_WARNING and next(_warnings) < COMPLAINTS_MAX:
        log.warning("libslirp: %s", ffi.string(message).decode(errors="replace"))


def _in_addr(address: bytes) -> int:
    """A struct in_addr, by value."""
    return int.from_bytes(address, "little")


def _in6_addr(host: int) -> dict[str, Any]:
    """The struct in6_addr of one of the network's own hosts, by value."""
    return {"words": list(memoryview(spec.PREFIX6[:-1] + bytes([host])).cast("I"))}


def _sockaddr(address: bytes, port: int) -> bytes:
    """A struct sockaddr_in or sockaddr_in6."""
    if len(address) == 4:
        return spec.SOCKADDR_IN.pack(spec.AF_INET, port.to_bytes(2, "big"), address)
    return spec.SOCKADDR_IN6.pack(spec.AF_INET6, port.to_bytes(2, "big"), 0, address, 0)
