"""The log of a Linux guest, read from its memory: it is there even if no console ever showed it.

`read_log` tries, in this order:

1. the printk ring buffer of Linux 5.10 and later, where the VMCOREINFO note says it lies
   (Linux, kernel/printk/printk_ringbuffer.[ch], admin-guide/kdump/gdbmacros.txt);
2. before that note exists, the same ring's text, found by its first record, the kernel's banner:
   blocks of a descriptor id and text, the ids counting up. Times and levels are not known then;
3. the records of Linux 3.5 to 5.9, found by their banner (kernel/printk/printk.c, struct
   printk_log).

All of it is data that the guest wrote: every step is bounded and checked.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyvmm.errors import MemoryAccessError
from pyvmm.inspection.kernel import GuestKernel, find_kernels, search
from pyvmm.memory import GuestMemory

RECORDS_MAX = 1 << 14  # the newest ones, if there should be more
TEXT_MAX = 2048  # twice printk's LOG_LINE_MAX: a record may be continued
RING_BITS_MAX = 31  # log_buf_len's own limit, LOG_BUF_LEN_MAX

# prb_desc.state_var, printk_ringbuffer.h: an id, and the record's state in the top two bits.
ID_MASK = (1 << 62) - 1
STATE_SHIFT = 62
COMMITTED, FINALIZED = 1, 2
LPOS_MASK = (1 << 64) - 1
NO_DATA = 1  # an lpos with bit 0 set: a record without text, or one that did not fit
BLOCK_ID_SIZE = 8

# struct printk_info: u16 text_len, u8 facility, u8 flags:5 level:3.
TEXT_LEVEL = struct.Struct("<HBB")
LEVEL_SHIFT = 5

# struct printk_log: u64 ts_nsec, u16 len, text_len, dict_len, u8 facility, u8 flags:5 level:3; with
# PRINTK_CALLER, u32 caller_id after it.
OLD_RECORD = struct.Struct("<QHHHBB")
OLD_HEADER_SIZES = (OLD_RECORD.size, OLD_RECORD.size + 4)

BANNER = b"Linux version "
_INIT = re.compile(r"Run \S+ as init process")  # init/main.c, run_init_process


class LogLine(NamedTuple):
    """One record: its number, nanoseconds since the guest's boot, level 0 (emergency) to 7, text.

    `text` is the guest's, as it wrote it: make it printable before it goes to a terminal.
    """

    seq: int
    timestamp_ns: int | None
    level: int | None
    text: str


def read_log(memory: GuestMemory, kernels: Iterable[GuestKernel] | None = None) -> list[LogLine]:
    """The guest's kernel log, oldest first; empty if none is found. Raises nothing. Any thread.

    `kernels` are those of find_kernels, if known. Of a guest that runs, records that change
    meanwhile may be missing.
    """
    for kernel in find_kernels(memory) if kernels is None else kernels:
        try:
            lines = list(_records(kernel))
        except (LookupError, ValueError, MemoryAccessError):
            continue
        if lines:
            return lines
    found: list[LogLine] = []
    for banner in search(memory, BANNER):
        found = max(found, _blocks(memory, banner), _old_records(memory, banner), key=len)
    return found if len(found) > 1 else []  # a lone banner is the kernel image's own copy


def init_started(lines: list[LogLine]) -> int | None:
    """When the kernel started its first process, in nanoseconds since the guest's boot."""
    return next((line.timestamp_ns for line in lines if _INIT.match(line.text)), None)


def _records(kernel: GuestKernel) -> Iterator[LogLine]:
    """All finished records of the ring buffer, by its descriptors."""
    ring = kernel.u64(kernel.symbol("prb"))
    descriptors = ring + kernel.offset("printk_ringbuffer.desc_ring")
    texts = ring + kernel.offset("printk_ringbuffer.text_data_ring")
    state_var = kernel.offset("prb_desc.state_var")
    lpos = kernel.offset("prb_desc.text_blk_lpos")
    begin_offset = lpos + kernel.offset("prb_data_blk_lpos.begin")
    next_offset = lpos + kernel.offset("prb_data_blk_lpos.next")
    count_bits = kernel.u32(descriptors + kernel.offset("prb_desc_ring.count_bits"))
    size_bits = kernel.u32(texts + kernel.offset("prb_data_ring.size_bits"))
    if max(count_bits, size_bits) > RING_BITS_MAX:
        raise ValueError("The printk ring buffer's sizes are impossible")
    descs = kernel.u64(descriptors + kernel.offset("prb_desc_ring.descs"))
    infos = kernel.u64(descriptors + kernel.offset("prb_desc_ring.infos"))
    data = kernel.u64(texts + kernel.offset("prb_data_ring.data"))
    head = kernel.u64(descriptors + kernel.offset("prb_desc_ring.head_id"))
    tail = kernel.u64(descriptors + kernel.offset("prb_desc_ring.tail_id"))

    count = min((head - tail & ID_MASK) + 1, 1 << count_bits, RECORDS_MAX)
    for wanted in range(head - count + 1, head + 1):
        index = wanted & (1 << count_bits) - 1
        desc = descs + index * kernel.size("prb_desc")
        state = kernel.u64(desc + state_var)
        if state >> STATE_SHIFT not in (COMMITTED, FINALIZED) or (state ^ wanted) & ID_MASK:
            continue
        info = infos + index * kernel.size("printk_info")
        length, _, level = TEXT_LEVEL.unpack(
            kernel.read(info + kernel.offset("printk_info.text_len"), TEXT_LEVEL.size)
        )
        begin, end = kernel.u64(desc + begin_offset), kernel.u64(desc + next_offset)
        text = b""
        if not begin & NO_DATA:
            if begin >> size_bits != (end - 1 & LPOS_MASK) >> size_bits:
                begin = 0  # a block that would not fit at the ring's end lies at its start
            at = (begin & (1 << size_bits) - 1) + BLOCK_ID_SIZE
            text = kernel.read(data + at, min(length, (1 << size_bits) - at))
        yield LogLine(
            kernel.u64(info + kernel.offset("printk_info.seq")),
            kernel.u64(info + kernel.offset("printk_info.ts_nsec")),
            level >> LEVEL_SHIFT,
            text.decode("utf-8", "replace"),
        )


def _blocks(memory: GuestMemory, banner: int) -> list[LogLine]:
    """The records of a text data ring whose first text lies at `banner`."""
    lines: list[LogLine] = []
    at = banner - BLOCK_ID_SIZE
    while len(lines) < RECORDS_MAX:
        block = _window(memory, at, BLOCK_ID_SIZE + TEXT_MAX)
        following = (int.from_bytes(block[:BLOCK_ID_SIZE], "little") + 1 & ID_MASK).to_bytes(
            BLOCK_ID_SIZE, "little"
        )
        end = block.find(following, BLOCK_ID_SIZE)
        text = block[BLOCK_ID_SIZE : end if end >= 0 else None].partition(b"\0")[0]
        lines.append(LogLine(len(lines), None, None, _without_leftover(text)))
        if end < 0:
            break
        at += end
    return lines


def _without_leftover(text: bytes) -> str:
    """Printk takes off the level, two bytes in front, by moving the text: so its last two bytes
    stand there twice. Where a continuation's level (0x01 "c") stands, it has not moved them."""
    text, continued, _ = text.removesuffix(b"\n").partition(b"\x01")
    if not continued and len(text) >= 4 and text[-2:] == text[-4:-2]:
        text = text[:-2]
    return text.decode("utf-8", "replace")


def _old_records(memory: GuestMemory, banner: int) -> list[LogLine]:
    """The records of Linux before 5.10, the first of which has its text at `banner`."""
    return max((list(_old_walk(memory, banner, size)) for size in OLD_HEADER_SIZES), key=len)


def _old_walk(memory: GuestMemory, banner: int, header: int) -> Iterator[LogLine]:
    at = banner - header
    for seq in range(RECORDS_MAX):
        record = _window(memory, at, header + TEXT_MAX)
        if len(record) < header:
            return
        timestamp, length, text_length, extra, _, level = OLD_RECORD.unpack_from(record)
        if not text_length or length < header + text_length + extra:
            return
        text = record[header : header + text_length].decode("utf-8", "replace")
        yield LogLine(seq, timestamp, level >> LEVEL_SHIFT, text)
        at += length


def _window(memory: GuestMemory, address: int, length: int) -> bytes:
    """Up to `length` bytes: fewer where RAM ends, none where there is none."""
    try:
        region = memory.region_at(address, 1)
    except MemoryAccessError:
        return b""
    return memory.read(address, min(length, region.end - address))
