"""Facts of the traditional memory balloon: VIRTIO 1.2 §5.5."""

from __future__ import annotations

import struct

# Feature bits, §5.5.3.
F_STATS_VQ = 1 << 1
F_DEFLATE_ON_OOM = 1 << 2
F_PAGE_REPORTING = 1 << 5

# Queues, §5.5.2; between STATS and the reporting queue there is one for hints, which we do not
# offer. Linux up to 6.10 numbers the queues without those that are not there.
INFLATE, DEFLATE, STATS = 0, 1, 2
QUEUES = 5

PAGE = 4096  # §5.5.6, whatever the guest's pages are
CONFIG = struct.Struct("<II")  # §5.5.4: num_pages, actual
ACTUAL = 4  # offset
ACTUAL_SIZE = 4

STAT = struct.Struct("<HQ")  # §5.5.6.3 struct virtio_balloon_stat: tag, val
STATS_NAMES = (  # §5.5.6.4, by tag
    "swap_in",
    "swap_out",
    "major_faults",
    "minor_faults",
    "free",
    "total",
    "available",
    "disk_caches",
    "hugetlb_allocations",
    "hugetlb_failures",
)
