"""Networks under Debian's own drivers, by every back end: what is sent arrives, whole."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest
from linuxguest import BOOT_TIMEOUT, PROMPT, told
from network import (
    BACK_ENDS,
    BRIDGE_ADDRESS,
    BRIDGE_ADDRESS_6,
    ETHTOOL,
    BackEnd,
    booted,
    bridge,
    exchange,
    fetch,
    ping,
    prepare,
    queue_packets,
    start_peer,
    tap,
    wait_until,
    web,
)
from rig import NestedHost, Process

LINK = "/tmp/link.sock"
CARRIER = "/sys/class/net/eth0/carrier"
ENDLESS_MIB = 1 << 20
MIB_AFTER_RESET = 4
JUMBO = 9000
ECHO_HEADERS = 28  # of IPv4 and ICMP
# Not `reboot`, which shuts the devices down: under load virtio-net may loop there for ever, before
# Linux's commit 0d0eff39ceb3 (virtio_ring: fix infinite loop in virtnet_poll_cleantx).
RESET = b"echo b >/proc/sysrq-trigger\n"
OFFLOADS = ("tx-checksumming", "tcp-segmentation-offload", "rx-gro-hw")


@pytest.fixture(scope="module", params=BACK_ENDS)
def connected(
    nested_host: NestedHost, request: pytest.FixtureRequest
) -> Iterator[tuple[Process, BackEnd]]:
    """A guest on one of the back ends, with the nested host at the other end."""
    back_end = BACK_ENDS[request.param]
    with (
        back_end.around(nested_host),
        booted(nested_host, back_end.net, env=back_end.env) as guest,
    ):
        back_end.configure(guest)
        yield guest, back_end


def test_data_arrives_whole(nested_host: NestedHost, connected: tuple[Process, BackEnd]) -> None:
    guest, back_end = connected
    exchange(nested_host, guest, back_end.peer, back_end.mib)


def test_a_guest_resets_under_load(
    nested_host: NestedHost, connected: tuple[Process, BackEnd]
) -> None:
    guest, back_end = connected
    for of_guest, of_host in (
        (f"send {ENDLESS_MIB}", ["receive"]),
        ("receive", ["send", ENDLESS_MIB]),
    ):
        host_end = start_peer(nested_host, *of_host, "-", 5001)
        host_end.expect(rb"listening")
        peer = f"chroot /mnt /usr/bin/python3 /tmp/peer.py {of_guest} {back_end.peer} 5001"
        guest.write(f"{peer} &\n".encode())
        host_end.expect(rb"^flowing", BOOT_TIMEOUT)
        guest.write(RESET)
        guest.expect(rb"init: ready", BOOT_TIMEOUT)
        guest.expect(PROMPT)
        host_end.send_signal(signal.SIGKILL)
        prepare(guest)
        back_end.configure(guest)
        exchange(nested_host, guest, back_end.peer, MIB_AFTER_RESET)


def test_two_guests_on_a_bridge_reach_one_another(nested_host: NestedHost) -> None:
    with (
        bridge(nested_host),
        booted(nested_host, tap("on", 2)) as one,
        booted(nested_host, tap("off", 3)) as two,
    ):
        for number, guest in ((2, one), (3, two)):
            told(guest, f"ip link set eth0 up; ip addr add 10.9.0.{number}/24 dev eth0")
            told(guest, "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad")
            told(guest, f"ip addr add fd09::{number}/64 dev eth0")
        for address in ("10.9.0.3", "fd09::3", BRIDGE_ADDRESS, BRIDGE_ADDRESS_6):
            ping(one, address)
        exchange(two, one, "10.9.0.3", 64)
        exchange(one, two, "fd09::2", 64)


def test_the_link_follows_the_peer(nested_host: NestedHost) -> None:
    link = f"stream,path={LINK},mtu={JUMBO}"
    with booted(nested_host, f"{link},server=on,mac=02:00:00:00:00:02") as one:
        told(one, "ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0")
        wait_until(one, f"grep -q 0 {CARRIER}")
        for mib in (512, 4):
            with booted(nested_host, f"{link},mac=02:00:00:00:00:03") as two:
                wait_until(one, f"grep -q 1 {CARRIER}")
                told(two, "ip link set eth0 up; ip addr add 10.9.0.3/24 dev eth0")
                ping(one, "10.9.0.3")
                exchange(one, two, "10.9.0.2", mib)
            wait_until(one, f"grep -q 0 {CARRIER}")


@pytest.fixture(scope="module", params=["on", "off"], ids=["vhost", "no-vhost"])
def tapped(nested_host: NestedHost, request: pytest.FixtureRequest) -> Iterator[Process]:
    """A guest of two CPUs on a tap with two pairs of queues and large frames."""
    net = f"{tap(request.param)},queues=2,mtu={JUMBO}"
    with bridge(nested_host), booted(nested_host, net, cpus=2) as guest:
        told(guest, "ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0")
        yield guest


def test_large_frames_pass_in_one_piece(tapped: Process) -> None:
    assert told(tapped, "cat /sys/class/net/eth0/mtu") == f"{JUMBO}\n"
    before = fragments(tapped)
    ping(tapped, BRIDGE_ADDRESS, f"-s {JUMBO - ECHO_HEADERS}")
    assert fragments(tapped) == before
    ping(tapped, BRIDGE_ADDRESS, f"-s {JUMBO}")
    assert fragments(tapped) > before


def fragments(guest: Process) -> int:
    """How many fragments of IPv4 packets the guest has made and put together."""
    names, values = told(guest, "grep ^Ip: /proc/net/snmp").splitlines()
    counts = dict(zip(names.split(), values.split(), strict=True))
    return int(counts["FragCreates"]) + int(counts["ReasmReqds"])


def test_offloads_can_be_switched(nested_host: NestedHost, tapped: Process) -> None:
    for wanted in ("on", "off", "on"):
        told(tapped, f"{ETHTOOL} -K eth0 tx {wanted} tso {wanted} gro {wanted} rx-gro-hw {wanted}")
        said = told(tapped, f"{ETHTOOL} -k eth0")
        found = dict(re.findall(r"^\s*([\w-]+): (on|off)", said, re.M))
        assert {name: found[name] for name in OFFLOADS} == dict.fromkeys(OFFLOADS, wanted)
        exchange(nested_host, tapped, BRIDGE_ADDRESS, 32)


def test_every_queue_is_used(nested_host: NestedHost, tapped: Process) -> None:
    told(tapped, f"{ETHTOOL} -L eth0 combined 2")
    before = queue_packets(tapped)
    assert set(before) == {"rx_queue_0", "rx_queue_1", "tx_queue_0", "tx_queue_1"}
    with web(nested_host) as digest:
        for cpu in (0, 1):  # each of which sends by a queue of its own
            fetched = fetch(tapped, BRIDGE_ADDRESS, before=f"taskset {1 << cpu}")
            assert fetched == digest
    after = queue_packets(tapped)
    assert all(after[name] > before[name] for name in before)
    told(tapped, f"{ETHTOOL} -L eth0 combined 1")
    exchange(nested_host, tapped, BRIDGE_ADDRESS, 4)


NOBODY = "chmod 666 /dev/kvm /dev/net/tun && setpriv --reuid 65534 --regid 65534 --clear-groups "


@pytest.mark.parametrize(
    ("before", "nets", "status", "word"),
    [
        ("", "tap,ifname=lo", 1, "lo"),
        ("", "tap,bridge=nowhere", 1, "nowhere"),
        ("", "tap,ifname=sixteen-letters-", 2, "15"),
        (NOBODY, "tap", 1, "right|permitted|root"),
        ("", "user,forward=tcp:8000:80", 1, "8000"),
        ("", "stream,path=/tmp/nobody.sock,reconnect=0", 1, "/tmp/nobody.sock"),
        ("", "user,mac=01:00:00:00:00:01", 2, "MAC"),
        ("", "user,mac=02:00:00:00:00:01 --net user,mac=02:00:00:00:00:01", 2, "MAC"),
        ("", "tap,vhost=on,pcap=/tmp/x", 2, "pcap"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    nested_host: NestedHost, before: str, nets: str, status: int, word: str
) -> None:
    with web(nested_host):  # which has a port
        script = f"{before}python3 -m pyvmm run --net {nets} </dev/null"
        found, output = nested_host.run(["sh", "-c", script], timeout=60)
    assert found == status, output
    assert re.fullmatch(rf"pyvmm: .*({word}).*\n", output)
