"""libslirp's interface, and the network that QEMU's users know from it."""

from __future__ import annotations

import struct

LIBRARY = "libslirp.so.0"
PACKAGE = "libslirp0"  # Debian's
VERSION_MIN = "4.5"  # the first with slirp_add_hostxfwd

# <slirp/libslirp.h>
CONFIG_VERSION = 1  # of SlirpConfig: it has all that is needed here, and every release takes it
POLL_OUT = 1 << 1  # these two are the other way round in epoll; IN, ERR and HUP are the same
POLL_PRI = 1 << 2
POLL_ALL = (1 << 5) - 1
TIMEOUT_NONE = 0xFFFFFFFF  # ms
FORWARD_UDP = 1  # SLIRP_HOSTFWD_UDP
FORWARD_IPV6_ONLY = 2  # SLIRP_HOSTFWD_V6ONLY
MTU = 65520  # bytes, at most: less than src/if.h's IF_MTU_MAX, and a multiple of 8 as fragments are
HOSTNAME_MAX = 32  # bytes; src/slirp.h, Slirp.client_hostname

# <linux/in.h>, <linux/in6.h>; ports and addresses have the network's byte order.
AF_INET, AF_INET6 = 2, 10  # <linux/socket.h>
SOCKADDR_IN = struct.Struct("=H2s4s8x")  # family, port, address
SOCKADDR_IN6 = struct.Struct("=H2sI16sI")  # family, port, flow, address, scope

# GLib: gmessages.h
LOG_DOMAIN = b"Slirp"
LOG_LEVELS = 0b11111100  # G_LOG_LEVEL_MASK: every level
LOG_WARNING = 1 << 4  # what is worse has lower bits

# QEMU's manual, "Using the user mode network stack": where things are in the subnet.
SUBNET = "10.0.2.0/24"
HOST = 2
NAME_SERVER = 3
FIRST_GUEST = 15
PREFIX_MIN, PREFIX_MAX = 8, 27  # bits; DHCP has 16 addresses (src/bootp.h, NB_BOOTP_CLIENTS)
PREFIX6 = b"\xfe\xc0".ljust(16, b"\0")
PREFIX6_BITS = 64
