"""A guest's RAM with as much of a Linux kernel as its log and its symbols need.

The writer's side of printk_ringbuffer.h, written from that header and not from pyvmm's reader.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pyvmm.layout import MIB, PAGE
from pyvmm.memory import GuestMemory

KERNEL_MAP = 0xFFFF_FFFF_8000_0000
DIRECT_MAP = 0xFF11_0000_0000_0000  # a place that only the page tables tell
KASLR = 0x140_0000
KERNEL = 4 * MIB  # where the kernel lies; linked for KERNEL_MAP + 2 MiB
PHYS_BASE = KERNEL - 2 * MIB - KASLR
DATA = 6 * MIB
TABLES = 8 * MIB
NOTE = 9 * MIB

DESC = struct.Struct("<QQQ")  # state_var, begin, next
INFO = struct.Struct("<QQHBBI64x")  # seq, ts_nsec, text_len, facility, flags and level, caller
COMMITTED, FINALIZED, REUSABLE, RESERVED = 1, 2, 3, 0
ID = (1 << 62) - 1

MEMBERS = """
OFFSET(printk_ringbuffer.desc_ring)=0
OFFSET(printk_ringbuffer.text_data_ring)=48
OFFSET(prb_desc_ring.count_bits)=0
OFFSET(prb_desc_ring.descs)=8
OFFSET(prb_desc_ring.infos)=16
OFFSET(prb_desc_ring.head_id)=24
OFFSET(prb_desc_ring.tail_id)=32
SIZE(prb_desc)=24
OFFSET(prb_desc.state_var)=0
OFFSET(prb_desc.text_blk_lpos)=8
OFFSET(prb_data_blk_lpos.begin)=0
OFFSET(prb_data_blk_lpos.next)=8
SIZE(printk_info)=88
OFFSET(printk_info.seq)=0
OFFSET(printk_info.ts_nsec)=8
OFFSET(printk_info.text_len)=16
OFFSET(prb_data_ring.size_bits)=0
OFFSET(prb_data_ring.data)=8
"""


class Ring:
    """A printk ring buffer that is written to."""

    def __init__(
        self, count_bits: int = 5, size_bits: int = 11, *, fills_end: bool = False
    ) -> None:
        """`fills_end`: a block may end exactly where the ring does, as in newer kernels."""
        self.count_bits, self.size_bits = count_bits, size_bits
        self.fills_end = fills_end
        count = 1 << count_bits
        self.head = self.tail = -(count + 1) & 0xFFFF_FFFF
        self.lpos = -(1 << size_bits) & (1 << 64) - 1
        self.seq = 0
        self.descs = bytearray(DESC.size * count)
        self.infos = bytearray(INFO.size * count)
        self.data = bytearray(1 << size_bits)
        DESC.pack_into(self.descs, DESC.size * (count - 1), REUSABLE << 62 | self.head, 1, 1)

    def add(self, text: bytes, ns: int = 0, level: int = 6, state: int = FINALIZED) -> None:
        """Append a record; the oldest descriptor is overwritten if there is no other."""
        self.head += 1
        if self.head - self.tail >= 1 << self.count_bits or not self.seq:
            self.tail += 1
        begin = following = 3  # NO_LPOS
        if text:
            size = 8 + len(text) + 7 & ~7
            begin, following = self.lpos, self.lpos + size & (1 << 64) - 1
            at = begin & len(self.data) - 1
            struct.pack_into("<Q", self.data, at, self.head)
            if (
                at + size >= len(self.data) + self.fills_end
            ):  # it lies at the start of the ring instead
                following = (begin | len(self.data) - 1) + 1 + size & (1 << 64) - 1
                at = 0
                struct.pack_into("<Q", self.data, at, self.head)
            self.data[at + 8 : at + 8 + len(text)] = text
            self.lpos = following
        index = self.head & (1 << self.count_bits) - 1
        DESC.pack_into(self.descs, DESC.size * index, state << 62 | self.head, begin, following)
        INFO.pack_into(self.infos, INFO.size * index, self.seq, ns, len(text), 0, level << 5, 0)
        self.seq += 1


class LinuxRam:
    """Fills 16 MiB of RAM or more; `symbols` and `numbers` go into the note at `finish`."""

    def __init__(self, memory: GuestMemory, levels: int = 4) -> None:
        self.memory = memory
        self.symbols: dict[str, int] = {}
        self.numbers = {"phys_base": PHYS_BASE, "pgtable_l5_enabled": levels - 4, "sme_mask": 0}
        self._next = {KERNEL: KERNEL + PAGE, DATA: DATA}
        self._tables = TABLES
        self._map(levels)

    def _map(self, levels: int) -> None:
        """The kernel's image in 2 MiB pages, and DATA in 4 KiB pages at DIRECT_MAP."""
        root = self._table()
        self.symbols["init_top_pgt"] = self.image(root)
        kernel = self.image(KERNEL) & ~(2 * MIB - 1)
        physical = kernel - KERNEL_MAP + PHYS_BASE
        self._enter(root, levels, 1, kernel, physical | 0x83)
        for offset in (2 * MIB, 4 * MIB):  # also the tables themselves
            self._enter(root, levels, 1, kernel + offset, physical + offset | 0x83)
        for offset in range(0, 2 * MIB, PAGE):
            self._enter(root, levels, 0, DIRECT_MAP + offset, DATA + offset | 3)

    def _table(self) -> int:
        self._tables += PAGE
        return self._tables - PAGE

    def _enter(self, table: int, levels: int, leaf: int, virtual: int, entry: int) -> None:
        for level in range(levels - 1, leaf - 1, -1):
            at = table + (virtual >> 12 + 9 * level & 511) * 8
            if level == leaf:
                self.memory.write_u64(at, entry)
            elif not self.memory.u64(at):
                self.memory.write_u64(at, self._table() | 3)
            table = self.memory.u64(at) & ~0xFFF

    def image(self, physical: int) -> int:
        """A physical address as the kernel's image map has it."""
        return KERNEL_MAP + physical - PHYS_BASE & (1 << 64) - 1

    def place(self, data: bytes | bytearray, *, direct: bool = False) -> int:
        """Put data into the image, or where only page tables lead; its virtual address."""
        area = DATA if direct else KERNEL
        at = self._next[area] + 7 & ~7
        self.memory.write(at, data)
        self._next[area] = at + len(data)
        return DIRECT_MAP + at - DATA if direct else self.image(at)

    def place_ring(self, ring: Ring) -> None:
        """The ring's arrays on the heap, as with log_buf_len=, its structure in the image."""
        descs, infos, data = (
            self.place(part, direct=True) for part in (ring.descs, ring.infos, ring.data)
        )
        desc_ring = struct.pack("<QQQQQQ", ring.count_bits, descs, infos, ring.head, ring.tail, 0)
        data_ring = struct.pack("<QQQQ", ring.size_bits, data, ring.lpos, 0)
        prb = self.place(desc_ring + data_ring + bytes(8))
        self.symbols["prb"] = self.place(struct.pack("<Q", prb))

    def place_kallsyms(
        self,
        symbols: Sequence[tuple[int, str]],
        percpu: Sequence[str] = (),
        *,
        told: bool = True,
        marker: str = "I",
        order_of_6_4: bool = False,
    ) -> None:
        """The kernel's table of symbols, (address, name) ascending; names of one token each byte.

        `percpu` are names that have no address of their own. `told` in the note, as from 6.0 on;
        `marker` is Q before 4.20.
        """
        base = symbols[0][0]
        offsets = [8 * i for i in range(len(percpu))]
        offsets += [base - 1 - at if percpu else at - base for at, _ in symbols]
        names, positions = b"", []
        for name in [*(f"D{name}" for name in percpu), *(f"T{name}" for _, name in symbols)]:
            tokens = name.replace("sys_", "\x01").encode()
            size = len(tokens)
            positions.append(len(names))
            names += bytes([size] if size < 128 else [size & 127 | 128, size >> 7]) + tokens
        table = [b"sys_" if i == 1 else bytes([i]) if i else b"" for i in range(256)]
        starts = [sum(len(t) + 1 for t in table[:i]) for i in range(256)]
        count = len(offsets)
        addresses = {
            "offsets": struct.pack(f"<{count}i", *offsets),
            "relative_base": struct.pack("<Q", base),
        }
        marks = positions[::256]
        parts = {
            "num_syms": struct.pack("<I", count),
            "names": names,
            "markers": struct.pack(f"<{len(marks)}{marker}", *marks),
            "token_table": b"".join(token + b"\0" for token in table),
            "token_index": struct.pack("<256H", *starts),
        }
        parts = parts | addresses if order_of_6_4 else addresses | parts
        for name, data in parts.items():
            at = self.place(data)
            if told and name != "markers":
                self.symbols[f"kallsyms_{name}"] = at

    def note(self) -> bytes:
        """The VMCOREINFO note as it stands."""
        text = "OSRELEASE=6.1.0\n" + MEMBERS
        text += "".join(f"SYMBOL({name})={at:x}\n" for name, at in self.symbols.items())
        text += "".join(f"NUMBER({name})={n}\n" for name, n in self.numbers.items())
        text += f"KERNELOFFSET={KASLR:x}\n"
        return struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text.encode()

    def finish(self) -> GuestMemory:
        """The RAM, with the note."""
        self.memory.write(NOTE, self.note())
        return self.memory


def early_ring(lines: Sequence[bytes], *, continued: Sequence[int] = ()) -> bytes:
    """The text of a fresh ring as printk leaves it: the level taken off in front, what stood at
    the end there twice. `continued` are indices of lines whose newline came as a continuation."""
    data = b""
    for index, line in enumerate(lines):
        if index in continued:
            left = line + b"\x01c\n\0"
        else:
            left = line + (b"\x016" + line)[-2:] + b"\n\0"
        data += struct.pack("<Q", 0xFFFF_F000 + index) + left
        data += bytes(-len(data) % 8)
    return data


def old_records(lines: Sequence[tuple[int, int, bytes]], *, caller: bool = False) -> bytes:
    """The log buffer of Linux 3.5 to 5.9: (ns, level, text) records."""
    data = b""
    for ns, level, text in lines:
        header = 20 if caller else 16
        size = header + len(text) + 3 & ~3
        record = struct.pack("<QHHHBB", ns, size, len(text), 0, 0, level << 5)
        data += (record + bytes(header - 16) + text).ljust(size, b"\0")
    return data
