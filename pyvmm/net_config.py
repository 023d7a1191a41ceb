"""Networks: the values of network devices. Their form as an option is in net_options.py.

UserNet        --net user      the host's own connections, as any user of it has them
TapNet         --net tap       an interface of the host
StreamNet      --net stream    a Unix socket: passt, or another guest
VhostUserNet   --net vhost-user:SOCKET
Net            an object of yours
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from pyvmm.errors import HostError, UsageError
from pyvmm.peripherals import Host, Peripheral
from pyvmm.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.backends.native_slirp import NativeSlirp
    from pyvmm.backends.slirp import Slirp
    from pyvmm.backends.slirp_options import Forward, Subnet
    from pyvmm.virtio.device import VirtioDevice
    from pyvmm.virtio.net import Link
    from pyvmm.virtio.net import Net as NetDevice
    from pyvmm.virtio.tap_net import TapLink
    from pyvmm.virtio.vhost import Vhost

MAX_PAIRS = 8  # of queues
MTU_MIN, MTU_MAX = 68, 65535  # RFC 791 §3.2, and what 16 bits can say
INTERFACE_NAME = 15  # <linux/if.h> IFNAMSIZ, without the 0 at its end
ADDRESS_BYTES = 6
OUR_PREFIX = b"\x02\x00"  # of a MAC; 2 is locally administered, and one device's: IEEE 802 §8.4


class Network(Peripheral):
    """What the values of all networks have.

    mac     its address, as 52:54:00:12:34:56; if not given, one that is always the same for the
            names of machine and device
    queues  how many pairs of queues the guest may use
    mtu     the most bytes that a frame carries; 0 is what the network says
    pcap    a file that records what passes
    """

    kind = ""  # of network, as --net names it

    name: str
    mac: str = ""
    queues: int = 1
    mtu: int = 0
    pcap: str = ""

    @property
    def claims(self) -> tuple[str, ...]:
        """See Peripheral."""
        return (f"The MAC {self.mac.lower()}",) if self.mac else ()

    def check(self) -> None:
        """See Peripheral."""
        super().check()
        if self.mac:
            parse_mac(self.mac)
        _check_number("queues", self.queues, 1, MAX_PAIRS)
        if self.mtu:
            _check_number("mtu", self.mtu, MTU_MIN, MTU_MAX)
        _check_path("pcap", self.pcap)

    def address(self, host: Host) -> bytes:
        """Its MAC."""
        if self.mac:
            return parse_mac(self.mac)
        from binascii import crc32  # hashlib would cost a start 9 ms

        return OUR_PREFIX + crc32(f"{host.name}\0{self.name}".encode()).to_bytes(4, "big")

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        link: Link = self.open_link(host)
        try:
            if self.mtu > link.mtu:
                raise UsageError(f"mtu must be at most {link.mtu} for {self.name}, not {self.mtu}")
            if self.pcap:
                from pyvmm.backends.pcap import Recorder

                link = Recorder(link, self.pcap)
            return self.device()(
                self.name,
                link,
                self.address(host),
                pairs=self.queues,
                mtu=self.mtu or None,
                tell=host.tell,
            )
        except BaseException:
            link.close()
            raise

    def device(self) -> type[NetDevice]:
        """What takes the link."""
        from pyvmm.virtio.net import Net as Device

        return Device

    def open_link(self, host: Host) -> Link:
        """Open the host's side of it. Raises HostError; nothing is left open then."""
        raise NotImplementedError


class Net(Network):
    """A network that is a Python object: see pyvmm.backends.python_link.Backend."""

    kind = "python"

    backend: object = None

    def open_link(self, host: Host) -> Link:
        """See Network."""
        from pyvmm.backends.python_link import PythonLink

        return PythonLink(self.backend)


class UserNet(Network):
    """The host's own connections, with neither rights nor set-up.

    forward   ports of the host that lead to one of the guest: {2222: 22}, {"udp:0.0.0.0:5353": 53},
              or texts as the option's, in which HOST is 127.0.0.1 if not given
    restrict  the guest reaches nothing; it is reached where ports are forwarded
    ipv6      whether there is IPv6, too
    subnet    its IPv4 network; 10.0.2.0/24 if not given
    hostname  the guest's, which DHCP tells it
    """

    kind = "user"

    forward: Mapping[int | str, int] | Sequence[str] = ()
    restrict: bool = False
    ipv6: bool = True
    subnet: str = ""
    hostname: str = ""

    @property
    def forwards(self) -> list[Forward]:
        """What is forwarded. Raises UsageError."""
        from pyvmm.backends.slirp_options import parse_forward

        texts = self.forward
        if isinstance(texts, Mapping):
            ports = {f"tcp:{at}" if isinstance(at, int) else at: to for at, to in texts.items()}
            texts = [f"{at}:{to}" for at, to in ports.items()]
        return [parse_forward(text) for text in texts]

    @property
    def claims(self) -> tuple[str, ...]:
        """See Peripheral."""
        ports = (f"Port {to.port} of {to.host} ({to.protocol})" for to in self.forwards)
        return (*super().claims, *ports)

    def check(self) -> None:
        """See Peripheral."""
        from pyvmm.backends.slirp_options import check_hostname

        super().check()
        _check_bool("restrict", self.restrict)
        _check_bool("ipv6", self.ipv6)
        _ = self.forwards, self._subnet
        check_hostname(self.hostname)

    @property
    def _subnet(self) -> Subnet:
        from pyvmm.backends.slirp_options import parse_subnet
        from pyvmm.backends.slirp_spec import SUBNET

        return parse_subnet(self.subnet or SUBNET)

    @property
    def _native(self) -> bool:
        """Whether C moves its frames: those of one pair of queues, which nobody records."""
        from pyvmm import fastpath

        return fastpath.enabled() and self.queues == 1 and not self.pcap

    def device(self) -> type[NetDevice]:
        """See Network."""
        if not self._native:
            return super().device()
        from pyvmm.virtio.user_net import UserNet as Device

        return Device

    def open_link(self, host: Host) -> Link:
        """See Network."""
        kind: type[NativeSlirp | Slirp]
        if self._native:
            from pyvmm.backends.native_slirp import NativeSlirp as kind
        else:
            from pyvmm.backends.slirp import Slirp as kind
        return kind(
            self._subnet,
            mtu=self.mtu,
            forwards=self.forwards,
            restrict=self.restrict,
            ipv6=self.ipv6,
            hostname=self.hostname,
        )


class TapNet(Network):
    """An interface of the host.

    ifname  its name: an existing one, or one to create; if not given, the host chooses it
    bridge  the host's bridge that it is made a port of
    script  a program that sets it up: called with its name
    vhost   whether the host's kernel moves the frames: auto if it can, on, or off
    """

    kind = "tap"

    ifname: str = ""
    bridge: str = ""
    script: str = ""
    vhost: str = "auto"

    def check(self) -> None:
        """See Peripheral."""
        super().check()
        for key in ("ifname", "bridge"):
            _check_interface(key, getattr(self, key))
        _check_path("script", self.script)
        if self.vhost not in ("auto", "on", "off"):
            raise UsageError(f"vhost must be auto or on or off, not {self.vhost!r}")
        if self.pcap and self.vhost == "on":
            raise UsageError("pcap must not be set with vhost=on, for pyvmm sees no frames then")

    @property
    def claims(self) -> tuple[str, ...]:
        """See Peripheral."""
        return (*super().claims, *([f"The interface {self.ifname}"] if self.ifname else ()))

    def open_link(self, host: Host) -> TapLink:
        """See Network."""
        from pyvmm.backends.tap import Tap

        return Tap(
            self.ifname,
            queues=self.queues,
            bridge=self.bridge,
            script=os.fspath(self.script),
            mtu=self.mtu,
        )

    def open(self, host: Host) -> VirtioDevice:
        """See Network."""
        if self.pcap:
            return super().open(host)
        from pyvmm.virtio.tap_net import TapNet as Device

        with ExitStack() as stack:
            link = self.open_link(host)
            stack.callback(link.close)
            vhosts = self._open_vhosts()
            for vhost in vhosts:
                stack.callback(vhost.close)
            device = Device(
                self.name,
                link,
                self.address(host),
                pairs=self.queues,
                vhosts=vhosts,
                tell=host.tell,
            )
            stack.pop_all()
            return device

    def _open_vhosts(self) -> list[Vhost]:
        """A device of the kernel's for each pair of queues, or none. Raises HostError."""
        from pyvmm.virtio.vhost import Vhost
        from pyvmm.virtio.vhost_spec import NET_DEVICE

        vhosts: list[Vhost] = []
        try:
            for _ in range(self.queues if self.vhost != "off" else 0):
                vhosts.append(Vhost(NET_DEVICE))
        except HostError:
            for vhost in vhosts:
                vhost.close()
            if self.vhost == "on":
                raise
            return []
        return vhosts


class StreamNet(Network):
    """Frames on a Unix socket, as QEMU's `-netdev stream` has them: passt, or another guest.

    path       the socket
    server     whether to listen there, or to connect
    reconnect  seconds between attempts to connect to a peer that is gone; 0 is to make none
    """

    kind = "stream"

    path: str | os.PathLike[str] = ""
    server: bool = False
    reconnect: int = 1

    def check(self) -> None:
        """See Peripheral."""
        super().check()
        _check_path("path", self.path)
        if not os.fspath(self.path):
            raise UsageError("A stream must have a path=SOCKET")
        _check_bool("server", self.server)
        _check_number("reconnect", self.reconnect, 0, 3600)

    def open_link(self, host: Host) -> Link:
        """See Network."""
        from pyvmm.backends.stream import Stream

        path = os.fspath(self.path)
        return Stream(path, server=self.server, reconnect=self.reconnect)


class VhostUserNet(Network):
    """A network device whose frames another process moves, which listens at the socket `path`."""

    kind = "vhost-user"

    path: str | os.PathLike[str] = ""

    @property
    def shares_memory(self) -> bool:
        """See Peripheral."""
        return True

    def check(self) -> None:
        """See Peripheral."""
        super().check()
        _check_path("path", self.path)
        if not os.fspath(self.path):
            raise UsageError("A vhost-user network must be vhost-user:SOCKET")
        if self.pcap:
            raise UsageError("pcap must not be set for vhost-user, for pyvmm sees no frames then")

    def open(self, host: Host) -> VirtioDevice:
        """See Peripheral."""
        from pyvmm.backends.vhost_socket import VhostSocket
        from pyvmm.virtio.vhost_user_net import VhostUserNet as Device

        back_end = VhostSocket(os.fspath(self.path))
        mac = self.address(host)
        return Device(
            self.name, back_end, mac, pairs=self.queues, mtu=self.mtu or None, tell=host.tell
        )


def parse_mac(text: str) -> bytes:
    """The six bytes of a unicast address. Raises UsageError."""
    parts = text.split(":") if isinstance(text, str) else []
    try:
        mac = bytes(int(part, 16) for part in parts if len(part) == 2 and part.isalnum())
    except ValueError:
        mac = b""
    if len(mac) != ADDRESS_BYTES or len(parts) != ADDRESS_BYTES:
        raise UsageError(f"A MAC must be six bytes, as 52:54:00:12:34:56, not {text!r}")
    if mac[0] & 1 or not any(mac):
        raise UsageError(f"A MAC must be one device's, so its first byte even, not {text!r}")
    return mac


def _check_number(key: str, value: object, first: int, last: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not first <= value <= last:
        raise UsageError(f"{key} must be a number from {first} to {last}, not {value!r}")


def _check_bool(key: str, value: object) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{key} must be True or False, not {value!r}")


def _check_path(key: str, value: object) -> None:
    if not isinstance(value, (str, os.PathLike)) or "\0" in os.fspath(value):
        raise UsageError(f"{key} must be a file name, not {value!r}")


def _check_interface(key: str, value: object) -> None:
    name = value if isinstance(value, str) else "/"
    if len(name.encode()) > INTERFACE_NAME or "/" in name or not (name.isprintable() or not name):
        raise UsageError(f"{key} must be a name of at most {INTERFACE_NAME} bytes, not {value!r}")
