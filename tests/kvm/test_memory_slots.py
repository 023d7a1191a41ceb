"""Memory slots: read-only, dirty pages, taken away."""

from __future__ import annotations

import mmap

from conftest import MIB, Bare

from pyvmm.kvm import exits

PAGES = 16


def test_a_write_to_a_read_only_slot_is_an_mmio_exit(bare: Bare) -> None:
    rom = mmap.mmap(-1, 4096)
    rom[0:1] = b"\x5a"
    with memoryview(rom) as view:
        bare.vm.set_memory(1, MIB, view, readonly=True)
        # ds=0xffff: al = [0x100000]; [0x100000] = ah
        bare.load("b8ffff 8ed8 b4a5 a01000 88261000 f4")
        assert bare.run() == exits.MmioWrite(MIB, 1, 0xA5)
        assert bare.vcpu.regs.rax & 0xFF == 0x5A
        assert rom[0] == 0x5A
        bare.vm.set_memory(1, MIB, None)


def test_the_dirty_log_names_the_pages_written_since_the_last_look(bare: Bare) -> None:
    ram = mmap.mmap(-1, PAGES * 4096)
    with memoryview(ram) as view:
        bare.vm.set_memory(1, MIB, view, log_dirty=True)
        bare.load("b8ffff 8ed8 a21000 a21070 f4")  # pages 0 and 7
        assert bare.run() == exits.Hlt()
        assert int.from_bytes(bare.vm.dirty_log(1, len(ram)), "little") == 1 << 0 | 1 << 7
        assert not any(bare.vm.dirty_log(1, len(ram)))
        bare.load("a21030 f4")
        assert bare.run() == exits.Hlt()
        assert int.from_bytes(bare.vm.dirty_log(1, len(ram)), "little") == 1 << 3
        bare.vm.set_memory(1, MIB, None)


def test_a_slot_that_is_taken_away_is_no_memory_any_more(bare: Bare) -> None:
    ram = mmap.mmap(-1, 4096)
    with memoryview(ram) as view:
        bare.vm.set_memory(1, MIB, view)
        bare.vm.set_memory(1, MIB, None)
        bare.load("b8ffff 8ed8 a01000 f4")
        assert bare.run() == exits.MmioRead(MIB, 1)
