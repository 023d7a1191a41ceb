"""Facts of Linux about files and block devices that the standard library has not."""

from __future__ import annotations

import struct

# <linux/fs.h>. Those that ask give an int; the two that change take START_LENGTH.
BLKSSZGET = 0x1268  # logical block size
BLKPBSZGET = 0x127B  # physical block size
BLKIOMIN = 0x1278
BLKIOOPT = 0x1279
BLKDISCARD = 0x1277
BLKZEROOUT = 0x127F
START_LENGTH = struct.Struct("=QQ")
INT = struct.Struct("=i")

FICLONE = 0x40049409  # <linux/fs.h>; ioctl_ficlone(2)

# fallocate(2) with FALLOC_FL_PUNCH_HOLE or FALLOC_FL_ZERO_RANGE, both with FALLOC_FL_KEEP_SIZE, as
# ioctls that all file systems understand: xfsctl(3) XFS_IOC_UNRESVSP64 and XFS_IOC_ZERO_RANGE.
PUNCH_HOLE = 0x4030582B
ZERO_RANGE = 0x40305839
# struct space_resv: short l_type, l_whence; s64 l_start, l_len; int l_sysid; u32 l_pid; s32 pad[4]
SPACE = struct.Struct("@hhqqiI16x")

FLOCK = struct.Struct("@hhqqi")  # struct flock, fcntl(2): l_type, l_whence, l_start, l_len, l_pid
WHOLE_FILE = (0, 0, 0, 0)  # its fields after l_type; F_OFD_SETLK wants l_pid 0
