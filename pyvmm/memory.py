"""Guest memory: RAM in one or two regions around the hole below 4 GiB, every access checked.

Each region is anonymous memory of this process, so that the host can back it with huge pages: that
halves the time in which Linux boots. Where another process must map it too, it is a memfd, which
few hosts give huge pages. Either way the host allocates what is touched first, by the guest or by
an accessor here.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress

from pyvmm import layout
from pyvmm.errors import HostError, MemoryAccessError, UsageError
from pyvmm.value import Value

_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}
MAX_DIGITS = 20
HUGEPAGE = 2 * layout.MIB


def parse_size(text: str | int, what: str = "size") -> int:
    """Turn `512M` or `4G` (powers of 1024; a bare number is bytes) into bytes.

    Raises UsageError, naming `what`, if it is no size.
    """
    if isinstance(text, int):
        return text
    unit = _UNITS.get(text[-1:].upper(), 0)
    number = text[:-1] if unit else text
    if not (number.isascii() and number.isdigit()) or len(number) > MAX_DIGITS:
        raise UsageError(f"{what} must be a number with K, M, G or T, as in 512M, not {text!r}")
    return int(number) << unit


# admin-guide/mm/pagemap.rst: 64 bits a page. Of their top byte the bits that say that a page is
# there (63) or in swap (62), and, of such a page only, whose it is (61, 56).
PAGEMAP = "/proc/self/pagemap"
PAGEMAP_ENTRY, PAGEMAP_TOP = 8, 7  # bytes


class Region(Value):
    """`size` bytes of RAM at guest-physical `base`.

    In shared memory they are kept at `offset` of the memfd `fd`, which is -1 otherwise.
    """

    base: int
    size: int
    fd: int
    offset: int
    view: memoryview

    @property
    def end(self) -> int:
        """The first address past the region."""
        return self.base + self.size


def split_around_hole(size: int) -> list[tuple[int, int]]:
    """Where `size` bytes of RAM lie: (base, size) pairs, below the hole and from 4 GiB on."""
    low = min(size, layout.HOLE)
    high = size - low
    return [(0, low)] + ([(layout.HOLE_END, high)] if high else [])


class GuestMemory:
    """All RAM of one guest. Its accessors may be called on any thread while it is open.

    They raise MemoryAccessError unless the access lies wholly inside one region. Addresses are
    guest-physical, integers little-endian. `fd` is the memfd of shared memory, or -1.
    """

    def __init__(
        self, size: int, *, shared: bool = False, hugepages: bool = False, prealloc: bool = False
    ) -> None:
        """Reserve `size` bytes (a multiple of 4 KiB; of 2 MiB with `hugepages`).

        `shared` memory can be mapped by other processes too. `hugepages` takes it from the host's
        hugetlb pool, and shares it; `prealloc` allocates every page now.
        Raises UsageError for an impossible size, HostError if the host has not that much.
        """
        unit = HUGEPAGE if hugepages else layout.PAGE
        if size < layout.MIB or size % unit:
            raise UsageError(f"Memory must be at least 1M and a multiple of {unit >> 10}K")
        self.size = size
        self._page = unit
        self.fd = -1
        self.regions: list[Region] = []
        self._mappings: list[mmap.mmap] = []
        try:
            if shared or hugepages:
                flags = os.MFD_CLOEXEC | (os.MFD_HUGETLB if hugepages else 0)
                self.fd = os.memfd_create("pyvmm", flags)
                os.ftruncate(self.fd, size)
                if prealloc:
                    os.posix_fallocate(self.fd, 0, size)
            offset = 0
            for base, length in split_around_hole(size):
                if self.fd >= 0:
                    view = self._map_shared(length, offset)
                else:
                    view = self._map_private(length, prealloc)
                self.regions.append(Region(base, length, self.fd, offset, view))
                offset += length
        except (OSError, ValueError) as error:
            self.close()
            kind = "hugepages" if hugepages else "memory"
            reason = error.strerror if isinstance(error, OSError) else error
            raise HostError(f"The host has not {size >> 20} MiB of {kind}: {reason}") from error

    def _map_shared(self, length: int, offset: int) -> memoryview:
        self._mappings.append(mmap.mmap(self.fd, length, mmap.MAP_SHARED, offset=offset))
        return memoryview(self._mappings[-1])

    def _map_private(self, length: int, prealloc: bool) -> memoryview:
        from pyvmm.native import lib

        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | lib.MAP_NORESERVE
        mapping = mmap.mmap(-1, length + HUGEPAGE, flags)
        self._mappings.append(mapping)
        # After a fork the host would copy every page that the guest writes, for a child that has
        # no use for it.
        mapping.madvise(mmap.MADV_DONTFORK)
        # KVM maps a huge page to the guest only if both addresses of it are multiples of its size.
        start = -_address(memoryview(mapping)) % HUGEPAGE
        if prealloc:
            mapping.madvise(lib.MADV_POPULATE_WRITE, start, length)
        return memoryview(mapping)[start : start + length]

    def close(self) -> None:
        """Give the memory back; a view that somebody still holds keeps its region mapped."""
        for region in self.regions:
            region.view.release()
        for mapping in self._mappings:
            with suppress(BufferError):
                mapping.close()
        self.regions.clear()
        self._mappings.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def use_huge_pages(self) -> None:
        """From here on have the host give huge pages to private memory, where it can.

        For a guest that uses more than a few: the first touch of one costs as much as of 512 small
        ones, and several ms in a virtual machine that gives its free memory back.
        """
        if self.fd < 0:
            for mapping in self._mappings:
                with suppress(OSError):  # a host without transparent huge pages
                    mapping.madvise(mmap.MADV_HUGEPAGE)

    def discard(self) -> None:
        """Make every byte zero and return the pages to the host."""
        for mapping in self._mappings:
            mapping.madvise(self._forget)

    def discard_pages(self, address: int, length: int) -> None:
        """Return the pages that lie wholly in there to the host; they are zeros from then on."""
        region = self.region_at(address, length)
        start = -(-(address - region.base) // self._page) * self._page
        end = (address + length - region.base) // self._page * self._page
        if start < end:
            mapping = self._mappings[self.regions.index(region)]
            first = _address(region.view) - _address(memoryview(mapping))
            mapping.madvise(self._forget, first + start, end - start)

    @property
    def _forget(self) -> int:
        """The advice that makes pages zeros."""
        return mmap.MADV_DONTNEED if self.fd < 0 else mmap.MADV_REMOVE

    def region_at(self, address: int, length: int) -> Region:
        """The region that holds all `length` bytes at `address`."""
        for region in self.regions:
            if region.base <= address and length >= 0 and address + length <= region.end:
                return region
        raise MemoryAccessError(address, length)

    def view(self, address: int, length: int) -> memoryview:
        """The guest's own bytes, without a copy: writes to the view are writes to RAM."""
        region = self.region_at(address, length)
        start = address - region.base
        return region.view[start : start + length]

    def address_of(self, view: memoryview) -> int:
        """Where the bytes of a view that `view` gave are. Raises ValueError for any other."""
        at = _address(view)
        for region in self.regions:
            offset = at - _address(region.view)
            if 0 <= offset < region.size:
                return region.base + offset
        raise ValueError("A view must be of this memory")

    def read(self, address: int, length: int) -> bytes:
        """A copy of `length` bytes."""
        return bytes(self.view(address, length))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` into RAM."""
        self.view(address, len(data))[:] = data

    def u8(self, address: int) -> int:
        """The byte at `address`."""
        return self.view(address, 1)[0]

    def u16(self, address: int) -> int:
        """The 16-bit integer at `address`."""
        return int.from_bytes(self.view(address, 2), "little")

    def u32(self, address: int) -> int:
        """The 32-bit integer at `address`."""
        return int.from_bytes(self.view(address, 4), "little")

    def u64(self, address: int) -> int:
        """The 64-bit integer at `address`."""
        return int.from_bytes(self.view(address, 8), "little")

    def write_u8(self, address: int, value: int) -> None:
        """Store a byte."""
        self.write(address, struct.pack("<B", value))

    def write_u16(self, address: int, value: int) -> None:
        """Store a 16-bit integer."""
        self.write(address, struct.pack("<H", value))

    def write_u32(self, address: int, value: int) -> None:
        """Store a 32-bit integer."""
        self.write(address, struct.pack("<I", value))

    def write_u64(self, address: int, value: int) -> None:
        """Store a 64-bit integer."""
        self.write(address, struct.pack("<Q", value))

    def touched(self) -> Iterator[tuple[int, int]]:
        """(address, length) of runs that have every page ever written or read, in order.

        Unless the memory is shared, in pieces of 2 MiB.
        """
        for region in self.regions:
            runs = _allocated(region) if self.fd < 0 else self._not_holes(region)
            for start, end in runs:
                yield region.base + start, end - start

    def _not_holes(self, region: Region) -> Iterator[tuple[int, int]]:
        """(start, end) in `region` of what is in the memfd."""
        at, last = region.offset, region.offset + region.size
        with suppress(OSError):  # ENXIO: nothing but holes from here on
            while (at := os.lseek(self.fd, at, os.SEEK_DATA)) < last:
                stop = min(os.lseek(self.fd, at, os.SEEK_HOLE), last)
                yield at - region.offset, stop - region.offset
                at = stop


def _address(view: memoryview) -> int:
    from pyvmm.native import ffi

    return int(ffi.cast("uintptr_t", ffi.from_buffer(view)))


def _allocated(region: Region) -> Iterator[tuple[int, int]]:
    """(start, end) in `region` of the pieces of which this process has pages."""
    first = _address(region.view) // layout.PAGE
    start = 0  # of the run
    with open(PAGEMAP, "rb", buffering=0) as pagemap:
        for at in range(0, region.size, HUGEPAGE):
            pages = min(HUGEPAGE, region.size - at) // layout.PAGE
            offset = (first + at // layout.PAGE) * PAGEMAP_ENTRY
            entries = os.pread(pagemap.fileno(), pages * PAGEMAP_ENTRY, offset)
            if not any(entries[PAGEMAP_TOP::PAGEMAP_ENTRY]):
                if start < at:
                    yield start, at
                start = at + HUGEPAGE
    if start < region.size:
        yield start, region.size
