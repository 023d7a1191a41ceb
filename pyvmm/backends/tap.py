"""A tap interface of the host: Ethernet frames to and from the host's own network stack.

Each frame has a virtio_net_hdr in front, which the kernel reads and writes itself. Whoever moves
the frames, the kernel (vhost-net), csrc/net.c or this class, does so by `fds`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from pyvmm.backends import interface
from pyvmm.backends import tap_spec as spec
from pyvmm.errors import HostError
from pyvmm.loop import Loop
from pyvmm.typed import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

BURST = 64  # frames taken before the loop's other descriptors have their turn


class Tap:
    """A tap, as the only program that has it. It is a Link of pyvmm/virtio/net.py.

    `name` is the interface's, `fds` its queues, one for each pair of the device's. The methods are
    called on the device's worker's thread.
    """

    def __init__(
        self, name: str = "", *, queues: int = 1, bridge: str = "", script: str = "", mtu: int = 0
    ) -> None:
        """Open the tap `name`, or create it: then it vanishes with `close`.

        Without a name the host chooses one. `script` is run with the name as its argument. `mtu` is
        in bytes; 0 leaves it as it is.
        Raises UsageError for a name that cannot be, HostError.
        """
        if name:
            interface.check_name(name)
        with ExitStack() as stack:
            self.name, self.fds = _open_queues(name, queues, stack)
            self.offloads = _probe_offloads(self.fds[0], self.name)
            if mtu:
                interface.set_mtu(self.name, mtu)
            self.mtu = interface.mtu(self.name)
            if bridge:
                interface.join_bridge(self.name, bridge)
                stack.callback(interface.leave_bridge, self.name, bridge)
            if script:
                _run(script, self.name)
            interface.set_up(self.name)
            self._resources = stack.pop_all()
        self.up = True
        self.set_filter((), False)  # an existing tap has what another program has left
        self._checksums = False
        self._attached = queues
        self._loop: Loop | None = None
        self._receive: Callable[[Sequence[Buffer]], bool]
        self._changed: Callable[[], object]
        self._buffer = memoryview(bytearray(spec.FRAME_MAX))
        self._waiting: Sequence[memoryview] | None = None  # a frame that there was no room for

    def close(self) -> None:
        """Release it; not moving frames before is no error."""
        self._unwatch()
        self.set_filter((), False)
        self.set_offloads(0)
        self._resources.close()

    # ---- what the device negotiates ----

    def set_offloads(self, features: int) -> None:
        """Hand over only what a driver that has accepted `features` understands."""
        self._checksums = bool(features & spec.F_GUEST_CSUM)
        offloads = sum(tun for bit, tun in spec.OFFLOADS.items() if features & bit)
        if offloads & spec.TUN_F_USO != spec.TUN_F_USO:  # Linux refuses to do one without the other
            offloads &= ~spec.TUN_F_USO
        with suppress(OSError):  # the interface is gone
            fcntl.ioctl(self.fds[0], spec.TUNSETOFFLOAD, offloads)

    def attach(self, pairs: int) -> None:
        """Spread what comes over the first `pairs` queues only."""
        for index, fd in enumerate(self.fds):
            wanted = index < pairs
            if wanted != (index < self._attached):
                flags = spec.IFF_ATTACH_QUEUE if wanted else spec.IFF_DETACH_QUEUE
                with suppress(OSError):  # the interface is gone
                    fcntl.ioctl(fd, spec.TUNSETQUEUE, spec.IFREQ_FLAGS.pack(b"", flags))
        self._attached = pairs

    def set_filter(self, addresses: Sequence[bytes], all_multicast: bool) -> None:
        """Take only frames to these addresses of 6 bytes; none lets everything pass.

        The kernel compares eight of them, and the further multicast ones by a hash.
        """
        flags = spec.FLT_ALLMULTI if all_multicast else 0
        filter = spec.FILTER.pack(flags, len(addresses)) + b"".join(addresses)
        with suppress(OSError):  # the interface is gone
            fcntl.ioctl(self.fds[0], spec.TUNSETTXFILTER, filter)

    def set_carrier(self, carrier: bool) -> None:
        """Plug the host's end in, or pull it out. Any thread."""
        with suppress(OSError):  # Linux before 5.0
            fcntl.ioctl(self.fds[0], spec.TUNSETCARRIER, struct.pack("=i", carrier))

    # ---- frames, where nobody faster moves them ----

    def open(
        self,
        loop: Loop,
        receive: Callable[[Sequence[Buffer]], bool],
        changed: Callable[[], object],
    ) -> None:
        """See Link."""
        self._loop, self._receive, self._changed = loop, receive, changed
        self._watch()

    def send(self, frame: Sequence[Buffer]) -> None:
        """See Link."""
        os.writev(self.fds[0], frame)

    def wake(self) -> None:
        """See Link."""
        if self._waiting is not None and self._receive(self._waiting):
            self._waiting = None
            self._watch()

    def _watch(self) -> None:
        if self._loop is not None:
            for fd in self.fds:
                self._loop.watch(fd, partial(self._readable, fd))

    def _unwatch(self) -> None:
        if self._loop is not None:
            for fd in self.fds:
                self._loop.unwatch(fd)

    def _readable(self, fd: int) -> None:
        for _ in range(BURST):
            try:
                length = os.readv(fd, [self._buffer])
            except BlockingIOError:
                return
            except OSError:  # EBADFD: the interface is gone
                self._unwatch()
                self.up = False
                self._changed()
                return
            if not self._checksums:  # the kernel says of frames that it has checked them, even so
                self._buffer[spec.HEADER_FLAGS] = 0
            frame = self._buffer[: spec.HEADER_SIZE], self._buffer[spec.HEADER_SIZE : length]
            if not self._receive(frame):
                self._waiting = frame
                self._unwatch()
                return


def _open_queues(name: str, queues: int, stack: ExitStack) -> tuple[str, list[int]]:
    """The interface's name and a descriptor for each queue. Raises HostError."""
    fds: list[int] = []
    for _ in range(queues):
        try:
            fd = os.open(spec.DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise HostError(f"There must be {spec.DEVICE}: load the kernel's module tun") from None
        except OSError as error:
            raise HostError(f"{spec.DEVICE} cannot be opened: {error.strerror}") from error
        stack.callback(os.close, fd)
        fds.append(fd)
        name = _attach(fd, name, queues)
    return name, fds


def _attach(fd: int, name: str, queues: int) -> str:
    """Make `fd` a queue of the tap; the tap's name."""
    flags = spec.IFF_TAP | spec.IFF_NO_PI | spec.IFF_VNET_HDR
    flags |= spec.IFF_MULTI_QUEUE if queues > 1 else 0
    existed = bool(name) and interface.exists(name)
    try:
        return _set_interface(fd, name, flags)
    except OSError as error:
        if error.errno == errno.EINVAL and existed and queues == 1:
            with suppress(OSError):  # it may have been created for more queues
                return _set_interface(fd, name, flags | spec.IFF_MULTI_QUEUE)
        raise HostError(_explain(error, name, queues, existed)) from error


def _set_interface(fd: int, name: str, flags: int) -> str:
    request = spec.IFREQ_FLAGS.pack(os.fsencode(name), flags)
    answer = fcntl.ioctl(fd, spec.TUNSETIFF, request)
    fcntl.ioctl(fd, spec.TUNSETVNETHDRSZ, struct.pack("=i", spec.HEADER_SIZE))
    return os.fsdecode(spec.IFREQ_FLAGS.unpack(answer)[0].rstrip(b"\0"))


def _explain(error: OSError, name: str, queues: int, existed: bool) -> str:
    match error.errno:
        case errno.EPERM if existed:
            return f"The tap {name} must belong to you: root can recreate it with user $USER"
        case errno.EPERM:
            return (
                "To create a tap takes the right CAP_NET_ADMIN: run pyvmm as root, or name one "
                "that root has created for you: ip tuntap add tap0 mode tap user $USER"
            )
        case errno.EBUSY:
            return f"The tap {name} must not be in use by another program"
        case errno.EINVAL if existed and queues > 1:
            return f"{name} must be a tap with multi_queue (ip tuntap add), or have one queue"
        case errno.EINVAL if existed:
            return f"{name} must be a tap; it is another kind of interface"
        case errno.E2BIG:
            return f"A tap of this host has fewer than {queues} queues"
        case _:
            return f"The tap {name} cannot be had: {error.strerror}"


def _probe_offloads(fd: int, name: str) -> int:
    """The offloads that the kernel can do, as feature bits; none is on afterwards."""
    guest = sum(spec.OFFLOADS)
    for features in (guest, guest & ~spec.USO, guest & ~spec.USO & ~spec.F_GUEST_UFO):
        offloads = sum(tun for bit, tun in spec.OFFLOADS.items() if features & bit)
        try:
            fcntl.ioctl(fd, spec.TUNSETOFFLOAD, offloads)
        except OSError:
            continue
        fcntl.ioctl(fd, spec.TUNSETOFFLOAD, 0)
        host = spec.HOST_OFFLOADS if features & spec.USO else spec.HOST_OFFLOADS & ~spec.USO
        return features | host
    raise HostError(f"The tap {name} must be able to leave checksums to the guest")


def _run(script: str, name: str) -> None:
    import subprocess

    try:
        status = subprocess.run([script, name], stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        raise HostError(f"The script {script} cannot be run: {error.strerror}") from error
    if status:
        raise HostError(f"The script {script} must succeed for {name}, not end with {status}")
