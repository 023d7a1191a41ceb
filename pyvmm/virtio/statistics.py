"""What devices count: since the device was made, whatever its drivers did meanwhile."""

from __future__ import annotations

from pyvmm.value import Value


class Operations(Value):
    """Requests of one kind that a disk has carried out, and the `errors`: those that failed.

    `nanoseconds` is how long they took in all, each from when it was taken from its queue.
    """

    operations: int
    bytes: int
    nanoseconds: int
    errors: int


class BlockStatistics(Value):
    """What a disk has done; to write zeros counts as `discard`."""

    read: Operations
    write: Operations
    flush: Operations
    discard: Operations
    in_flight: int  # requests that wait for their answer now


class NetStatistics(Value):
    """Frames, and their bytes without headers: `rx` those to the guest, `tx` those from it."""

    rx_frames: int
    rx_bytes: int
    rx_dropped: int  # the driver could not have it
    rx_filtered: int  # the driver does not want it
    tx_frames: int
    tx_bytes: int
    tx_dropped: int  # the link did not take it
    tx_invalid: int  # its headers are wrong
