"""One request: the guest's buffers of one descriptor chain, as two streams of bytes."""

from __future__ import annotations

from collections.abc import Sequence


class Chain:
    """A request that was popped from a queue and has to be pushed back to it.

    `readable` are the buffers that the device may read and has not read yet, `writable` those that
    it may write and has not written yet (VIRTIO 1.2 §2.7.4.2: the former come first); all are the
    guest's own memory, checked. The guest may change what is in them at any time: read once, then
    check. `written` counts the bytes that were written, from the first writable one on.
    """

    __slots__ = ("count", "head", "readable", "writable", "written")

    def __init__(
        self,
        head: int,
        count: int,
        readable: Sequence[memoryview],
        writable: Sequence[memoryview],
    ) -> None:
        """`head` names the chain to its queue, `count` is how many ring descriptors it takes."""
        self.head = head
        self.count = count
        self.readable = list(readable)
        self.writable = list(writable)
        self.written = 0

    def read(self, length: int) -> bytes:
        """The next `length` readable bytes, or as many as there are."""
        return b"".join(take(self.readable, length))

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Store `data` in the next writable bytes; how much of it there was room for."""
        view, done = memoryview(data), 0
        for part in take(self.writable, len(data)):
            part[:] = view[done : done + len(part)]
            done += len(part)
        self.written += done
        return done


def take(buffers: list[memoryview], length: int) -> list[memoryview]:
    """Remove the first `length` bytes from `buffers`, or all that there are, and give them."""
    taken = []
    while buffers and length > 0:
        part = buffers[0]
        if len(part) > length:
            buffers[0] = part[length:]
            part = part[:length]
        else:
            del buffers[0]
        taken.append(part)
        length -= len(part)
    return taken
