"""Block requests (VIRTIO 1.2 §5.2.6), good and bad, from which csrc/fuzz/disk_fuzz.c starts: writes
tests/corpus/requests/, one file each.

    python -m tests.corpus.requests
"""

from __future__ import annotations

import struct
from pathlib import Path

from tests.corpus.rings import BUFFER, INDIRECT, NEXT, TABLE, WRITE, Descriptor, split
from tests.fakes.ringcase import RingCase

FILES = Path(__file__).parent / "requests"

IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8  # VIRTIO 1.2 §5.2.6
SECTOR = 512
SECTORS = 24  # of the target's disk
READ_ONLY, WRITEBACK = b"\x01", b"\x02"  # the script

HEADER = (BUFFER, 16, NEXT, 1)
DATA, STATUS = BUFFER + 0x400, BUFFER + 0x20


def request(
    kind: int,
    sector: int,
    *after: Descriptor,
    header: Descriptor = HEADER,
    script: bytes = WRITEBACK,
) -> RingCase:
    made = split(header, *after, script=script)
    made.image += struct.pack("<IIQ", kind, 0, sector)
    return made


def data(length: int, flags: int = 0) -> Descriptor:
    return (DATA, length, NEXT | flags, 2)


STATUS_BYTE = (STATUS, 1, WRITE, 0)
REQUESTS = {
    "read": request(IN, 1, data(SECTOR, WRITE), STATUS_BYTE),
    "write": request(OUT, 1, data(2 * SECTOR), STATUS_BYTE),
    "write-through": request(OUT, 1, data(SECTOR), STATUS_BYTE, script=b"\0"),
    "write-to-a-read-only-disk": request(OUT, 1, data(SECTOR), STATUS_BYTE, script=READ_ONLY),
    "flush": request(FLUSH, 0, STATUS_BYTE),
    "flush-with-data": request(FLUSH, 0, data(SECTOR), STATUS_BYTE),
    "get-id": request(GET_ID, 0, data(20, WRITE), STATUS_BYTE),
    "unknown-type": request(99, 0, data(SECTOR), STATUS_BYTE),
    "read-with-readable-data": request(IN, 0, data(SECTOR), STATUS_BYTE),
    "write-with-writable-data": request(OUT, 0, data(SECTOR, WRITE), STATUS_BYTE),
    "read-the-last-sector": request(IN, SECTORS - 1, data(SECTOR, WRITE), STATUS_BYTE),
    "read-over-the-end": request(IN, SECTORS - 1, data(2 * SECTOR, WRITE), STATUS_BYTE),
    "write-beyond-the-end": request(OUT, SECTORS, data(SECTOR), STATUS_BYTE),
    "sector-wraps-round": request(OUT, (1 << 64) - 1, data(SECTOR), STATUS_BYTE),
    "offset-wraps-round": request(OUT, 1 << 55, data(SECTOR), STATUS_BYTE),
    "no-data": request(IN, 0, STATUS_BYTE),
    "part-of-a-sector": request(OUT, 0, data(SECTOR - 1), STATUS_BYTE),
    "no-status": request(OUT, 0, (DATA, SECTOR, 0, 0)),
    "status-of-two-bytes": request(OUT, 0, data(SECTOR), (STATUS, 2, WRITE, 0)),
    "header-only": request(FLUSH, 0, header=(BUFFER, 16, 0, 0)),
    "header-too-short": request(IN, 0, data(SECTOR, WRITE), STATUS_BYTE, header=(BUFFER, 15, 1, 1)),
    "header-is-writable": request(IN, 0, header=(BUFFER, 17, WRITE, 0)),
    "status-is-the-header": request(IN, 0, data(SECTOR, WRITE), (BUFFER, 1, WRITE, 0)),
    "data-is-the-ring": request(IN, 0, (0, SECTOR, NEXT | WRITE, 2), STATUS_BYTE),
    "indirect": split(
        (TABLE, 48, INDIRECT, 0),
        table=[HEADER, data(SECTOR, WRITE), STATUS_BYTE],
        script=WRITEBACK,
    ),
}

if __name__ == "__main__":
    FILES.mkdir(exist_ok=True)
    for name, made in REQUESTS.items():
        (FILES / f"{name}.ring").write_bytes(made.pack())
