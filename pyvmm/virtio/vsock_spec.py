"""Facts of the socket device: VIRTIO 1.2 §5.10."""

from __future__ import annotations

import struct

F_STREAM = 1 << 0  # §5.10.3
F_SEQPACKET = 1 << 1

RX, TX, EVENT = range(3)  # queues, §5.10.2
QUEUES = 3

CONFIG = struct.Struct("<Q")  # §5.10.4: guest_cid
CID_HOST = 2  # §5.10.4: 0, 1 and 2 are no guest's
CID_MIN, CID_MAX = 3, (1 << 32) - 2  # 2^32 - 1 is VMADDR_CID_ANY of <linux/vm_sockets.h>
PORT_MAX = (1 << 32) - 2  # likewise VMADDR_PORT_ANY

# §5.10.6 struct virtio_vsock_hdr: src_cid, dst_cid, src_port, dst_port, len, type, op, flags,
# buf_alloc, fwd_cnt.
HEADER = struct.Struct("<QQIIIHHIII")
COUNTER_MASK = (1 << 32) - 1  # §5.10.6.3: fwd_cnt, and what it is compared with, run freely

TYPE_STREAM = 1  # §5.10.6.2

# Operations, §5.10.6.
OP_REQUEST = 1
OP_RESPONSE = 2
OP_RST = 3
OP_SHUTDOWN = 4
OP_RW = 5
OP_CREDIT_UPDATE = 6
OP_CREDIT_REQUEST = 7

# Flags of OP_SHUTDOWN, §5.10.6.5: the sender will not receive, or send, any more.
SHUTDOWN_RCV = 1
SHUTDOWN_SEND = 2
SHUTDOWN_BOTH = SHUTDOWN_RCV | SHUTDOWN_SEND

EVENT_PACKET = struct.Struct("<I")  # §5.10.6.7 struct virtio_vsock_event: id
EVENT_TRANSPORT_RESET = 0

RUNNING = struct.Struct("=i")  # of VHOST_VSOCK_SET_RUNNING, <linux/vhost.h>
