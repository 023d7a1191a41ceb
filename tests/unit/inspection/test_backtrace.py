from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.errors import MemoryAccessError
from pyvmm.inspection.backtrace import FRAMES_MAX, backtrace
from pyvmm.inspection.kernel import GuestKernel
from pyvmm.inspection.orc_spec import PT_REGS
from pyvmm.inspection.symbols import table

TEXT = 0xFFFFFFFF81000000
IPS, ENTRIES = TEXT + 0x100000, TEXT + 0x200000
STACK, IRQ_STACK = 0xFFFFC90000094000, 0xFFFFC90000000000
SP, BP, SP_INDIRECT, BP_INDIRECT, R10, R13, DI, DX = 5, 4, 9, 8, 6, 7, 3, 2
PREV_SP = 1
FUNCTIONS = ("inner", "middle", "outer", "interrupt", "entry", "thread")
AT = {name: TEXT + 0x100 * number for number, name in enumerate(FUNCTIONS)}


class Memory:
    """Words of memory by virtual address."""

    def __init__(self):
        self.pages = {}

    def write(self, address, data):
        for at, byte in enumerate(data, address):
            self.pages.setdefault(at >> 12, bytearray(4096))[at & 4095] = byte

    def words(self, address, *words):
        self.write(address, struct.pack(f"<{len(words)}Q", *words))

    def read(self, address, length):
        try:
            return bytes(self.pages[at >> 12][at & 4095] for at in range(address, address + length))
        except KeyError:
            raise MemoryAccessError(address, length) from None


class Kernel(GuestKernel):
    """One whose memory is a Memory."""

    def __init__(self, memory, release="6.1.0"):
        super().__init__(None, f"OSRELEASE={release}\nSYMBOL(init_top_pgt)=ffffffff82000000\n")
        self.read = memory.read


@pytest.fixture
def memory():
    memory = Memory()
    for stack in (STACK, IRQ_STACK):
        memory.write(stack, bytes(16 << 10))
    return memory


SYMBOLS = [(at, f"T{name}") for name, at in AT.items()] + [(TEXT + 0x10000, "D_edata")]


def symbols(orc=0):
    places = {}
    if orc:
        places = {
            "__start_orc_unwind_ip": IPS,
            "__stop_orc_unwind_ip": IPS + 4 * orc,
            "__start_orc_unwind": ENTRIES,
        }
    return table(SYMBOLS, places)


def orc(memory, *entries):
    """Entries of (name, sp_reg, sp_offset, bp_reg, bp_offset, bits of the type)."""
    for number, (name, sp_reg, sp_offset, bp_reg, bp_offset, bits) in enumerate(entries):
        place = IPS + 4 * number
        memory.write(place, struct.pack("<i", AT[name] - place))
        packed = struct.pack("<hhH", sp_offset, bp_offset, sp_reg | bp_reg << 4 | bits << 8)
        memory.write(ENTRIES + 6 * number, packed)
    return symbols(len(entries))


def registers(rip, rsp, **more):
    names = [f"r{name}" for name in (*["ax", "bx", "cx", "dx", "si", "di", "bp"], *range(8, 16))]
    return dict.fromkeys(names, 0) | {"rip": rip, "rsp": rsp} | more


def names(table, frames):
    return [
        ("" if f.sure else "? ")
        + ("user" if f.user else table.lookup(f.address, behind_call=f.behind_call))
        for f in frames
    ]


def pt_regs(rip, rsp, cs=0x10, **more):
    return [more.get(name, 0) for name in PT_REGS[:-5]] + [rip, cs, 0x202, rsp, 0x18]


CALL, REGS, PARTIAL, END = 0, 1, 2, 4  # type:2 and end:1, Linux 6.1


@pytest.mark.parametrize(
    ("release", "call", "end"), [("6.1.0", CALL, END), ("6.3.9", 0, 8), ("6.4.1", 2, 1)]
)
def test_calls_are_followed_to_the_end_that_orc_tells(memory, release, call, end):
    table = orc(
        memory,
        ("inner", SP, 8, 0, 0, call),
        ("middle", SP, 24, PREV_SP, -24, call),
        ("outer", BP, 16, PREV_SP, -16, call),
        ("thread", 0, 0, 0, 0, end),
    )
    frame = STACK + 0x3F00
    memory.words(STACK + 0x3E00, AT["middle"] + 5, frame, 0, AT["outer"] + 9)
    memory.words(frame, 0xB, AT["thread"] + 0x40, AT["inner"])  # the last is left from before
    regs = registers(AT["inner"] + 3, STACK + 0x3E00)
    frames = backtrace(memory, Kernel(memory, release), table, regs, user=False)
    assert names(table, frames) == [
        "inner+0x3/0x100",
        "middle+0x5/0x100",
        "outer+0x9/0x100",
        "thread+0x40/0xfb00",
    ]
    assert [f.behind_call for f in frames] == [False, True, True, True]


def test_a_call_that_ends_a_function_belongs_to_that_function(memory):
    table = orc(memory, ("inner", SP, 8, 0, 0, CALL), ("outer", 0, 0, 0, 0, END))
    memory.words(STACK, AT["outer"], AT["thread"] + 4)  # the first is behind the end of middle
    frames = backtrace(memory, Kernel(memory), table, registers(AT["inner"], STACK), user=False)
    assert names(table, frames) == ["inner+0x0/0x100", "middle+0x100/0x100", "thread+0x4/0xfb00"]


@pytest.mark.parametrize(
    ("release", "call", "regs", "end"),
    [
        ("6.1.0", 0, 1, 4),
        ("6.3.9", 0, 1 | 4, 8),
        ("6.4.1", 2, 3 | 8, 1),
        ("6.12.0-rc1", 2, 3 | 8, 1),
    ],
)
def test_an_interrupt_leads_to_the_other_stack_and_to_user_mode(memory, release, call, regs, end):
    table = orc(
        memory,
        ("inner", SP, 8, 0, 0, call),
        ("outer", BP, 8, 0, 0, call),
        ("interrupt", SP_INDIRECT, 8, 0, 0, call),
        ("entry", SP, 0, 0, 0, regs),
        ("thread", 0, 0, 0, 0, end),
    )
    memory.words(IRQ_STACK + 0x100, AT["interrupt"] + 1)
    memory.words(IRQ_STACK + 0x108, STACK + 0x1000)  # the stack that was interrupted
    memory.words(STACK + 0x1000, AT["entry"] + 2)
    deeper = pt_regs(AT["outer"], STACK + 0x2000, rbp=STACK + 0x2F00)
    memory.words(STACK + 0x1008, *deeper)
    memory.words(STACK + 0x2F00, AT["entry"] + 7)
    memory.words(STACK + 0x2F08, *pt_regs(0x401000, 0x7FFC0000, cs=0x33))
    regs = registers(AT["inner"], IRQ_STACK + 0x100)
    frames = backtrace(memory, Kernel(memory, release), table, regs, user=False)
    assert names(table, frames) == [
        "inner+0x0/0x100",
        "interrupt+0x1/0x100",
        "entry+0x2/0x100",
        "outer+0x0/0x100",
        "entry+0x7/0x100",
        "user",
    ]
    assert frames[-1].address == 0x401000


def test_registers_that_an_exception_saved_are_used_behind_it(memory):
    table = orc(
        memory,
        ("inner", SP, 0, 0, 0, PARTIAL),
        ("middle", R10, 0, 0, 0, CALL),
        ("thread", 0, 0, 0, 0, END),
    )
    memory.words(STACK, AT["middle"] + 8, 0x10, 0x202, STACK + 0x800, 0x18)
    memory.words(STACK + 0xFF8, AT["thread"] + 1)
    regs = registers(AT["inner"], STACK, r10=STACK + 0x1000)
    frames = backtrace(memory, Kernel(memory), table, regs, user=False)
    assert names(table, frames) == ["inner+0x0/0x100", "middle+0x8/0x100", "thread+0x1/0xfb00"]


def test_without_orc_frame_pointers_are_followed_through_an_interrupt(memory):
    memory.words(STACK + 0x100, STACK + 0x200, AT["middle"] + 1)
    memory.words(STACK + 0x200, STACK + 0x300 | 1, AT["entry"] + 2)
    memory.words(STACK + 0x300, *pt_regs(AT["outer"] + 3, STACK + 0x500, rbp=STACK + 0x600))
    memory.words(STACK + 0x600, 0, AT["thread"] + 4)
    regs = registers(AT["inner"], STACK + 0x80, rbp=STACK + 0x100)
    table = symbols()
    frames = backtrace(memory, Kernel(memory), table, regs, user=False)
    assert [name.partition("+")[0] for name in names(table, frames)] == [
        *("inner", "middle", "entry", "outer", "thread"),
    ]


def test_where_nothing_leads_on_the_rest_of_the_stack_is_guessed(memory):
    memory.words(STACK + 0x2000, 7, AT["middle"] + 1, 0x7FFF, AT["outer"] + 2)
    regs = registers(AT["inner"], STACK + 0x1FF0, rbp=1234)
    table = symbols()
    assert names(table, backtrace(memory, Kernel(memory), table, regs, user=False)) == [
        "inner+0x0/0x100",
        "? middle+0x1/0x100",
        "? outer+0x2/0x100",
    ]


def test_a_guest_that_is_no_linux_is_followed_by_frame_pointers(memory):
    memory.words(STACK + 0x100, 0, AT["middle"] + 1)
    regs = registers(AT["inner"], STACK, rbp=STACK + 0x100)
    frames = backtrace(memory, None, symbols(), regs, user=False)
    assert [f.address for f in frames][:2] == [AT["inner"], AT["middle"] + 1]


def test_user_mode_is_one_frame(memory):
    frames = backtrace(memory, None, symbols(), registers(0x401000, 0), user=True)
    assert [(f.address, f.user) for f in frames] == [(0x401000, True)]


def test_a_stack_that_leads_in_a_circle_ends(memory):
    table = orc(memory, ("inner", SP_INDIRECT, 8, 0, 0, CALL), ("outer", 0, 0, 0, 0, END))
    memory.words(STACK, AT["inner"] + 1)
    memory.words(STACK + 8, STACK)
    regs = registers(AT["inner"], STACK + 8)
    frames = backtrace(memory, Kernel(memory), table, regs, user=False)
    assert len(frames) == FRAMES_MAX


@settings(deadline=None)
@given(data=st.data())
def test_no_stack_and_no_table_makes_it_raise_or_run_on(data):
    memory = Memory()
    memory.write(STACK, data.draw(st.binary(min_size=64, max_size=512)))
    word = st.sampled_from([*AT.values(), STACK, STACK + 64, 0, (1 << 64) - 1, STACK | 1])
    for place in range(STACK, STACK + 256, 8):
        memory.words(place, data.draw(word) + data.draw(st.integers(-8, 8)) & (1 << 64) - 1)
    entries = [
        (
            name,
            data.draw(st.integers(0, 15)),
            data.draw(st.integers(-64, 64)),
            data.draw(st.integers(0, 15)),
            data.draw(st.integers(-64, 64)),
            data.draw(st.integers(0, 255)),
        )
        for name in FUNCTIONS
    ]
    table = orc(memory, *entries)
    release = data.draw(st.sampled_from(["6.1.0", "6.3.0", "6.4.0", "", "garbage"]))
    regs = registers(AT["inner"], STACK + 8, rbp=STACK + 16, r10=STACK, r13=STACK)
    frames = backtrace(memory, Kernel(memory, release), table, regs, user=False)
    assert 1 <= len(frames) <= 2 * FRAMES_MAX
