from __future__ import annotations

import struct

import pytest

from pyvmm.inspection.btf import Btf
from pyvmm.inspection.kernel import find_kernels
from pyvmm.inspection.tasks import TASKS_MAX, read_tasks
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.fakes.btf import BtfWriter
from tests.fakes.printk import LinuxRam

SIZE, COMM = 160, 16
AT = {"state": 0, "cpu": 8, "flags": 12, "exit": 16, "tgid": 20, "tasks": 24, "mm": 40}
AT |= {"signal": 48, "parent": 56, "comm": 64}


def types(*, old: bool) -> bytes:
    """Of a kernel before 5.14, or of one from 6.2 on."""
    btf = BtfWriter()
    number, char = btf.int("int", 4), btf.int("char", 1)
    long, pointer = btf.int("long", 8), btf.pointer()
    head = btf.struct("list_head", 16, [("next", pointer, 0), ("prev", pointer, 8)])
    counter = btf.struct(
        "percpu_counter", 40, [("lock", number, 0), ("count", long, 8), ("counters", pointer, 32)]
    )
    rss = btf.struct("mm_rss_stat", 32, [("count", btf.array(long, 4), 0)])
    stat = rss if old else btf.array(counter, 4)
    mm = btf.struct("", 200, [("rss_stat", stat, 16)])
    btf.struct("mm_struct", 200, [("", mm, 0)])
    info = btf.struct("thread_info", 16, [("flags", number, 0), ("cpu", number, 8)])
    btf.struct("signal_struct", 16, [("nr_threads", number, 8)])
    members = [
        *(("flags", number, AT["flags"]), ("exit_state", number, AT["exit"])),
        *(("tgid", number, AT["tgid"]), ("tasks", head, AT["tasks"])),
        *(("mm", pointer, AT["mm"]), ("signal", pointer, AT["signal"])),
        *(("real_parent", pointer, AT["parent"]), ("comm", btf.array(char, COMM), AT["comm"])),
    ]
    if old:
        members += [("state", number, AT["state"]), ("cpu", number, AT["cpu"])]
    else:
        members += [("__state", number, AT["state"]), ("thread_info", info, 0)]
    btf.struct("task_struct", SIZE, members)
    return btf.data()


class Tasks:
    """A guest with a list of them."""

    def __init__(self, memory: GuestMemory) -> None:
        self.ram = LinuxRam(memory)
        self.places: list[int] = []
        self.symbols: dict[str, int] = {}

    def add(self, tgid, name, *, parent=0, state=0, exit=0, cpu=0, flags=0, mm=0, threads=1):
        signal = self.ram.place(struct.pack("<QI", 0, threads))
        data = bytearray(SIZE)
        for where, value in (("state", state), ("cpu", cpu), ("flags", flags), ("exit", exit)):
            struct.pack_into("<I", data, AT[where], value)
        struct.pack_into("<I", data, AT["tgid"], tgid)
        struct.pack_into("<QQ", data, AT["mm"], mm, signal)
        struct.pack_into("<Q", data, AT["parent"], self.places[parent] if self.places else 0)
        data[AT["comm"] : AT["comm"] + len(name)] = name
        self.places.append(self.ram.place(data))

    def link(self):
        for place, following in zip(self.places, [*self.places[1:], self.places[0]], strict=True):
            self.write(place + AT["tasks"], following + AT["tasks"])
        self.symbols["init_task"] = self.places[0]
        self.ram.finish()

    def write(self, virtual, word):
        (kernel,) = [*find_kernels(self.ram.finish())]
        self.ram.memory.write_u64(kernel.translate(virtual), word)

    def read(self, *, old=True):
        (kernel,) = find_kernels(self.ram.memory)
        return read_tasks(kernel, self.symbols.__getitem__, Btf(types(old=old)))


@pytest.fixture
def tasks():
    memory = GuestMemory(16 * MIB)
    yield Tasks(memory)
    memory.close()


def test_the_list_is_followed_from_init_which_is_left_out(tasks):
    tasks.add(0, b"swapper/0")
    tasks.add(1, b"init", state=1, cpu=1, threads=3)
    tasks.add(2, b"kthreadd", flags=0x200000)
    tasks.add(77, b"sh", parent=1)
    tasks.link()
    found = tasks.read()
    assert [(t.pid, t.parent, t.name, t.kernel) for t in found] == [
        (1, 0, "init", False),
        (2, 0, "kthreadd", True),
        (77, 1, "sh", False),
    ]
    assert (found[0].cpu, found[0].threads, found[0].resident) == (1, 3, 0)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("state", "exit", "letter"),
    [
        *((0, 0, "R"), (1, 0, "S"), (2, 0, "D"), (4, 0, "T"), (8, 0, "t"), (0, 16, "X")),
        *((0, 32, "Z"), (64, 0, "P"), (0x402, 0, "I"), (0x80, 0, "R")),
    ],
)
def test_states_have_the_letters_of_ps(tasks, old, state, exit, letter):
    tasks.symbols = {"nr_cpu_ids": tasks.ram.place(bytes(4)), "__per_cpu_offset": 0}
    tasks.add(0, b"swapper/0")
    tasks.add(1, b"init", state=state, exit=exit)
    tasks.link()
    assert tasks.read(old=old)[0].state == letter


def test_resident_memory_is_files_anonymous_and_shared_pages(tasks):
    mm = tasks.ram.place(bytes(16) + struct.pack("<4q", 3, 5, 100, 7))
    tasks.add(0, b"swapper/0")
    tasks.add(1, b"init", mm=mm)
    tasks.link()
    assert tasks.read()[0].resident == 15 * 4096


def test_each_cpus_share_of_a_counter_counts(tasks):
    shares = tasks.ram.place(struct.pack("<8i", 1, 2, 0, 0, -4, 8, 0, 0))
    counters = b"".join(
        struct.pack("<QqQQQ", 0, count, 0, 0, shares + 4 * number)
        for number, count in enumerate((10, 20, 99, 30))
    )
    mm = tasks.ram.place(bytes(16) + counters)
    areas = tasks.ram.place(struct.pack("<QQ", 0, 16))
    tasks.symbols = {
        "nr_cpu_ids": tasks.ram.place(struct.pack("<I", 2)),
        "__per_cpu_offset": areas,
    }
    tasks.add(0, b"swapper/0")
    tasks.add(1, b"init", mm=mm)
    tasks.link()
    assert tasks.read(old=False)[0].resident == (60 + 1 + 2 - 4 + 8) * 4096


def test_a_list_that_is_damaged_ends_there(tasks):
    for number in range(4):
        tasks.add(number, b"task")
    tasks.link()
    tasks.write(tasks.places[2] + AT["tasks"], 0xFFFFA000_00000000)
    assert [t.pid for t in tasks.read()] == [1, 2]


def test_a_list_without_an_end_is_cut_off(tasks, monkeypatch):
    monkeypatch.setattr("pyvmm.inspection.tasks.TASKS_MAX", 50)
    assert TASKS_MAX > 50
    tasks.add(0, b"swapper/0")
    tasks.add(1, b"init")
    tasks.link()
    tasks.write(tasks.places[1] + AT["tasks"], tasks.places[1] + AT["tasks"])
    assert len(tasks.read()) == 50
