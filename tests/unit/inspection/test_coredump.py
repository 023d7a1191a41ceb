from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from elftools.elf.elffile import ELFFile

from pyvmm.inspection.coredump import dump
from pyvmm.inspection.guest import Guest
from pyvmm.layout import HOLE, HOLE_END, MIB, PAGE
from pyvmm.memory import GuestMemory
from tests.fakes.printk import DATA, KERNEL, KERNEL_MAP, PHYS_BASE, LinuxRam

GENERAL = [
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *(f"r{number}" for number in range(8, 16)),
    *("rip", "rflags"),
]
SEGMENTS = ["cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"]


def vcpu(index, **registers):
    values = {name: 0x1000 * index + at for at, name in enumerate(GENERAL)} | registers
    kinds = {"type": 11, "s": 1, "dpl": 3, "present": 1, "avl": 0, "l": 1, "db": 0, "g": 1}
    segments = {
        name: SimpleNamespace(selector=8 * at, base=0x7000 + at, limit=0xFFFF, **kinds)
        for at, name in enumerate(SEGMENTS)
    }
    tables = {name: SimpleNamespace(base=0x9000, limit=0xFFF) for name in ("gdt", "idt")}
    control = {"cr0": 0x80000011, "cr2": 2, "cr3": 0x3000, "cr4": 0x20}
    return SimpleNamespace(
        index=index,
        regs=SimpleNamespace(**values),
        sregs=SimpleNamespace(**segments, **tables, **control),
        get_msrs=lambda msrs: dict.fromkeys(msrs, 0x6565),
    )


class Machine:
    """What dump() needs of one."""

    def __init__(self, memory, *vcpus):
        self.memory = memory
        self.board = SimpleNamespace(vcpus=vcpus)
        self.guest = Guest(memory, lambda: 0)
        self.pauses = 0

    @contextmanager
    def paused(self):
        self.pauses += 1
        yield


@pytest.fixture
def memory():
    memory = GuestMemory(16 * MIB)
    yield memory
    memory.close()


def segments(path):
    with open(path, "rb") as file:
        elf = ELFFile(file)
        loads = [s.header for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
        notes = [n for s in elf.iter_segments() if s["p_type"] == "PT_NOTE" for n in raw_notes(s)]
        assert (elf["e_type"], elf["e_machine"], elf["e_phnum"]) == (
            *("ET_CORE", "EM_X86_64"),
            len(loads) + 1,
        )
        return loads, notes


def raw_notes(segment):
    data = segment.data()
    while data:
        name_size, size, kind = struct.unpack_from("<III", data)
        name, data = data[12 : 12 + name_size], data[12 + (name_size + 3 & ~3) :]
        yield name.rstrip(b"\0").decode(), kind, data[:size]
        data = data[size + 3 & ~3 :]


def test_memory_is_there_at_its_physical_addresses(memory, tmp_path):
    memory.write(0x7000, b"low")
    memory.write(16 * MIB - 3, b"end")
    path = tmp_path / "core"
    dump(Machine(memory, vcpu(0)), str(path), lambda: None)
    (load,), _ = segments(path)
    assert (load["p_paddr"], load["p_memsz"], load["p_filesz"]) == (0, 16 * MIB, 16 * MIB)
    assert load["p_offset"] % PAGE == 0
    content = path.read_bytes()[load["p_offset"] :]
    assert len(content) == 16 * MIB
    assert content == memory.read(0, 16 * MIB)


def test_memory_on_both_sides_of_the_hole_is_two_segments(tmp_path):
    memory = GuestMemory(HOLE + 16 * MIB)
    memory.write(HOLE_END + 5, b"high")
    path = tmp_path / "core"
    dump(Machine(memory, vcpu(0)), str(path), lambda: None)
    memory.close()
    loads, _ = segments(path)
    assert [(load["p_paddr"], load["p_memsz"]) for load in loads] == [
        (0, HOLE),
        (HOLE_END, 16 * MIB),
    ]
    with open(path, "rb") as file:
        file.seek(loads[1]["p_offset"] + 5)
        assert file.read(4) == b"high"


def test_what_the_guest_has_not_touched_takes_no_place(memory, tmp_path):
    memory.write(5 * MIB, b"some")
    path = tmp_path / "core"
    dump(Machine(memory, vcpu(0)), str(path), lambda: None)
    assert path.stat().st_size > 16 * MIB
    assert path.stat().st_blocks * 512 < MIB


def test_each_vcpu_has_its_registers_twice(memory, tmp_path):
    path = tmp_path / "core"
    dump(Machine(memory, vcpu(0), vcpu(1, rip=0xABCD)), str(path), lambda: None)
    _, notes = segments(path)
    assert [(name, kind) for name, kind, _ in notes] == [
        *(("CORE", 1), ("CORE", 1), ("QEMU", 0), ("QEMU", 0)),
    ]
    status = notes[1][2]
    assert len(status) == 336
    assert struct.unpack_from("<I", status, 32) == (2,)
    registers = struct.unpack_from("<27Q", status, 112)
    assert registers[16] == 0xABCD
    assert registers[19] == 0x1006  # rsp
    assert registers[17] == 0  # cs
    assert registers[21:23] == (0x7003, 0x7004)  # fs_base, gs_base
    state = notes[3][2]
    version, size = struct.unpack_from("<II", state)
    assert (version, size) == (1, len(state))
    assert len(state) == 440
    assert struct.unpack_from("<18Q", state, 8)[16] == 0xABCD
    selector, limit, flags, _, base = struct.unpack_from("<IIIIQ", state, 8 + 18 * 8)
    assert (selector, limit, base) == (0, 0xFFFF, 0x7000)
    assert flags == 11 << 8 | 1 << 12 | 3 << 13 | 1 << 15 | 1 << 21 | 1 << 23
    control = struct.unpack_from("<6Q", state, len(state) - 48)
    assert control == (0x80000011, 0, 2, 0x3000, 0x20, 0x6565)


def test_linux_is_there_at_its_own_addresses_with_its_note(memory, tmp_path):
    ram = LinuxRam(memory)
    ram.symbols["_stext"] = ram.image(KERNEL)
    stack = ram.place(b"stack".ljust(32 << 10, b"\0"), direct=True) & -(16 << 10)
    ram.finish()
    machine = Machine(memory, vcpu(0, rsp=stack + 0x3000))
    path = tmp_path / "core"
    dump(machine, str(path), lambda: None)
    loads, notes = segments(path)
    image, memory_map, *pages = loads
    assert (image["p_vaddr"], image["p_paddr"]) == (ram.image(KERNEL), KERNEL)
    assert image["p_vaddr"] - KERNEL_MAP + PHYS_BASE == KERNEL
    assert memory_map["p_vaddr"] == 0xFFFF888000000000
    assert image["p_offset"] == memory_map["p_offset"] + KERNEL
    assert [(p["p_vaddr"], p["p_paddr"]) for p in pages] == [
        (stack + offset, DATA + offset) for offset in range(0, 16 << 10, PAGE)
    ]
    name, _, note = notes[-1]
    assert name == "VMCOREINFO"
    assert note.decode() == machine.guest.kernel.note


def test_an_interrupt_leaves_nothing_behind(memory, tmp_path):
    for at in range(0, 16 * MIB, PAGE):
        memory.write(at, b"x")
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dump(Machine(memory, vcpu(0)), str(tmp_path / "core"), check)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("line", ["_stext)=ffffffffffffffff", "_stext)=0", "_stext)=" + "f" * 40])
def test_a_kernel_that_lies_about_its_place_spoils_no_dump(memory, tmp_path, line):
    ram = LinuxRam(memory)
    ram.symbols["_stext"] = ram.image(KERNEL)
    note = ram.note()
    memory.write(9 * MIB, note.replace(f"_stext)={ram.image(KERNEL):x}".encode(), line.encode()))
    path = tmp_path / "core"
    dump(Machine(memory, vcpu(0, rsp=(1 << 64) - 8)), str(path), lambda: None)
    loads, _ = segments(path)
    assert loads[0]["p_paddr"] == 0


def test_a_kernel_that_lies_about_its_direct_map_spoils_no_dump(tmp_path):
    memory = GuestMemory(HOLE + 16 * MIB)
    ram = LinuxRam(memory)
    lie = ram.place(b"\xff" * 8)
    ram.place_kallsyms([(lie, "page_offset_base"), (lie + 8, "_end")])
    ram.finish()
    path = tmp_path / "core"
    dump(Machine(memory, vcpu(0)), str(path), lambda: None)
    memory.close()
    loads, _ = segments(path)
    assert [load["p_vaddr"] for load in loads[:2]] == [(1 << 64) - 1, HOLE_END - 1]
