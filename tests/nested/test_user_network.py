"""`--net user`: what any user of the host can give a guest, as Debian's own programs find it."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import pytest
from linuxguest import DEBIAN, LOGIN_TIMEOUT, ask, log_in, start, told
from network import CURL, WEB_PORT, booted, exchange, fetch, ping, wait_until, web
from rig import NestedHost, Process

PCAP = "/tmp/user.pcap"
OPEN = (
    "user,forward=tcp:8080:80,forward=tcp:127.0.0.1:5002:5002,forward=udp:7007:7007,"
    f"hostname=guest7,pcap={PCAP}"
)
CLOSED = "user,restrict=on,ipv6=off,subnet=10.0.3.0/24,forward=tcp:8081:80"
HOST, HOST_6, NAME_SERVER, CLOSED_HOST = "10.0.2.2", "fec0::2", "10.0.2.3", "10.0.3.2"
SHOUT = (
    "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 7007)); "
    "print('bou' 'nd', flush=True); said, who = s.recvfrom(99); s.sendto(said.upper(), who)"
)
ASK = (
    "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(60); "
    "s.sendto(b'hello', ('127.0.0.1', 7007)); print(s.recv(99).decode())"
)


@pytest.fixture(scope="module")
def name_server(nested_host: NestedHost) -> Iterator[None]:
    """What the nested host itself asks for names."""
    nested_host.run(["sh", "-c", "echo nameserver 127.0.0.1 >/etc/resolv.conf"])
    server = nested_host.spawn(["python3", "tests/nested/host/name_server.py"])
    server.expect(rb"^ready")
    yield
    server.send_signal(signal.SIGTERM)
    server.wait()


@pytest.fixture(scope="module")
def guest(nested_host: NestedHost, name_server: None) -> Iterator[Process]:
    """One with an open network as eth0 and a restricted one as eth1, configured by DHCP."""
    with booted(nested_host, OPEN, CLOSED) as guest:
        told(guest, "ip link set lo up; ip link set eth0 up; ip link set eth1 up")
        told(guest, "udhcpc -q -n -i eth1 && udhcpc -q -n -i eth0")  # the last counts for names
        told(guest, "mkdir /tmp/web && head -c 3m /dev/urandom >/tmp/web/data")
        told(guest, "httpd -p 80 -h /tmp/web")
        yield guest


def test_dhcp_tells_all_that_a_guest_needs(guest: Process) -> None:
    for device, address in (("eth0", r"10\.0\.2\.15/24"), ("eth1", r"10\.0\.3\.15/24")):
        assert re.search(rf"inet {address} ", told(guest, f"ip addr show dev {device}"))
    assert f"default via {HOST} dev eth0" in told(guest, "ip route")
    assert told(guest, "cat /etc/resolv.conf").split() == ["nameserver", NAME_SERVER]
    assert told(guest, "hostname") == "guest7\n"


def test_names_are_found(guest: Process) -> None:
    assert re.search(r"Address(?: 1)?: +192\.0\.2\.7", told(guest, "nslookup -type=a any.test"))


def test_the_host_answers_pings(guest: Process) -> None:
    ping(guest, HOST)
    wait_until(guest, "ip -6 route | grep -q ^default")
    ping(guest, HOST_6, "-6")


def test_curl_fetches_from_the_host_by_ipv4_and_ipv6(
    nested_host: NestedHost, guest: Process
) -> None:
    wait_until(guest, "ip -6 addr show dev eth0 | grep fec0 | grep -qv tentative")
    with web(nested_host) as digest:
        assert fetch(guest, HOST) == digest
        assert fetch(guest, f"[{HOST_6}]") == digest


@pytest.mark.parametrize("port", [8080, 8081], ids=["open", "restricted"])
def test_curl_fetches_from_the_guest_by_a_forward(
    nested_host: NestedHost, guest: Process, port: int
) -> None:
    digest = told(guest, "sha256sum </tmp/web/data").split()[0]
    script = f"curl -sSf --max-time 120 http://127.0.0.1:{port}/data | sha256sum"
    assert nested_host.run(["sh", "-c", script], timeout=180)[1].split()[0] == digest


def test_data_passes_whole_by_a_forward(nested_host: NestedHost, guest: Process) -> None:
    exchange(guest, nested_host, "127.0.0.1", 16, port=5002)


def test_datagrams_pass_by_a_forward(nested_host: NestedHost, guest: Process) -> None:
    guest.write(f'chroot /mnt /usr/bin/python3 -c "{SHOUT}"\n'.encode())
    guest.expect(rb"bound")
    assert nested_host.run(["python3", "-c", ASK], timeout=90) == (0, "HELLO\n")


def test_a_restricted_guest_reaches_nobody(nested_host: NestedHost, guest: Process) -> None:
    with web(nested_host):
        url = f"http://{CLOSED_HOST}:{WEB_PORT}/data"
        status, _ = ask(guest, f"{CURL} --max-time 10 --interface eth1 {url}")
    assert status != 0


def test_what_passed_is_recorded(nested_host: NestedHost, guest: Process) -> None:
    before = len(shown(nested_host, "icmp"))
    ping(guest, HOST)
    echoes = shown(nested_host, "icmp")[before:]
    assert echoes == [f"10.0.2.15\t{HOST}\t8", f"{HOST}\t10.0.2.15\t0"] * 3
    messages = [line.split("\t") for line in shown(nested_host, "dhcp", "dhcp.option.dhcp")]
    assert [message[-1] for message in messages[:4]] == ["1", "2", "3", "5"]  # RFC 2132 §9.6
    assert shown(nested_host, "_ws.malformed") == []


def test_debian_configures_itself(nested_host: NestedHost) -> None:
    guest = start(
        nested_host,
        "vmlinuz-cloud",
        *("--disk", f"{DEBIAN},snapshot", "--net", "user"),
        initrd="debian-initrd.img",
        append="root=/dev/vda quiet",
    )
    log_in(guest)
    wait_until(guest, "ip route | grep -q ^default")
    with web(nested_host) as digest:
        url = f"http://{HOST}:{WEB_PORT}/data"
        assert told(guest, f"curl -sSf {url} | sha256sum").split()[0] == digest
    guest.write(b"poweroff\n")
    assert guest.wait(LOGIN_TIMEOUT) == 0


def shown(host: NestedHost, display: str, field: str = "icmp.type") -> list[str]:
    """The recorded frames that tshark shows: sender, receiver and a field of each."""
    fields = [word for name in ("ip.src", "ip.dst", field) for word in ("-e", name)]
    command = ["tshark", "-n", "-r", PCAP, "-Y", display, "-T", "fields", *fields]
    status, output = host.run(["sh", "-c", f"{' '.join(command)} 2>/tmp/tshark.err"], timeout=300)
    assert status == 0, host.run(["cat", "/tmp/tshark.err"])[1]
    return output.splitlines()
