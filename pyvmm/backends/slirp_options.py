"""What user networking is told: its subnet, the ports that are forwarded, the guest's name."""

from __future__ import annotations

from pyvmm.backends import slirp_spec as spec
from pyvmm.errors import UsageError
from pyvmm.value import Value

PROTOCOLS = ("tcp", "udp")
PORT_MAX = 0xFFFF
LOOPBACK = "127.0.0.1"


class Forward(Value):
    """Connections to a port of the host that are passed on to one of the guest's."""

    protocol: str  # one of PROTOCOLS
    host: str  # an address of the host's, IPv4 or IPv6
    port: int
    guest_port: int


class Subnet(Value):
    """An IPv4 network: its first address, and how many bits of it all addresses have."""

    base: bytes
    prefix: int

    @property
    def mask(self) -> bytes:
        """The netmask."""
        return ((1 << 32) - (1 << 32 - self.prefix)).to_bytes(4, "big")

    def address(self, offset: int) -> bytes:
        """The address that is `offset` above the first."""
        return (int.from_bytes(self.base, "big") + offset).to_bytes(4, "big")


def parse_address(text: str) -> bytes:
    """An IPv4 address, or an IPv6 one. Raises ValueError."""
    if ":" in text:
        import socket  # costs a start-up 5 ms, and few want it

        try:
            return socket.inet_pton(socket.AF_INET6, text)
        except OSError:
            raise ValueError(text) from None
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(text)
    return bytes(map(int, parts))


def parse_subnet(text: str) -> Subnet:
    """`ADDRESS/BITS`, an IPv4 network with room for what there must be. Raises UsageError."""
    address, _, bits = text.partition("/")
    try:
        base, prefix = parse_address(address), int(bits)
    except ValueError:
        base, prefix = b"", 0
    if len(base) != 4 or not spec.PREFIX_MIN <= prefix <= spec.PREFIX_MAX:
        raise UsageError(
            f"subnet must be ADDRESS/BITS with {spec.PREFIX_MIN} to {spec.PREFIX_MAX} bits, "
            f"not {text!r}"
        )
    subnet = Subnet(base, prefix)
    if int.from_bytes(base, "big") & ~int.from_bytes(subnet.mask, "big"):
        raise UsageError(f"subnet must be zero after its first {prefix} bits, not {text!r}")
    return subnet


def parse_forward(text: str) -> Forward:
    """`tcp|udp:[HOST:]PORT:PORT`, in which an IPv6 HOST stands in []. Raises UsageError."""
    protocol, _, rest = text.partition(":")
    host, port, guest_port = ["", "", *rest.rsplit(":", 2)][-3:]
    host = host or LOOPBACK
    bracketed = host[0] == "[" and host[-1] == "]"
    host = host[1:-1] if bracketed else host
    ports = [int(one) for one in (port, guest_port) if one.isascii() and one.isdigit()]
    try:
        size = len(parse_address(host))
    except ValueError:
        size = 0
    if (
        protocol not in PROTOCOLS
        or size != (16 if bracketed else 4)
        or [0 < one <= PORT_MAX for one in ports] != [True, True]
    ):
        raise UsageError(
            "forward must be tcp|udp:[HOST:]PORT:PORT with a numeric HOST and ports from 1 to "
            f"{PORT_MAX}, not {text!r}"
        )
    return Forward(protocol, host, *ports)


def check_hostname(name: str) -> None:
    """Raise UsageError unless `name` can be told to a guest by DHCP, or is empty."""
    plain = name.replace("-", "a").replace(".", "a")
    if name and not (plain.isascii() and plain.isalnum() and len(name) <= spec.HOSTNAME_MAX):
        raise UsageError(
            f"hostname must be up to {spec.HOSTNAME_MAX} letters, digits, hyphens and dots, "
            f"not {name!r}"
        )
