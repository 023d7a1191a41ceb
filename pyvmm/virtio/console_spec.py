"""Facts of the console device: VIRTIO 1.2 §5.3."""

from __future__ import annotations

import struct

# Feature bits, §5.3.3.
F_SIZE = 1 << 0
F_MULTIPORT = 1 << 1
F_EMERG_WRITE = 1 << 2

# Queues, §5.3.2: those of port 0, the two for control, those of port 1 and so on.
CONTROL_RECEIVE, CONTROL_TRANSMIT = 2, 3

CONFIG = struct.Struct("<HHII")  # §5.3.4: cols, rows, max_nr_ports, emerg_wr
EMERG_WRITE = 8  # offset of emerg_wr

CONTROL = struct.Struct("<IHH")  # §5.3.6.2 struct virtio_console_control: id, event, value
DEVICE_READY = 0  # by the driver
DEVICE_ADD = 1  # by the device; <linux/virtio_console.h> calls it PORT_ADD
PORT_READY = 3  # by the driver
PORT_OPEN = 6  # by both
PORT_NAME = 7  # by the device, followed by the name


def receive_queue(port: int) -> int:
    """The queue for what `port` gives to the guest; the one after it is for what it takes."""
    return 2 * port + 2 if port else 0
