"""Facts of virtio over PCI (VIRTIO 1.2 §4.1), and how this project lays out a function's BAR."""

from __future__ import annotations

import struct

from pyvmm.virtio import virtio_spec as virtio

VENDOR = 0x1AF4  # §4.1.2
DEVICE_BASE = 0x1040  # §4.1.2.1; plus the device ID
REVISION = 1

# Class codes are free for virtio; these are QEMU's (include/hw/pci/pci_ids.h and each device).
CLASS_OTHER = 0x00_FF00
CLASSES = {
    virtio.ID_NET: 0x02_0000,
    virtio.ID_BLOCK: 0x01_0000,
    virtio.ID_CONSOLE: 0x07_8000,
    virtio.ID_VSOCK: 0x07_8000,
    virtio.ID_FS: 0x01_8000,
}

# Vendor capabilities, §4.1.4. struct virtio_pci_cap behind its two-byte header: u8 cap_len,
# cfg_type, bar, id, padding[2], le32 offset, length.
CAP = struct.Struct("<BBBB2xII")
CAP_COMMON = 1
CAP_NOTIFY = 2  # §4.1.4.4; le32 notify_off_multiplier follows
CAP_ISR = 3
CAP_DEVICE = 4
CAP_PCI = 5  # §4.1.4.9; u8 pci_cfg_data[4] follows
CAP_NAMES = {
    CAP_COMMON: "common",
    CAP_NOTIFY: "notify",
    CAP_ISR: "ISR",
    CAP_DEVICE: "device",
    CAP_PCI: "window",
}
CAP_BAR = 4  # offsets in the capability, its header counted
CAP_OFFSET = 8
CAP_LENGTH = 12
CAP_DATA = 16
CAP_DATA_SIZE = 4
CAP_WINDOW_WRITABLE = CAP.pack(0, 0, 0xFF, 0, 0xFFFF_FFFF, 0xFFFF_FFFF) + bytes(
    (0xFF,) * CAP_DATA_SIZE
)

# The BAR, ours. ISR reads have a side effect, hence it is not prefetchable.
BAR = 0
BAR_SIZE = 0x8000
PAGE = 0x1000
COMMON = 0x0000
ISR = 0x1000
DEVICE = 0x2000
NOTIFY = 0x3000
MSIX_TABLE = 0x4000
MSIX_PBA = 0x6000
VECTORS_MAX = (MSIX_PBA - MSIX_TABLE) // 16
ISR_SIZE = 1
NOTIFY_MULTIPLIER = 4
WIDTH = 4  # bytes of the widest access, §4.1.3.1

# §4.1.4.3 struct virtio_pci_common_cfg, all of it; RO unless said otherwise.
COMMON_CFG = struct.Struct("<IIIIHHBBHHHHHQQQHH")
DEVICE_FEATURE_SELECT = 0  # 32, RW
DEVICE_FEATURE = 4  # 32
DRIVER_FEATURE_SELECT = 8  # 32, RW
DRIVER_FEATURE = 12  # 32, RW
CONFIG_MSIX_VECTOR = 16  # 16, RW
NUM_QUEUES = 18  # 16
DEVICE_STATUS = 20  # 8, RW
CONFIG_GENERATION = 21  # 8
QUEUE_SELECT = 22  # 16, RW
QUEUE_SIZE = 24  # 16, RW
QUEUE_MSIX_VECTOR = 26  # 16, RW
QUEUE_ENABLE = 28  # 16, RW
QUEUE_NOTIFY_OFF = 30  # 16
QUEUE_DESC = 32  # 64, RW in halves
QUEUE_DRIVER = 40  # 64, RW in halves
QUEUE_DEVICE = 48  # 64, RW in halves
NO_VECTOR = 0xFFFF  # §4.1.5.1.2
