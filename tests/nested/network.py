"""Guests on networks in the nested host: what they are given, and data hashed at both ends."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from linuxguest import DEBIAN, TOOLS, VIRTIO_DRIVERS, boot, power_off, told
from rig import NestedHost, Process

MIB = 1 << 20
BRIDGE, BRIDGE_ADDRESS, BRIDGE_ADDRESS_6 = "br0", "10.9.0.1", "fd09::1"
TRANSFER_TIMEOUT = 300.0  # seconds
RESULT = rb"^(\d+) bytes, SHA-256 (\w{64})\r*$"
CURL = "chroot /mnt /usr/bin/curl --silent --show-error --fail --max-time 120"
# Before a shutdown: see RESET in test_net.py.
QUIET = "for device in /sys/class/net/eth*; do ip link set ${device##*/} down; done"
ETHTOOL = "chroot /mnt /sbin/ethtool"
WEB_PORT = 8000
WEB_MIB = 4
# The host of passt's tests must have a way out, whose addresses the guest is given.
OUTSIDE_ROUTER = "192.0.2.1"
OUTSIDE = f"""
ip link add outside type bridge && ip link set outside up
ip addr add 192.0.2.2/24 dev outside && ip route add default via {OUTSIDE_ROUTER}
"""


@contextmanager
def booted(
    host: NestedHost, *nets: str, cpus: int = 1, env: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """The small guest with `nets` as eth0, eth1 and so on, switched off at the end."""
    words = [word for net in nets for word in ("--net", net)]
    options = ("--disk", f"{DEBIAN},ro", "--cpus", str(cpus), *words)
    guest = boot(host, "vmlinuz-cloud", *VIRTIO_DRIVERS, *options, env=env)
    try:
        prepare(guest)
        yield guest
        told(guest, QUIET)
        assert power_off(guest) == 0
    finally:
        guest.send_signal(signal.SIGKILL)  # which one that has ended does not get


def prepare(guest: Process) -> None:
    """Have Debian's programs and the peer at hand, after every boot."""
    told(guest, f"{TOOLS} && cp /bin/peer.py /tmp")


def ping(guest: Process, address: str, *options: str) -> None:
    """Three of three come back."""
    said = told(guest, f"ping -c 3 {' '.join(options)} {address}")
    assert "3 packets transmitted, 3 packets received, 0% packet loss" in said


def wait_until(guest: Process, condition: str) -> None:
    """Wait until a command of the guest's succeeds."""
    told(guest, f"timeout 60 sh -c 'until {condition}; do sleep 0.1; done'")


def start_peer(where: NestedHost | Process, *arguments: object) -> Process:
    """Run guests/linux/peer.py there; a guest's shell waits for its end."""
    words = list(map(str, arguments))
    if isinstance(where, NestedHost):
        return where.spawn(["python3", "guests/linux/peer.py", *words])
    where.write(f"chroot /mnt /usr/bin/python3 /tmp/peer.py {' '.join(words)}\n".encode())
    return where


def exchange(
    listener: NestedHost | Process,
    caller: NestedHost | Process,
    address: str,
    mib: int,
    port: int = 5001,
) -> None:
    """Have `mib` MiB pass from the caller to the listener, then back, and be the same at both."""
    send, receive = ("send", mib), ("receive",)
    for of_caller, of_listener in ((send, receive), (receive, send)):
        ends = [start_peer(listener, *of_listener, "-", port)]
        ends[0].expect(rb"listening")
        ends.append(start_peer(caller, *of_caller, address, port))
        results = [end.expect(RESULT, TRANSFER_TIMEOUT).groups() for end in ends]
        assert results[0] == results[1]
        assert int(results[0][0]) == mib * MIB


@contextmanager
def web(host: NestedHost) -> Iterator[str]:
    """Serve a file of WEB_MIB from the nested host, as /data; give its SHA-256."""
    host.run(["sh", "-c", f"mkdir -p /tmp/web; head -c {WEB_MIB}M /dev/urandom >/tmp/web/data"])
    digest = host.run(["sha256sum", "/tmp/web/data"])[1].split()[0]
    options = (str(WEB_PORT), "--bind", "::", "--directory", "/tmp/web")
    server = host.spawn(["python3", "-u", "-m", "http.server", *options])
    server.expect(rb"^Serving HTTP")
    try:
        yield digest
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def fetch(guest: Process, address: str, *, before: str = "") -> str:
    """SHA-256 of what the nested host serves at `address`; `before` is put before the command."""
    url = f"http://{address}:{WEB_PORT}/data"
    return told(guest, f"{before} {CURL} --globoff '{url}' | sha256sum").split()[0]


@contextmanager
def bridge(host: NestedHost) -> Iterator[None]:
    """A bridge of the nested host's with its addresses, for large frames too."""
    commands = (
        f"link add {BRIDGE} mtu 9000 type bridge",
        f"addr add {BRIDGE_ADDRESS}/24 dev {BRIDGE}",
        f"addr add {BRIDGE_ADDRESS_6}/64 dev {BRIDGE} nodad",
        f"link set {BRIDGE} up",
    )
    for command in commands:
        assert host.run(["ip", *command.split()]) == (0, "")
    try:
        yield
    finally:
        host.run(["ip", "link", "del", BRIDGE])


@contextmanager
def passt(host: NestedHost) -> Iterator[None]:
    """passt(1), with a way out whose addresses it hands on."""
    assert host.run(["sh", "-c", OUTSIDE]) == (0, "")
    server = host.spawn(["passt", "--foreground", "--socket", "/tmp/passt.sock"])
    try:
        server.expect(rb"You can now start")
        yield
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        host.run(["ip", "link", "del", "outside"])


@dataclass(frozen=True)
class BackEnd:
    """A network, how a guest gets its address there, and what the nested host's is."""

    net: str
    peer: str
    address: str = ""  # by DHCP if there is none
    around: Callable[[NestedHost], AbstractContextManager[None]] = lambda host: nullcontext()
    mib: int = 512  # that the tests send, and receive
    env: Mapping[str, str] = field(default_factory=dict)

    def configure(self, guest: Process) -> None:
        """Bring eth0 up, with an address."""
        told(guest, "ip link set lo up; ip link set eth0 up")
        if self.address:
            told(guest, f"ip addr add {self.address} dev eth0")
        else:
            told(guest, "udhcpc -q -n -i eth0")


def tap(vhost: str, number: int = 2) -> str:
    """A tap on the bridge; guest `number` is one of 2 to 9."""
    return f"tap,bridge={BRIDGE},vhost={vhost},mac=02:00:00:00:00:0{number}"


BACK_ENDS = {
    "user": BackEnd("user", "10.0.2.2"),
    "tap-vhost": BackEnd(tap("on"), BRIDGE_ADDRESS, "10.9.0.2/24", bridge),
    "tap": BackEnd(tap("off"), BRIDGE_ADDRESS, "10.9.0.2/24", bridge),
    "tap-no-fastpath": BackEnd(
        tap("off"), BRIDGE_ADDRESS, "10.9.0.2/24", bridge, mib=64, env={"PYVMM_NO_FASTPATH": "1"}
    ),
    # In small frames, which take long. test_the_link_follows_the_peer sends a GiB in large ones.
    "passt": BackEnd("stream,path=/tmp/passt.sock", OUTSIDE_ROUTER, around=passt, mib=16),
}


def queue_packets(guest: Process) -> dict[str, int]:
    """How many frames each queue of eth0 has passed, as `rx_queue_0`."""
    found = re.findall(r"(\w+_queue_\d+)_packets: (\d+)", told(guest, f"{ETHTOOL} -S eth0"))
    return {name: int(count) for name, count in found}
