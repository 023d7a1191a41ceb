"""What each block request does to its disk's storage: VIRTIO 1.2 §5.2.6."""

from __future__ import annotations

from pyvmm.typed import TYPE_CHECKING
from pyvmm.virtio import blk_spec as spec
from pyvmm.virtio.blk_request import Request

if TYPE_CHECKING:
    from pyvmm.virtio.blk import Blk


def carry_out(disk: Blk, request: Request) -> int:
    """Do what a request of `disk` asks for; its status. Raises OSError. The worker's thread."""
    match request.kind:
        case spec.T_IN:
            return _read(disk, request)
        case spec.T_OUT:
            return _write(disk, request)
        case spec.T_FLUSH:
            disk.storage.flush()
            return spec.S_OK
        case spec.T_GET_ID:
            return _get_id(disk, request)
        case spec.T_DISCARD if disk.features & spec.F_DISCARD:
            return _discard(disk, request)
        case spec.T_WRITE_ZEROES if disk.features & spec.F_WRITE_ZEROES:
            return _write_zeroes(disk, request)
        case None:
            return spec.S_IOERR
        case _:
            return spec.S_UNSUPP


def _inside(disk: Blk, sector: int, length: int) -> bool:
    return sector * spec.SECTOR + length <= disk.storage.size and length % spec.SECTOR == 0


def _read(disk: Blk, request: Request) -> int:
    if not _inside(disk, request.sector, request.room):
        return spec.S_IOERR
    disk.storage.preadv(request.writable, request.sector * spec.SECTOR)
    request.chain.written = request.room
    return spec.S_OK


def _write(disk: Blk, request: Request) -> int:
    length = sum(map(len, request.readable))
    if disk.storage.read_only or not _inside(disk, request.sector, length):
        return spec.S_IOERR
    disk.storage.pwritev(request.readable, request.sector * spec.SECTOR)
    _written(disk)
    return spec.S_OK


def _written(disk: Blk) -> None:
    """Data was written: without a write cache it has to be permanent now (§5.2.6.2)."""
    if not disk.writeback:
        disk.storage.flush()


def _get_id(disk: Blk, request: Request) -> int:
    if request.room != spec.ID_SIZE:
        return spec.S_IOERR
    request.chain.write(disk.serial)
    return spec.S_OK


def _discard(disk: Blk, request: Request) -> int:
    status, ranges = _ranges(disk, request, spec.DISCARD_SECTORS, 0)
    request.covered = sum(length for _, length, _ in ranges)
    for offset, length, _ in ranges:
        disk.storage.discard(offset, length)
    return status


def _write_zeroes(disk: Blk, request: Request) -> int:
    status, ranges = _ranges(disk, request, spec.WRITE_ZEROES_SECTORS, spec.SEGMENT_UNMAP)
    request.covered = sum(length for _, length, _ in ranges)
    for offset, length, flags in ranges:
        unmap = bool(flags & spec.SEGMENT_UNMAP and disk.features & spec.F_DISCARD)
        disk.storage.write_zeroes(offset, length, unmap)
    if ranges:
        _written(disk)
    return status


def _ranges(
    disk: Blk, request: Request, longest: int, allowed: int
) -> tuple[int, list[tuple[int, int, int]]]:
    """A status, and if that is OK the (offset, length, flags) of every range, all checked."""
    if request.length - request.room > spec.RANGES * spec.SEGMENT.size:
        return spec.S_IOERR, []
    data = b"".join(request.readable)
    if not data or len(data) % spec.SEGMENT.size:
        return spec.S_IOERR, []
    segments = list(spec.SEGMENT.iter_unpack(data))
    if any(flags & ~allowed for _, _, flags in segments):
        return spec.S_UNSUPP, []
    for sector, sectors, _ in segments:
        if sectors > longest or not _inside(disk, sector, sectors * spec.SECTOR):
            return spec.S_IOERR, []
    return spec.S_OK, [
        (sector * spec.SECTOR, sectors * spec.SECTOR, flags)
        for sector, sectors, flags in segments
        if sectors
    ]
