from __future__ import annotations

import struct

import pytest

from pyvmm.inspection.kallsyms import DIGITS, by_content, by_note
from pyvmm.inspection.kernel import find_kernels
from pyvmm.layout import MIB, PAGE
from pyvmm.memory import GuestMemory
from tests.fakes.printk import KERNEL, LinuxRam

TEXT = 0xFFFFFFFF81000000
MANY = [(TEXT + 16 * i, f"sys_number_{i}") for i in range(700)]
PERCPU = ["current_task", "cpu_number"]


@pytest.fixture
def memory():
    memory = GuestMemory(16 * MIB)
    yield memory
    memory.close()


@pytest.mark.parametrize("marker", ["I", "Q"])
@pytest.mark.parametrize("order_of_6_4", [False, True])
@pytest.mark.parametrize("percpu", [[], PERCPU])
def test_a_table_that_nobody_tells_of_is_found_by_its_content(memory, marker, order_of_6_4, percpu):
    ram = LinuxRam(memory)
    ram.place_kallsyms(MANY, percpu, told=False, marker=marker, order_of_6_4=order_of_6_4)
    ram.finish()
    ((_, symbols),) = by_content(memory)
    assert [(at, name) for at, _, name in symbols.items()][:700] == MANY
    assert symbols.lookup(TEXT + 20) == "sys_number_1+0x4/0x10"
    for number, name in enumerate(percpu):
        assert symbols.address(name) == 8 * number


def test_what_stands_between_the_markers_and_the_tokens_is_passed_over(memory):
    ram = LinuxRam(memory)
    place = ram.place

    def with_sorted_names(data, **where):
        return place(data + bytes(range(1, 256)) * 9 if data.startswith(markers) else data, **where)

    markers = struct.pack("<3I", 0, *(sum(len(n) + 1 - 2 for _, n in MANY[:k]) for k in (256, 512)))
    ram.place = with_sorted_names
    ram.place_kallsyms(MANY, told=False)
    ram.finish()
    assert [len(symbols) for _, symbols in by_content(memory)] == [700]


def test_digits_that_are_no_tokens_are_no_table(memory):
    for at in (0, 5 * MIB, 6 * MIB + PAGE - 7, 16 * MIB - len(DIGITS)):
        memory.write(at, DIGITS)
    assert list(by_content(memory)) == []


@pytest.mark.parametrize("at", range(0, 40000, 1777))
def test_a_damaged_table_raises_nothing(memory, at):
    ram = LinuxRam(memory)
    ram.place_kallsyms(MANY, PERCPU, told=False)
    memory.write(KERNEL + PAGE + at, b"\xff" * 64)
    for _, symbols in by_content(memory):
        list(symbols.items())


def test_a_table_whose_addresses_do_not_ascend_is_refused(memory):
    ram = LinuxRam(memory)
    ram.place_kallsyms([MANY[0], MANY[2], MANY[1]])
    ram.finish()
    (kernel,) = find_kernels(memory)
    assert by_note(kernel) is None
