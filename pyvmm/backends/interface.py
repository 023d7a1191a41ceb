"""Network interfaces of the host: what `ip link` does to them, by ioctl(2).

All functions may be called on any thread; its network namespace is the one meant. They raise
HostError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress

from pyvmm.backends import tap_spec as spec
from pyvmm.errors import HostError, UsageError


def check_name(name: str) -> None:
    """Raise UsageError for what cannot be an interface's name (dev_valid_name in Linux)."""
    bad = name in (".", "..") or any(c in "/:%" or c.isspace() or c == "\0" for c in name)
    if bad or not 1 <= len(os.fsencode(name)) <= spec.NAME_MAX:
        raise UsageError(f"An interface's name must have 1 to {spec.NAME_MAX} bytes, not {name!r}")


def exists(name: str) -> bool:
    """Whether there is an interface of that name."""
    try:
        _request(name, spec.SIOCGIFINDEX)
    except OSError:
        return False
    return True


def set_up(name: str) -> None:
    """Bring it up; nothing happens if it is."""
    try:
        (flags,) = spec.IFREQ_FLAGS.unpack(_request(name, spec.SIOCGIFFLAGS))[1:]
        if not flags & spec.IFF_UP:
            up = spec.IFREQ_FLAGS.pack(os.fsencode(name), flags | spec.IFF_UP)
            _ioctl(spec.SIOCSIFFLAGS, up)
    except OSError as error:
        raise HostError(
            f"{name} cannot be brought up: {error.strerror}; root can: ip link set {name} up"
        ) from error


def mtu(name: str) -> int:
    """Its MTU, in bytes."""
    try:
        return int(spec.IFREQ_INT.unpack(_request(name, spec.SIOCGIFMTU))[1])
    except OSError as error:
        raise HostError(f"The MTU of {name} cannot be read: {error.strerror}") from error


def set_mtu(name: str, size: int) -> None:
    """Set its MTU, in bytes; nothing happens if it is that."""
    if mtu(name) == size:
        return
    try:
        _ioctl(spec.SIOCSIFMTU, spec.IFREQ_INT.pack(os.fsencode(name), size))
    except OSError as error:
        raise HostError(f"The MTU of {name} cannot be {size}: {error.strerror}") from error


def join_bridge(name: str, bridge: str) -> None:
    """Make it a port of `bridge`, where it must not be one of another."""
    try:
        _port(bridge, name, spec.SIOCBRADDIF)
    except OSError as error:
        reason = {
            errno.ENODEV: f"there is none of that name; root can create it: ip link add {bridge} "
            "type bridge",
            errno.EOPNOTSUPP: "it is another kind of interface",
            errno.EBUSY: f"{name} is a port of a bridge already",
            errno.EPERM: "that takes the right CAP_NET_ADMIN: run pyvmm as root, or have root "
            f"prepare {name}",
        }.get(error.errno or 0, error.strerror)
        raise HostError(f"{name} cannot join the bridge {bridge}: {reason}") from error


def leave_bridge(name: str, bridge: str) -> None:
    """Undo `join_bridge`; either may be gone."""
    with suppress(OSError):
        _port(bridge, name, spec.SIOCBRDELIF)


def _port(bridge: str, name: str, request: int) -> None:
    index = spec.IFREQ_INT.unpack(_request(name, spec.SIOCGIFINDEX))[1]
    _ioctl(request, spec.IFREQ_INT.pack(os.fsencode(bridge), index))


def _request(name: str, request: int) -> bytes:
    """Ask for what fits into a struct ifreq. Raises OSError."""
    return _ioctl(request, spec.IFREQ_INT.pack(os.fsencode(name), 0))


def _ioctl(request: int, argument: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        return fcntl.ioctl(control, request, argument)
