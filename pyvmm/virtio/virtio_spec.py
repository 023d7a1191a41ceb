"""Facts of VIRTIO 1.2 that all devices share."""

from __future__ import annotations

# Device status, §2.1.
STATUS_ACKNOWLEDGE = 1
STATUS_DRIVER = 2
STATUS_DRIVER_OK = 4
STATUS_FEATURES_OK = 8
STATUS_NEEDS_RESET = 64
STATUS_FAILED = 128

# Interrupt status, §4.1.4.5 and §4.2.2.
INTERRUPT_QUEUE = 1
INTERRUPT_CONFIG = 2

# Feature bits, §6; a device's own ones are 0 to 23 and from 50 on.
F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32
F_ACCESS_PLATFORM = 1 << 33
F_RING_PACKED = 1 << 34
F_IN_ORDER = 1 << 35
F_RING_RESET = 1 << 40

QUEUE_SIZE_MAX = 1024  # ours; §2.7 allows 32768

# Split rings, §2.7.
DESC_SIZE = 16  # §2.7.5 struct virtq_desc: le64 addr, le32 len, le16 flags, le16 next
DESC_FLAGS = 12  # the offset of `flags`
DESC_F_NEXT = 1
DESC_F_WRITE = 2
DESC_F_INDIRECT = 4
AVAIL_F_NO_INTERRUPT = 1  # §2.7.6 struct virtq_avail: le16 flags, le16 idx, le16 ring[], used_event
USED_F_NO_NOTIFY = 1  # §2.7.8 struct virtq_used: le16 flags, le16 idx, elements, avail_event
RING_HEADER_SIZE = 4
RING_INDEX_OFFSET = 2
RING_EVENT_SIZE = 2  # used_event and avail_event
RING_INDEX_MASK = 0xFFFF  # all indices run freely, modulo 2^16
CHAIN_LENGTH_MAX = (1 << 32) - 1  # §2.7.5.2 allows 2^32, but the used element's len is 32 bits wide
AVAIL_ELEMENT_SIZE = 2
USED_ELEMENT_SIZE = 8  # §2.7.8 struct virtq_used_elem: le32 id, le32 len
DESC_ALIGN, AVAIL_ALIGN, USED_ALIGN = 16, 2, 4  # §2.7

# Packed rings, §2.8. A descriptor is le64 addr, le32 len, le16 id, le16 flags (§2.8.13).
DESC_F_AVAIL = 1 << 7
DESC_F_USED = 1 << 15
EVENT_FLAGS_ENABLE = 0  # §2.8.10
EVENT_FLAGS_DISABLE = 1
EVENT_FLAGS_DESC = 2
EVENT_SIZE = 4  # §2.8.14 struct pvirtq_event_suppress: le16 offset and wrap, le16 flags
EVENT_FLAGS_MASK = 3
EVENT_ALIGN = 4  # §2.8.10.1
EVENT_WRAP = 1 << 15

# Device IDs, §5.
ID_NET = 1
ID_BLOCK = 2
ID_CONSOLE = 3
ID_RNG = 4
ID_BALLOON = 5
ID_VSOCK = 19
ID_FS = 26
