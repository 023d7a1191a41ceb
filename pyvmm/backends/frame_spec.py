"""Facts of the frames that the host's side of a network handles."""

from __future__ import annotations

HEADER_SIZE = 12  # VIRTIO 1.2 §5.1.6 struct virtio_net_hdr, in front of every frame
WHOLE = bytes(HEADER_SIZE)  # the header of a frame that is neither cut nor to be cut
ETHERNET_SIZE = 14  # IEEE 802.3 §3.2: two addresses and a type
MTU_MAX = 65535  # what no network limits: the most that an IPv4 packet's length can say
FRAME_MAX = MTU_MAX + ETHERNET_SIZE + 2 * 4  # with two VLAN tags (802.1ad)
