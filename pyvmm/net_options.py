"""Networks as options of the command line: `--net KIND[,OPTION...]`."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm import suboptions
from pyvmm.errors import UsageError
from pyvmm.net_config import Network, StreamNet, TapNet, UserNet, VhostUserNet

# The options after each kind, as in pyvmm/suboptions.py.
COMMON = {"mac": "ADDRESS", "queues": "N", "mtu": "BYTES", "pcap": "FILE"}
USER = {
    "forward": "tcp|udp:[HOST:]PORT:PORT",
    "restrict": "on|off",
    "ipv6": "on|off",
    "subnet": "ADDRESS/BITS",
    "hostname": "NAME",
}
TAP = {"ifname": "NAME", "bridge": "NAME", "script": "FILE", "vhost": "auto|on|off"}
STREAM = {"path": "SOCKET", "server": "on|off", "reconnect": "SECONDS"}
VHOST_USER = "vhost-user:"
KINDS = ("none", "user", "tap", "stream", f"{VHOST_USER}SOCKET")


def parse_nets(texts: Sequence[str]) -> list[Network]:
    """What --net was given, in order: eth0, eth1, ... Raises UsageError."""
    wanted = [text for text in texts if text != "none"]
    return [parse_net(text, f"eth{index}") for index, text in enumerate(wanted)]


_CLASSES: dict[str, tuple[type[Network], dict[str, str]]] = {
    "user": (UserNet, USER),
    "tap": (TapNet, TAP),
    "stream": (StreamNet, STREAM),
    "vhost-user": (VhostUserNet, {"path": "SOCKET"}),
}


def parse_net(text: str, name: str) -> Network:
    """`KIND[,OPTION...]`, in which ,, stands for a comma of a value. Raises UsageError."""
    kind, *options = suboptions.split(text)
    if kind.startswith(VHOST_USER):
        kind, _, path = kind.partition(":")
        options.insert(0, f"path={path}")
    elif kind not in _CLASSES or kind == "vhost-user":
        raise UsageError(f"A network must be {', '.join(KINDS)}, not {kind!r}")
    value, forms = _CLASSES[kind]
    fields = suboptions.parse(f"A {kind} network", options, forms | COMMON, ("forward",))
    net = value(name=name, **fields)
    net.check()
    return net
