"""Facts of <linux/vhost.h> and <linux/vhost_types.h>: virtio devices that the kernel serves."""

from __future__ import annotations

import struct

NET_DEVICE = "/dev/vhost-net"
VSOCK_DEVICE = "/dev/vhost-vsock"

GET_FEATURES = 0x8008AF00
SET_FEATURES = 0x4008AF00
SET_OWNER = 0xAF01
SET_MEM_TABLE = 0x4008AF03
SET_VRING_NUM = 0x4008AF10
SET_VRING_ADDR = 0x4028AF11
SET_VRING_BASE = 0x4008AF12
GET_VRING_BASE = 0xC008AF12
SET_VRING_KICK = 0x4008AF20
SET_VRING_CALL = 0x4008AF21
SET_VRING_ERR = 0x4008AF22
NET_SET_BACKEND = 0x4008AF30
VSOCK_SET_GUEST_CID = 0x4008AF60
VSOCK_SET_RUNNING = 0x4004AF61

U64 = struct.Struct("=Q")
MEMORY = struct.Struct("=II")  # struct vhost_memory: nregions, padding; then as many of
MEMORY_REGION = struct.Struct("=QQQQ")  # guest_phys_addr, memory_size, userspace_addr, flags
VRING_STATE = struct.Struct("=II")  # index, num
VRING_ADDR = struct.Struct("=IIQQQQ")  # index, flags, descriptors, used, available, log
VRING_FILE = struct.Struct("=Ii")  # index, descriptor
UNBIND = -1  # VHOST_FILE_UNBIND
