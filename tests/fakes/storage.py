"""A disk in the test's memory that tells what was done to it and fails when it is told to."""

from __future__ import annotations

from collections.abc import Sequence


class MemoryStorage:
    """See pyvmm.virtio.blk.Storage. `calls` are what was asked of it, (method, ...)."""

    block_size = 512
    physical_block_size = 4096
    minimum_io = 4096
    optimal_io = 65536
    fd: int | None = None

    def __init__(
        self, size: int = 1 << 20, *, read_only: bool = False, can_discard: bool = True
    ) -> None:
        self.size = size
        self.read_only = read_only
        self.can_discard = can_discard
        self.data = bytearray(size)
        self.calls: list[tuple[object, ...]] = []
        self.trouble: OSError | None = None
        self.closed = False

    def _called(self, *call: object) -> None:
        self.calls.append(call)
        if self.trouble is not None:
            raise self.trouble

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        self._called("read", offset, sum(map(len, buffers)))
        for buffer in buffers:
            buffer[:] = self.data[offset : offset + len(buffer)]
            offset += len(buffer)

    def pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        self._called("write", offset, sum(map(len, buffers)))
        for buffer in buffers:
            self.data[offset : offset + len(buffer)] = buffer
            offset += len(buffer)

    def flush(self) -> None:
        self._called("flush")

    def discard(self, offset: int, length: int) -> None:
        self._called("discard", offset, length)

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        self._called("zero", offset, length, unmap)
        self.data[offset : offset + length] = bytes(length)

    def resize(self, total: int) -> None:
        self._called("resize", total)
        self.data[self.size :] = bytes(total - self.size)
        self.size = total

    def commit(self) -> None:
        self._called("commit")

    def close(self) -> None:
        self.closed = True
