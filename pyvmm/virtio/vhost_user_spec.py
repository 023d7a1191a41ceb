"""Facts of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst; sections by their titles).

All numbers are in the host's byte order.
"""

from __future__ import annotations

import struct

# "Header": u32 request, u32 flags, u32 size of the payload.
HEADER = struct.Struct("=III")
VERSION = 1
VERSION_MASK = 3
FLAG_REPLY = 1 << 2
FLAG_NEED_REPLY = 1 << 3

# "Front-end message types".
GET_FEATURES = 1
SET_FEATURES = 2
SET_OWNER = 3
SET_MEM_TABLE = 5
SET_VRING_NUM = 8
SET_VRING_ADDR = 9
SET_VRING_BASE = 10
GET_VRING_BASE = 11
SET_VRING_KICK = 12
SET_VRING_CALL = 13
SET_VRING_ERR = 14
GET_PROTOCOL_FEATURES = 15
SET_PROTOCOL_FEATURES = 16
GET_QUEUE_NUM = 17
SET_VRING_ENABLE = 18
SET_BACKEND_REQ_FD = 21
GET_CONFIG = 24
SET_CONFIG = 25
GET_INFLIGHT_FD = 31
SET_INFLIGHT_FD = 32

# "Back-end message types".
BACKEND_CONFIG_CHANGE_MSG = 2

# "Communication": the feature bit by which a back end says that it has protocol features.
F_PROTOCOL_FEATURES = 1 << 30
# "Protocol features".
PROTOCOL_F_MQ = 1 << 0
PROTOCOL_F_REPLY_ACK = 1 << 3
PROTOCOL_F_BACKEND_REQ = 1 << 5
PROTOCOL_F_CONFIG = 1 << 9
PROTOCOL_F_INFLIGHT_SHMFD = 1 << 12

# "Payload".
U64 = struct.Struct("=Q")  # "A single 64-bit integer"
VRING_STATE = struct.Struct("=II")  # "A vring state description": index, num
VRING_ADDR = struct.Struct("=IIQQQQ")  # index, flags, descriptor, used, available, log
REGIONS = struct.Struct("=I4x")  # "Memory regions description": how many, and then each:
REGION = struct.Struct("=QQQQ")  # guest address, size, user address, mmap offset
REGIONS_MAX = 8
CONFIG = struct.Struct("=III")  # "Virtio device config space": offset, size, flags, then the bytes
CONFIG_MAX = 256  # as VHOST_USER_MAX_CONFIG_SIZE of QEMU's back ends
INFLIGHT = struct.Struct("=QQHH")  # mmap size, mmap offset, queues, queue size

VRING_MAX = 256  # SET_VRING_KICK: the index has 8 bits
