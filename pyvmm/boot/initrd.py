"""Initial RAM disks and boot modules: files of the host that go to guest memory as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pyvmm import layout
from pyvmm.boot import e820
from pyvmm.boot.image_file import AnyPath, ImageFile
from pyvmm.errors import ImageError
from pyvmm.memory import GuestMemory

_ALIGN = 4  # early-userspace/buffer-format.rst: an archive starts at a multiple of 4 bytes


@contextmanager
def opened(paths: Sequence[AnyPath]) -> Iterator[list[ImageFile]]:
    """Open all of them; raises ImageError if one cannot be."""
    with ExitStack() as stack:
        yield [stack.enter_context(ImageFile.open(path)) for path in paths]


def load_high(
    memory: GuestMemory, files: Sequence[ImageFile], lowest: int, limits: Sequence[int]
) -> tuple[int, int]:
    """Concatenate `files` as high as possible in RAM, at or above `lowest`.

    `limits` are ends not to be passed, tried in turn. Gives (address, size), (0, 0) for no files.
    Raises ImageError if they do not fit.
    """
    size = sum(_padded(file.size) for file in files)
    if not size:
        return 0, 0
    for limit in limits:
        for start, end in e820.free_ram(memory):
            address = (min(end, limit) - size) // layout.PAGE * layout.PAGE
            if address >= max(start, lowest):
                _copy(memory, files, address)
                return address, size
    names = " + ".join(file.name for file in files)
    raise ImageError(
        f"{names} ({_mib(size)} MiB) must fit into memory beside the kernel, which ends at "
        f"{_mib(lowest)} MiB; the guest has {memory.size // layout.MIB} MiB"
    )


def load_low(
    memory: GuestMemory, paths: Sequence[AnyPath], lowest: int
) -> Iterator[tuple[int, ImageFile]]:
    """Copy each file to the first free page after `lowest` and the one before; at what address.

    Raises ImageError if one cannot be read or they do not fit.
    """
    for path in paths:
        with ImageFile.open(path) as file:
            address = -(-lowest // layout.PAGE) * layout.PAGE
            lowest = address + file.size
            e820.check_free(memory, file.name, address, lowest)
            file.copy_into(memory, address, 0, file.size)
            yield address, file


def _copy(memory: GuestMemory, files: Sequence[ImageFile], address: int) -> None:
    for file in files:
        file.copy_into(memory, address, 0, file.size)
        address += _padded(file.size)


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _mib(size: int) -> int:
    return -(-size // layout.MIB)
