"""User networking's subnet, forwarded ports and host name, as they are given."""

from __future__ import annotations

import pytest

from pyvmm.backends.slirp_options import (
    Forward,
    check_hostname,
    parse_forward,
    parse_subnet,
)
from pyvmm.errors import UsageError


def test_a_subnet_has_a_mask_and_addresses() -> None:
    subnet = parse_subnet("172.16.0.0/12")
    assert subnet.mask == bytes([255, 240, 0, 0])
    assert subnet.address(0x102) == bytes([172, 16, 1, 2])


@pytest.mark.parametrize(
    "text",
    ["", "10.0.2.0", "10.0.2.0/", "10.0.2/24", "10.0.2.256/24", "ten.0.2.0/24", "fec0::/64"],
)
def test_what_is_no_subnet_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="subnet must be ADDRESS/BITS"):
        parse_subnet(text)


@pytest.mark.parametrize("text", ["10.0.2.0/28", "10.0.0.0/7", "10.0.0.0/-8"])
def test_a_subnet_has_room_for_the_host_and_the_guests(text: str) -> None:
    with pytest.raises(UsageError, match="8 to 27 bits"):
        parse_subnet(text)


def test_a_subnet_is_not_a_host() -> None:
    with pytest.raises(UsageError, match="zero after its first 24 bits"):
        parse_subnet("10.0.2.2/24")


@pytest.mark.parametrize("name", ["", "frog", "frog-2.example", "a" * 32])
def test_a_host_name_is_taken(name: str) -> None:
    check_hostname(name)


@pytest.mark.parametrize("name", ["a" * 33, "frog!", "fröhlich", "a b", "a\0"])
def test_another_host_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="hostname must be"):
        check_hostname(name)


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("tcp:2222:22", Forward("tcp", "127.0.0.1", 2222, 22)),
        ("udp:0.0.0.0:5353:53", Forward("udp", "0.0.0.0", 5353, 53)),
        ("tcp:[::1]:80:65535", Forward("tcp", "::1", 80, 65535)),
        ("tcp::2222:22", Forward("tcp", "127.0.0.1", 2222, 22)),
    ],
)
def test_a_port_is_forwarded_from_loopback_or_an_address(text: str, forward: Forward) -> None:
    assert parse_forward(text) == forward


@pytest.mark.parametrize(
    "text",
    [
        *("", "tcp", "tcp:22", "2222:22", "sctp:1:2", "tcp:0:22", "tcp:22:65536", "tcp:²:22"),
        *(
            "tcp:localhost:1:2",
            "tcp:::1:1:2",
            "tcp:[::1:1:2",
            "tcp:[]:1:2",
            "tcp:1:2:3:4",
            "tcp:-1:2",
        ),
    ],
)
def test_what_is_no_forwarded_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="forward must be"):
        parse_forward(text)
