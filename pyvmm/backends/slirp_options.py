"""What user networking is told: its subnet, its forwarded ports, the guest's name."""

from __future__ import annotations

import socket

from pyvmm.backends import slirp_spec as spec
from pyvmm.errors import UsageError
from pyvmm.value import Value

PORT_MAX = 0xFFFF
LOOPBACK = "127.0.0.1"
FORWARD = "tcp|udp:[HOST:]PORT:PORT"


class Forward(Value):
    """A port of the host's that leads to one of the guest's."""

    protocol: str  # tcp or udp
    host: str  # the IPv4 address that is listened on
    port: int
    guest_port: int

    def __str__(self) -> str:
        return f"{self.protocol}:{self.host}:{self.port}:{self.guest_port}"


class Subnet(Value):
    """An IPv4 network: its first address as a number, and how many bits all have in common."""

    base: int
    prefix: int

    @property
    def mask(self) -> bytes:
        """The netmask."""
        return ((1 << 32) - (1 << 32 - self.prefix)).to_bytes(4, "big")

    def address(self, offset: int) -> bytes:
        """The address that is `offset` above the first."""
        return (self.base + offset).to_bytes(4, "big")


def parse_forward(text: str) -> Forward:
    """`tcp|udp:[HOST:]PORT:PORT`, with HOST [127.0.0.1] an IPv4 address. Raises UsageError."""
    protocol, *host, port, guest_port = text.split(":") if text.count(":") in (2, 3) else [""] * 3
    host = host or [LOOPBACK]
    ports = [int(part) for part in (port, guest_port) if part.isascii() and part.isdigit()]
    if protocol not in ("tcp", "udp") or len(ports) != 2 or _parse_address(host[0]) is None:
        raise UsageError(f"A forwarded port must be {FORWARD}, not {text!r}")
    if not all(1 <= number <= PORT_MAX for number in ports):
        raise UsageError(f"A port must be from 1 to {PORT_MAX}, not as in {text!r}")
    return Forward(protocol, host[0], *ports)


def parse_subnet(text: str) -> Subnet:
    """`ADDRESS/BITS`, an IPv4 network with room for what there must be. Raises UsageError."""
    address, _, bits = text.partition("/")
    base = _parse_address(address)
    if base is None or not (bits.isascii() and bits.isdigit()):
        raise UsageError(f"A subnet must be as {spec.SUBNET}, not {text!r}")
    if not spec.PREFIX_MIN <= int(bits) <= spec.PREFIX_MAX:
        limits = f"/{spec.PREFIX_MIN} to /{spec.PREFIX_MAX}"
        raise UsageError(f"A subnet must be from {limits}, not {text!r}")
    subnet = Subnet(base, int(bits))
    if base & ~int.from_bytes(subnet.mask, "big"):
        raise UsageError(f"A subnet's address must end in zeroes after its {bits} bits: {text!r}")
    return subnet


def check_hostname(name: str) -> None:
    """Raise UsageError unless `name` can be told to a guest by DHCP, or is empty."""
    plain = name.replace("-", "a").replace(".", "a")
    if name and not (plain.isascii() and plain.isalnum() and len(name) <= spec.HOSTNAME_MAX):
        raise UsageError(
            f"A host name must be up to {spec.HOSTNAME_MAX} letters, digits, hyphens and dots, "
            f"not {name!r}"
        )


def _parse_address(text: str) -> int | None:
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    except (OSError, ValueError):  # ValueError for a null character
        return None
