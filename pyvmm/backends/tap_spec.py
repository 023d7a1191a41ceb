"""Facts of <linux/if_tun.h>, <linux/sockios.h>, <linux/if.h> and <linux/virtio_net.h> for taps."""

from __future__ import annotations

import struct

DEVICE = "/dev/net/tun"

# Of <linux/if_tun.h>. The ioctls take a pointer to an int or struct ifreq, but for TUNSETOFFLOAD.
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETTXFILTER = 0x400454D1
TUNSETVNETHDRSZ = 0x400454D8
TUNSETQUEUE = 0x400454D9
TUNSETCARRIER = 0x400454E2

IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
TUN_F_UFO = 0x10
TUN_F_USO4 = 0x20  # and the next: since Linux 6.2
TUN_F_USO6 = 0x40
TUN_F_USO = TUN_F_USO4 | TUN_F_USO6

FILTER = struct.Struct("<HH")  # struct tun_filter: flags, how many addresses follow
FLT_ALLMULTI = 1
ADDRESS = 6  # bytes
BROADCAST = b"\xff" * ADDRESS

# Of <linux/sockios.h>; all take a struct ifreq.
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCGIFMTU = 0x8921
SIOCSIFMTU = 0x8922
SIOCGIFINDEX = 0x8933
SIOCBRADDIF = 0x89A2
SIOCBRDELIF = 0x89A3

# Of <linux/if.h>.
IFF_UP = 1
NAME_MAX = 15  # IFNAMSIZ, without the zero at the end
IFREQ_FLAGS = struct.Struct("<16sH22x")  # struct ifreq with ifr_flags
IFREQ_INT = struct.Struct("<16si20x")  # and with ifr_mtu or ifr_ifindex

# Feature bits of the device whose offloads a tap can do: VIRTIO 1.2 §5.1.3.
F_CSUM = 1 << 0
F_GUEST_CSUM = 1 << 1
F_GUEST_TSO4 = 1 << 7
F_GUEST_TSO6 = 1 << 8
F_GUEST_ECN = 1 << 9
F_GUEST_UFO = 1 << 10
F_HOST_TSO4 = 1 << 11
F_HOST_TSO6 = 1 << 12
F_HOST_ECN = 1 << 13
F_HOST_UFO = 1 << 14
F_GUEST_USO4 = 1 << 54
F_GUEST_USO6 = 1 << 55
F_HOST_USO = 1 << 56

# What a guest that has negotiated the one can be handed: the other.
OFFLOADS = {
    F_GUEST_CSUM: TUN_F_CSUM,
    F_GUEST_TSO4: TUN_F_TSO4,
    F_GUEST_TSO6: TUN_F_TSO6,
    F_GUEST_ECN: TUN_F_TSO_ECN,
    F_GUEST_UFO: TUN_F_UFO,
    F_GUEST_USO4: TUN_F_USO4,
    F_GUEST_USO6: TUN_F_USO6,
}
USO = F_GUEST_USO4 | F_GUEST_USO6 | F_HOST_USO
HOST_OFFLOADS = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_HOST_UFO | F_HOST_USO

HEADER_SIZE = 12  # struct virtio_net_hdr_mrg_rxbuf, before every frame (§5.1.6)
HEADER_FLAGS = 0  # the offset of `flags`
LINK_OVERHEAD = 18  # an Ethernet header and a VLAN tag
FRAME_MAX = HEADER_SIZE + LINK_OVERHEAD + 65536  # GSO_LEGACY_MAX_SIZE of <linux/netdevice.h>
