"""Facts of the network device: VIRTIO 1.2 §5.1; for UDP segmentation VIRTIO 1.3 §5.1."""

from __future__ import annotations

import struct

# Feature bits, §5.1.3.
F_CSUM = 1 << 0
F_GUEST_CSUM = 1 << 1
F_CTRL_GUEST_OFFLOADS = 1 << 2
F_MTU = 1 << 3
F_MAC = 1 << 5
F_GUEST_TSO4 = 1 << 7
F_GUEST_TSO6 = 1 << 8
F_GUEST_ECN = 1 << 9
F_GUEST_UFO = 1 << 10
F_HOST_TSO4 = 1 << 11
F_HOST_TSO6 = 1 << 12
F_HOST_ECN = 1 << 13
F_HOST_UFO = 1 << 14
F_MRG_RXBUF = 1 << 15
F_STATUS = 1 << 16
F_CTRL_VQ = 1 << 17
F_CTRL_RX = 1 << 18
F_CTRL_VLAN = 1 << 19
F_CTRL_RX_EXTRA = 1 << 20
F_GUEST_ANNOUNCE = 1 << 21
F_MQ = 1 << 22
F_CTRL_MAC_ADDR = 1 << 23
F_GUEST_USO4 = 1 << 54
F_GUEST_USO6 = 1 << 55
F_HOST_USO = 1 << 56

# What the two sides may leave to each other: the sender the checksum and the cutting into segments.
GUEST_OFFLOADS = (
    F_GUEST_CSUM
    | F_GUEST_TSO4
    | F_GUEST_TSO6
    | F_GUEST_ECN
    | F_GUEST_UFO
    | F_GUEST_USO4
    | F_GUEST_USO6
)
HOST_OFFLOADS = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_HOST_UFO | F_HOST_USO

# §5.1.3.1: a feature, and those of which it needs one.
NEEDS_ONE_OF = (
    (F_GUEST_TSO4, F_GUEST_CSUM),
    (F_GUEST_TSO6, F_GUEST_CSUM),
    (F_GUEST_ECN, F_GUEST_TSO4 | F_GUEST_TSO6),
    (F_GUEST_UFO, F_GUEST_CSUM),
    (F_GUEST_USO4, F_GUEST_CSUM),
    (F_GUEST_USO6, F_GUEST_CSUM),
    (F_HOST_TSO4, F_CSUM),
    (F_HOST_TSO6, F_CSUM),
    (F_HOST_ECN, F_HOST_TSO4 | F_HOST_TSO6),
    (F_HOST_UFO, F_CSUM),
    (F_HOST_USO, F_CSUM),
    (F_CTRL_RX, F_CTRL_VQ),
    (F_CTRL_VLAN, F_CTRL_VQ),
    (F_GUEST_ANNOUNCE, F_CTRL_VQ),
    (F_MQ, F_CTRL_VQ),
    (F_CTRL_MAC_ADDR, F_CTRL_VQ),
)

# §5.1.4 struct virtio_net_config up to `mtu`: u8 mac[6], le16 status, le16 max_virtqueue_pairs,
# le16 mtu.
CONFIG = struct.Struct("<6sHHH")
STATUS_LINK_UP = 1
STATUS_ANNOUNCE = 2
MTU_MIN = 68  # §5.1.4.1
MTU_MAX = 65535
PAIRS_MAX = 0x8000  # §5.1.4.1

# §5.1.6 struct virtio_net_hdr: u8 flags, u8 gso_type, le16 hdr_len, gso_size, csum_start,
# csum_offset, num_buffers.
HEADER = struct.Struct("<BBHHHHH")
GSO_TYPE, NUM_BUFFERS = 1, 10  # the offsets of `gso_type` and `num_buffers`
HDR_F_NEEDS_CSUM = 1
GSO_NONE = 0
GSO_TCPV4 = 1
GSO_UDP = 3
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80
GSO_WHOLE = GSO_NONE, GSO_ECN  # of a frame that is not to be cut up: §5.1.4.1
GSO_FEATURES = {  # what a driver must have accepted to send such a frame
    GSO_TCPV4: F_HOST_TSO4,
    GSO_UDP: F_HOST_UFO,
    GSO_TCPV6: F_HOST_TSO6,
    GSO_UDP_L4: F_HOST_USO,
    GSO_TCPV4 | GSO_ECN: F_HOST_TSO4 | F_HOST_ECN,
    GSO_TCPV6 | GSO_ECN: F_HOST_TSO6 | F_HOST_ECN,
}
CHECKSUM_SIZE = 2

# §5.1.6.5 the control queue: u8 class, u8 command, its data; the device adds u8 ack.
COMMAND = struct.Struct("<BB")
ACK_OK = 0
ACK_ERR = 1
CTRL_RX = 0
CTRL_RX_PROMISC = 0
CTRL_RX_ALLMULTI = 1
CTRL_RX_ALLUNI = 2
CTRL_RX_NOMULTI = 3
CTRL_RX_NOUNI = 4
CTRL_RX_NOBCAST = 5
CTRL_MAC = 1
CTRL_MAC_TABLE_SET = 0
CTRL_MAC_ADDR_SET = 1
CTRL_VLAN = 2
CTRL_VLAN_ADD = 0
CTRL_VLAN_DEL = 1
CTRL_ANNOUNCE = 3
CTRL_ANNOUNCE_ACK = 0
CTRL_MQ = 4
CTRL_MQ_VQ_PAIRS_SET = 0
CTRL_GUEST_OFFLOADS = 5
CTRL_GUEST_OFFLOADS_SET = 0
ENTRIES = struct.Struct("<I")  # §5.1.6.5.2 struct virtio_net_ctrl_mac, then as many addresses
U16 = struct.Struct("<H")
U64 = struct.Struct("<Q")

# Ethernet, IEEE 802.3 §3.2 and 802.1Q §9: destination, source, type; a tag is type and 16 bits.
ADDRESS_SIZE = 6
ETHERNET_SIZE = 14
TYPE_OFFSET = 12
TAG_SIZE = 4
TYPE_VLAN = 0x8100
TYPE_IPV4 = 0x0800
VLAN_MASK = 0xFFF
VLANS = 1 << 12
MULTICAST = 1  # of an address's first byte
BROADCAST = b"\xff" * ADDRESS_SIZE
TAGS_MAX = 2  # of a frame: 802.1ad
GSO_MAX = 40 + 65535  # bytes of a packet that is to be cut up: IPv6's header and most payload
# Where what two directions of a flow have in common is: both addresses and both ports, of IPv4
# (RFC 791 §3.1) without options and of IPv6 (RFC 8200 §3) without extensions.
IPV4_FLOW = slice(26, 38)
IPV6_FLOW = slice(22, 58)

# Limits of ours.
QUEUE_SIZE = 256
TABLE_MAX = 64  # addresses of a filter table; one with more lets all of its kind pass


def queue_indices(pair: int) -> tuple[int, int]:
    """The receive and the transmit queue of a pair (§5.1.2)."""
    return 2 * pair, 2 * pair + 1
