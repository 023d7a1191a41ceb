"""Lists of buffers, as preadv(2) and pwritev(2) take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyvmm.typed import TypeAlias

Buffers: TypeAlias = Sequence[memoryview]
IOV_MAX = 1024  # <linux/uio.h> UIO_MAXIOV


def size(buffers: Buffers) -> int:
    """The bytes of all of them."""
    return sum(map(len, buffers))


def split(buffers: Buffers, count: int) -> tuple[list[memoryview], list[memoryview]]:
    """The first `count` bytes, and the rest."""
    first: list[memoryview] = []
    for index, buffer in enumerate(buffers):
        if count < len(buffer):
            if count:
                first.append(buffer[:count])
            return first, [buffer[count:], *buffers[index + 1 :]]
        first.append(buffer)
        count -= len(buffer)
    return first, []


def scatter(data: bytes | bytearray | memoryview, buffers: Buffers) -> None:
    """Fill `buffers` from `data`, which is as long."""
    at = 0
    for buffer in buffers:
        buffer[:] = data[at : at + len(buffer)]
        at += len(buffer)


def move_all(
    move: Callable[[int, Buffers, int], int], fd: int, buffers: Buffers, offset: int
) -> None:
    """Call preadv or pwritev until all is done. Raises OSError, EOFError at the file's end."""
    while any(map(len, buffers)):
        count = move(fd, buffers[:IOV_MAX], offset)
        if count == 0:
            raise EOFError
        offset += count
        _, buffers = split(buffers, count)
