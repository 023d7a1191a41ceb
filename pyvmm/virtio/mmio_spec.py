"""Facts of virtio over MMIO, version 2 (VIRTIO 1.2 §4.2.2). Registers are 32 bits wide."""

from __future__ import annotations

SIZE = 0x1000  # of a transport, ours
WIDTH = 4  # bytes of the widest access
REGISTER_SIZE = 4

MAGIC = 0x000  # RO
MAGIC_VALUE = int.from_bytes(b"virt", "little")
VERSION = 0x004  # RO
VERSION_VALUE = 2
DEVICE_ID = 0x008  # RO
VENDOR_ID = 0x00C  # RO
VENDOR_VALUE = 0x1AF4
DEVICE_FEATURES = 0x010  # RO
DEVICE_FEATURES_SEL = 0x014  # WO
DRIVER_FEATURES = 0x020  # WO
DRIVER_FEATURES_SEL = 0x024  # WO
QUEUE_SEL = 0x030  # WO
QUEUE_SIZE_MAX = 0x034  # RO
QUEUE_SIZE = 0x038  # WO
QUEUE_READY = 0x044  # RW
QUEUE_NOTIFY = 0x050  # WO: the queue's index
INTERRUPT_STATUS = 0x060  # RO
INTERRUPT_ACK = 0x064  # WO
STATUS = 0x070  # RW
QUEUE_DESC = 0x080  # 64 bits, WO
QUEUE_DRIVER = 0x090  # 64 bits, WO
QUEUE_DEVICE = 0x0A0  # 64 bits, WO
SHM_SEL = 0x0AC  # WO
SHM_LEN = 0x0B0  # 64 bits, RO: all ones, as there is no shared memory
SHM_BASE = 0x0B8  # 64 bits, RO
CONFIG_GENERATION = 0x0FC  # RO
CONFIG = 0x100  # the device's, of any width
