"""Every exit as its type, from guests of a few bytes."""

from __future__ import annotations

import mmap

from conftest import CODE, Bare

from pyvmm.kvm import Kvm, exits
from pyvmm.native import lib


def test_a_five_byte_guest_runs_in_fifteen_lines() -> None:
    memory = mmap.mmap(-1, 4096)
    memory[:5] = bytes.fromhex("00d8 e680 f4")  # add al, bl; out 0x80, al; hlt
    with memoryview(memory) as ram, Kvm() as kvm, kvm.create_vm() as vm:
        vm.set_memory(0, 0, ram)
        with vm.create_vcpu(0) as vcpu:
            sregs = vcpu.sregs
            sregs.cs.base = sregs.cs.selector = 0
            vcpu.sregs = sregs
            regs = vcpu.regs
            regs.rip, regs.rax, regs.rbx, regs.rflags = 0, 2, 3, 2
            vcpu.regs = regs
            assert vcpu.run() == exits.PioWrite(0x80, 1, 5)
            assert vcpu.run() == exits.Hlt()
            assert vcpu.regs.rip == 5


def test_port_accesses_of_every_size(bare: Bare) -> None:
    bare.load("ba3412 b8efbe ee ef 66ef ec ed 66ed f4")  # dx=0x1234: out al ax eax, in al ax eax
    assert bare.run() == exits.PioWrite(0x1234, 1, 0xEF)
    assert bare.run() == exits.PioWrite(0x1234, 2, 0xBEEF)
    assert bare.run() == exits.PioWrite(0x1234, 4, 0xBEEF)
    for size, value in ((1, 0x11), (2, 0x2222), (4, 0x33333333)):
        assert bare.run() == exits.PioRead(0x1234, size)
        bare.vcpu.answer(value)
    assert bare.run() == exits.Hlt()
    assert bare.vcpu.regs.rax & 0xFFFFFFFF == 0x33333333


def test_a_string_instruction_is_one_exit_for_each_element(bare: Bare) -> None:
    bare.memory[0x800:0x803] = b"abc"
    bare.load("ba8000 be0008 b90300 f36e f4")  # rep outsb
    assert [bare.run() for _ in range(3)] == [exits.PioWrite(0x80, 1, byte) for byte in b"abc"]
    assert bare.run() == exits.Hlt()


def test_each_element_of_a_string_read_gets_its_own_answer(bare: Bare) -> None:
    bare.load("ba8000 bf0008 b90300 f36c f4")  # rep insb
    for byte in b"xyz":
        assert bare.run() == exits.PioRead(0x80, 1)
        bare.vcpu.answer(byte)
    assert bare.run() == exits.Hlt()
    assert bare.memory[0x800:0x803] == b"xyz"


def test_memory_mapped_accesses(bare: Bare) -> None:
    # ds=0xffff: its last addresses lie behind the MiB of RAM.
    bare.load("b8ffff 8ed8 b055 a21000 a11200 f4")  # mov [0x10], al; mov ax, [0x12]
    assert bare.run() == exits.MmioWrite(0x100000, 1, 0x55)
    assert bare.run() == exits.MmioRead(0x100002, 2)
    bare.vcpu.answer(0xBEEF)
    assert bare.run() == exits.Hlt()
    assert bare.vcpu.regs.rax & 0xFFFF == 0xBEEF


def test_a_triple_fault_is_a_shutdown(bare: Bare) -> None:
    bare.protect()
    bare.load("0f0b")  # ud2, for which there is no handler, nor for the fault of not finding one
    assert bare.run() == exits.Shutdown()


def test_a_kick_before_the_run_interrupts_it(bare: Bare) -> None:
    bare.load("ebfe")  # jmp $
    bare.vcpu.kick()
    assert bare.run() == exits.Interrupted()


def test_a_failed_entry_tells_the_reason_and_the_processor(bare: Bare) -> None:
    """No guest state is refused by every host: so this tells what the exit is made of."""
    bare.vcpu.native.info[0:2] = [0x80000021, 3]
    assert bare.vcpu.describe(lib.PV_EXIT_FAIL_ENTRY) == exits.FailEntry(0x80000021, 3)


def test_exits_are_counted_and_the_last_are_remembered(bare: Bare) -> None:
    bare.load("e680 e680 e580 f4")  # out, out, in ax
    for _ in range(4):
        bare.run()
    counts = bare.vcpu.exit_counts()
    assert (counts["pio_write"], counts["pio_read"], counts["hlt"]) == (2, 1, 1)
    assert sum(counts.values()) == 4
    last = bare.vcpu.last_exits()
    assert [(e.kind, e.address, e.size) for e in last] == [
        ("pio_write", 0x80, 1),
        ("pio_write", 0x80, 1),
        ("pio_read", 0x80, 2),
        ("hlt", 0, 0),
    ]
    assert CODE <= last[0].rip <= CODE + 2
