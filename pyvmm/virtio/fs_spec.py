"""Facts of the file system device: VIRTIO 1.2 §5.11."""

from __future__ import annotations

import struct

# Queues, §5.11.2: one for what must not wait behind requests, then those for requests. There is no
# notification queue without F_NOTIFICATION, which is not offered.
REQUEST_QUEUES = 1  # of virtiofsd as Debian 12 has it
QUEUES = 1 + REQUEST_QUEUES
QUEUE_SIZE = 1024  # libvhost-user's limit; Linux makes its requests as large as the queue allows

CONFIG = struct.Struct("<36sI")  # §5.11.4 struct virtio_fs_config: tag, num_request_queues
TAG_SIZE = 36  # bytes of UTF-8, filled up with zeros
