from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.inspection import log
from pyvmm.inspection.log import LogLine, init_started, read_log
from pyvmm.layout import MIB, PAGE
from pyvmm.memory import GuestMemory
from tests.fakes import printk
from tests.fakes.printk import LinuxRam, Ring

BANNER = b"Linux version 6.1.0 (someone@somewhere)"


@pytest.fixture
def memory():
    memory = GuestMemory(16 * MIB)
    yield memory
    memory.close()


def ram_with(memory: GuestMemory, ring: Ring, levels: int = 4) -> LinuxRam:
    ram = LinuxRam(memory, levels)
    ram.place_ring(ring)
    return ram


@pytest.mark.parametrize("levels", [4, 5])
def test_a_record_has_its_number_time_level_and_text(memory, levels):
    ring = Ring()
    ring.add(BANNER, 0, 5)
    ring.add(b"Run /init as init process", 1_761_971_230, 6)
    assert read_log(ram_with(memory, ring, levels).finish()) == [
        LogLine(0, 0, 5, BANNER.decode()),
        LogLine(1, 1_761_971_230, 6, "Run /init as init process"),
    ]


def test_records_are_whole_after_the_ring_has_wrapped_many_times(memory):
    ring = Ring(count_bits=4, size_bits=10)
    texts = [f"record {i} ".ljust(12 + i * 7 % 40, "x") for i in range(200)]
    for i, text in enumerate(texts):
        ring.add(text.encode(), i)
    lines = read_log(ram_with(memory, ring).finish())
    assert [line.text for line in lines] == texts[-16:]
    assert [line.seq for line in lines] == list(range(184, 200))


@pytest.mark.parametrize("fills_end", [False, True])
def test_a_block_as_large_as_the_rest_of_the_ring_is_read(memory, fills_end):
    ring = Ring(size_bits=8, fills_end=fills_end)
    texts = ["a" * 120, "b" * 120]
    for text in texts:
        ring.add(text.encode())
    lines = read_log(ram_with(memory, ring).finish())
    assert lines[-1].text == texts[-1]
    assert not fills_end or lines[0].text == texts[0]


def test_a_record_without_text_is_an_empty_line(memory):
    ring = Ring()
    ring.add(b"first")
    ring.add(b"")
    assert [line.text for line in read_log(ram_with(memory, ring).finish())] == ["first", ""]


def test_records_still_being_written_are_left_out(memory):
    ring = Ring()
    ring.add(b"whole")
    ring.add(b"half", state=printk.RESERVED)
    ring.add(b"open to a continuation", state=printk.COMMITTED)
    texts = [line.text for line in read_log(ram_with(memory, ring).finish())]
    assert texts == ["whole", "open to a continuation"]


def test_text_that_is_no_utf8_is_replaced(memory):
    ring = Ring()
    ring.add(b"caf\xe9")
    assert read_log(ram_with(memory, ring).finish())[0].text == "caf\N{REPLACEMENT CHARACTER}"


def test_a_note_left_by_a_kernel_that_is_gone_is_passed_over(memory):
    ring = Ring()
    ring.add(b"alive")
    ram = ram_with(memory, ring)
    stale = ram.note().replace(b"SYMBOL(prb)=ffff", b"SYMBOL(prb)=1234")
    ram.memory.write(MIB, stale)
    assert [line.text for line in read_log(ram.finish())] == ["alive"]


def test_of_too_many_records_the_newest_are_read(memory, monkeypatch):
    monkeypatch.setattr(log, "RECORDS_MAX", 3)
    ring = Ring()
    for i in range(10):
        ring.add(b"record %d" % i)
    lines = read_log(ram_with(memory, ring).finish())
    assert [line.seq for line in lines] == [7, 8, 9]


def test_before_the_note_exists_the_log_is_found_by_its_banner(memory):
    lines = [BANNER, b"Command line: quiet", b"BIOS-e820: usable", b"NX protection: active"]
    memory.write(5 * MIB, printk.early_ring(lines, continued=[2]))
    assert read_log(memory) == [
        LogLine(i, None, None, line.decode()) for i, line in enumerate(lines)
    ]


def test_the_banner_in_the_kernels_image_is_no_log(memory):
    memory.write(2 * MIB, BANNER + b"\0%s version %s\0")
    memory.write(5 * MIB, printk.early_ring([BANNER, b"second"]))
    memory.write(7 * MIB, BANNER)
    assert [line.text for line in read_log(memory)] == [BANNER.decode(), "second"]
    memory.write(5 * MIB, bytes(PAGE))
    assert read_log(memory) == []


@pytest.mark.parametrize("caller", [False, True])
def test_the_log_of_kernels_before_5_10_is_found_with_times(memory, caller):
    records = [(0, 5, b"Linux version 4.19.0"), (1234, 6, b"Command line: quiet"), (5, 3, b"Oops")]
    memory.write(3 * MIB, printk.old_records(records, caller=caller))
    assert read_log(memory) == [
        LogLine(i, ns, level, text.decode()) for i, (ns, level, text) in enumerate(records)
    ]


def test_a_log_at_the_very_end_of_ram_is_read(memory):
    data = printk.early_ring([BANNER, b"the last bytes of RAM"])
    memory.write(memory.size - len(data), data)
    assert read_log(memory)[-1].text == "the last bytes of RAM"


def test_empty_memory_has_no_log(memory):
    assert read_log(memory) == []


def test_init_started_is_the_time_of_the_kernels_own_line():
    lines = [
        LogLine(0, 5, 6, "Linux version"),
        LogLine(1, 7, 6, "did not Run /x as init process"),
        LogLine(2, 9, 6, "Run /sbin/init as init process"),
        LogLine(3, 11, 6, "Run /init as init process"),
    ]
    assert init_started(lines) == 9
    assert init_started(lines[:2]) is None


HOSTILE = {
    "counts without bound": ("<QQ", 0, 0xFFFF_FFFF, 0),
    "the largest counts allowed": ("<Q", 0, 31),
    "descriptors at the end of the address space": ("<Q", 8, (1 << 64) - 8),
    "infos nowhere": ("<Q", 16, 0),
    "the head far before the tail": ("<Q", 24, 1),
    "a data ring without bound": ("<Q", 48, 0xFFFF_FFFF),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_ring_ends_in_a_short_log(memory, what):
    layout, offset, *values = HOSTILE[what]
    ring = Ring()
    ring.add(b"text")
    ram = ram_with(memory, ring)
    prb = ram.symbols["prb"] - ram.image(0)
    ring_at = ram.memory.u64(prb) - ram.image(0)
    ram.memory.write(ring_at + offset, struct.pack(layout, *values))
    assert len(read_log(ram.finish())) <= 1


def test_page_tables_that_point_at_themselves_end_the_walk(memory):
    ring = Ring()
    ring.add(b"text")
    ram = ram_with(memory, ring)
    root = printk.TABLES
    for entry in range(512):
        ram.memory.write_u64(root + entry * 8, root | 3)
    assert read_log(ram.finish()) == []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.sampled_from([printk.KERNEL + PAGE, printk.DATA, printk.TABLES, printk.NOTE]),
            st.integers(0, 4096),
            st.binary(min_size=1, max_size=16),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_the_guest_writes_reading_ends_without_an_exception(memory, writes):
    ring = Ring()
    for i in range(20):
        ring.add(b"some text %d" % i)
    memory.discard()
    ram_with(memory, ring).finish()
    for area, offset, data in writes:
        memory.write(area + offset, data)
    assert len(read_log(memory)) <= 32 + 1
