"""Facts of the block device: VIRTIO 1.2 §5.2."""

from __future__ import annotations

import struct

# Feature bits, §5.2.3.
F_SIZE_MAX = 1 << 1
F_SEG_MAX = 1 << 2
F_RO = 1 << 5
F_BLK_SIZE = 1 << 6
F_FLUSH = 1 << 9
F_TOPOLOGY = 1 << 10
F_CONFIG_WCE = 1 << 11
F_MQ = 1 << 12
F_DISCARD = 1 << 13
F_WRITE_ZEROES = 1 << 14

SECTOR = 512  # bytes, the unit of the protocol whatever the block size is: §5.2.5

# §5.2.4 struct virtio_blk_config up to write_zeroes_may_unmap and its padding: le64 capacity, le32
# size_max, le32 seg_max, geometry (le16, u8, u8), le32 blk_size, topology (u8 physical_block_exp,
# u8 alignment_offset, le16 min_io_size, le32 opt_io_size), u8 writeback, u8 unused, le16
# num_queues, le32 max_discard_sectors, max_discard_seg, discard_sector_alignment,
# max_write_zeroes_sectors, max_write_zeroes_seg, u8 write_zeroes_may_unmap.
CONFIG = struct.Struct("<QII4xIBBHIBxHIIIIIB3x")
CAPACITY = struct.Struct("<Q")  # sectors, its first field
CONFIG_WRITEBACK = 32  # the offset of `writeback`, the only field that a driver may write
CONFIG_SIZE_MAX = slice(8, 12)
CONFIG_NUM_QUEUES = slice(34, 36)

# Requests, §5.2.6.
HEADER = struct.Struct("<I4xQ")  # le32 type, le32 reserved, le64 sector
T_IN = 0
T_OUT = 1
T_FLUSH = 4
T_GET_ID = 8
T_DISCARD = 11
T_WRITE_ZEROES = 13
ID_SIZE = 20
SEGMENT = struct.Struct("<QII")  # struct virtio_blk_discard_write_zeroes: sector, number, flags
SEGMENT_UNMAP = 1

S_OK = 0
S_IOERR = 1
S_UNSUPP = 2

# Limits of ours.
QUEUE_SIZE = 256
SEGMENTS = QUEUE_SIZE - 2  # of a request's data: its header and status take a descriptor each
SEGMENT_SIZE = 1 << 20  # bytes
RANGES = 16  # of a discard or write zeroes
DISCARD_SECTORS = 1 << 21  # of one range: 1 GiB
WRITE_ZEROES_SECTORS = 1 << 17  # of one range: 64 MiB, as it may have to be written
