from __future__ import annotations

import sys
from types import SimpleNamespace as Fields

import pytest

from pyvmm import ends
from pyvmm.diagnosis import BootFacts, VcpuState, diagnose
from pyvmm.errors import KvmError
from pyvmm.inspection.symbols import from_elf
from pyvmm.kvm.vcpu import LastExit
from pyvmm.layout import MIB, PAGE
from pyvmm.memory import GuestMemory
from tests.fakes.printk import KASLR, LinuxRam, Ring
from tests.unit.inspection.test_symbols import TEXT, VMLINUX

CODE = 0x20_0000
FACTS = BootFacts("console=ttyS0", serial_ports=(0x3F8,), memory_size=16 * MIB, kvm="kvm_intel")
GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")
GENERAL += ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt")


@pytest.fixture
def memory():
    memory = GuestMemory(16 * MIB)
    yield memory
    memory.close()


def regs(rip=TEXT, **values):
    return Fields(**dict.fromkeys(GENERAL, 0) | values, rip=rip, rflags=0x246)


def sregs(*, cr0=0x80000011, efer=0x500, **values):
    segment = {"base": 0, "limit": 0xFFFFF, "selector": 0x10, "l": 1, "db": 0, "dpl": 0}
    tables = {name: Fields(base=0xFE00, limit=0xFFF) for name in ("gdt", "idt")}
    segments = {name: Fields(**segment) for name in SEGMENTS}
    return Fields(**segments | tables | {"cr2": 0xBAD0, "cr3": 0x1000, "cr4": 0x20} | values,
                  cr0=cr0, efer=efer)  # fmt: skip


def to_code(address):
    return CODE + address - TEXT if TEXT <= address < TEXT + PAGE else None


def vcpu(cpu=0, **more):
    fields = {"regs": regs(), "sregs": sregs(), "mp_state": 0, "translate": to_code}
    return VcpuState(cpu, **fields | more)


def report(memory, end=None, vcpus=(), console=b"", facts=FACTS, symbols=None):
    return diagnose(end, vcpus, memory, console, facts, symbols).text()


ENDS = [
    (ends.TripleFault(1), "The guest died: triple fault on vCPU 1"),
    (ends.EntryFailed(0, 0x80000021), "entered: VMX: invalid guest state (0x80000021)"),
    (ends.EntryFailed(2, 14), "vCPU 2 could not be entered: Bad address"),
    (ends.EntryFailed(0, 0x1234), "a reason that pyvmm does not know (0x1234)"),
    (ends.EmulationFailed(0, 1, b"\x0f\xc7"), "could not emulate an instruction (0f c7)"),
    (ends.EmulationFailed(0, 2, b""), "two exceptions came at once"),
    (ends.EmulationFailed(0, 99, b""), "internal error 99"),
    (ends.GuestPanic("Kernel panic - not syncing: x", "console"), "panicked (Kernel panic - not"),
    (ends.GuestPanic("", "pvpanic"), "The guest's kernel panicked"),
    (ends.PoweredOff(), "powered itself off"),
    (ends.Reset(), "reset itself"),
    (ends.Quit(), "ended from outside"),
    (ends.DebugExit(7), "the debug exit port, with status 7"),
    (None, "The guest is still running"),
]


@pytest.mark.parametrize(("end", "words"), ENDS)
def test_the_first_line_says_what_happened(memory, end, words):
    assert words in report(memory, end).splitlines()[0]


def test_registers_are_shown_in_the_familiar_layout(memory):
    text = report(memory, ends.TripleFault(0), [vcpu(regs=regs(rax=0xABC, r15=0xFFF << 52))])
    for expected in (
        "vCPU 0: 64-bit mode, CPL 0",
        f"RIP {TEXT:016x}",
        "RAX 0000000000000abc  RBX 0000000000000000",
        "R15 fff0000000000000",
        "RFLAGS 00000246 [PF ZF IF]  EFER 500",
        "CR0 80000011  CR2 bad0  CR3 1000  CR4 20",
        "CS 0010",
        "GDT fe00 limit fff  IDT fe00 limit fff",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("cr0", "efer", "cs", "code", "mode", "instruction"),
    [
        (0x80000011, 0x500, {"l": 1, "db": 0}, "48 ff c0", "64-bit mode", "inc rax"),
        (0x11, 0, {"l": 0, "db": 1}, "48 ff c0", "32-bit code", "dec eax"),
        (0x11, 0, {"l": 0, "db": 0}, "48 ff c0", "16-bit code", "dec ax"),
        (0x10, 0, {"l": 0, "db": 0}, "48 ff c0", "real mode", "dec ax"),
        (0x80000011, 0x500, {"l": 1, "db": 0}, "06", "64-bit mode", "(no instruction)"),
    ],
)
def test_the_instruction_is_that_of_the_vcpus_mode(memory, cr0, efer, cs, code, mode, instruction):
    pytest.importorskip("capstone")
    memory.write(CODE, bytes.fromhex(code))
    state = sregs(cr0=cr0, efer=efer)
    vars(state.cs).update(cs)
    text = report(memory, None, [vcpu(sregs=state, translate=lambda address: CODE)])
    assert mode in text
    assert instruction in next(line for line in text.splitlines() if "Code" in line)


def test_real_mode_code_is_found_through_the_segments_base(memory):
    memory.write(0xFFF0, b"\xf4")
    state = sregs(cr0=0x10, efer=0)
    vars(state.cs).update(base=0xF000, l=0)
    text = report(memory, None, [vcpu(regs=regs(0xFF0), sregs=state, translate=lambda a: a)])
    assert "hlt" in text


def test_without_a_disassembler_the_bytes_are_shown_and_the_cure(memory, monkeypatch):
    monkeypatch.setitem(sys.modules, "capstone", None)
    memory.write(CODE, b"\x0f\x0b")
    text = report(memory, None, [vcpu()])
    assert "Code 0f 0b 00" in text
    assert "pip install 'pyvmm[disassembly]'" in text


def test_code_up_to_an_unmapped_page_is_shown(memory):
    memory.write(CODE + PAGE - 2, b"\x0f\x0b")
    assert "Code <0f 0b>   ud2" in report(memory, None, [vcpu(regs=regs(TEXT + PAGE - 2))])


@pytest.mark.parametrize(
    ("rip", "translate", "problem"),
    [
        (TEXT + PAGE, to_code, "is not mapped"),
        (TEXT, lambda address: 0xC000_0000, "guest-physical 0xc0000000, which is not RAM"),
        ((1 << 64) - 1, to_code, "is not mapped"),
    ],
)
def test_a_bad_rip_is_named_and_is_the_likely_cause(memory, rip, translate, problem):
    vcpus = [vcpu(regs=regs(rip), translate=translate)]
    text = report(memory, ends.TripleFault(0), vcpus)
    assert problem in text
    assert "wild pointer" in text


def test_a_translation_that_fails_is_no_exception(memory):
    def refuse(address):
        raise KvmError("KVM_TRANSLATE", 22)

    assert "is not mapped" in report(memory, None, [vcpu(translate=refuse)])


def test_the_images_symbols_name_rip_also_where_the_kernel_runs_unmapped(memory):
    symbols = from_elf(VMLINUX)
    for rip in (TEXT + 4, TEXT + 4 - 0xFFFFFFFF80000000):
        text = report(memory, None, [vcpu(regs=regs(rip))], symbols=symbols)
        assert f"RIP {rip:016x}  startup_64+0x4/0x100" in text


def test_the_images_symbols_are_moved_by_the_kernels_kaslr_offset(memory):
    LinuxRam(memory).finish()
    vcpus = [vcpu(regs=regs(TEXT + KASLR + 4))]
    text = report(memory, None, vcpus, symbols=from_elf(VMLINUX))
    assert f"RIP {TEXT + KASLR + 4:016x}  startup_64+0x4/0x100" in text


def test_a_symbol_that_the_guest_made_up_is_printable(memory):
    ram = LinuxRam(memory)
    ram.place_kallsyms([(TEXT, "\x1b[2Jevil\x07"), (TEXT + 16, "_end")])
    ram.finish()
    assert "  evil\N{REPLACEMENT CHARACTER}+0x0/0x10" in report(memory, None, [vcpu()])


def test_the_running_kernels_symbols_name_rip(memory):
    ram = LinuxRam(memory)
    ram.place_kallsyms([(TEXT, "start"), (TEXT + 16, "sys_halt"), (TEXT + 64, "_end")])
    ram.finish()
    assert "sys_halt+0x2/0x30" in report(memory, None, [vcpu(regs=regs(TEXT + 18))])


def test_only_the_vcpu_that_died_is_shown_and_all_of_a_guest_that_runs(memory):
    vcpus = [vcpu(0), vcpu(1), vcpu(2, mp_state=1), vcpu(3, mp_state=3)]
    dead = report(memory, ends.TripleFault(1), vcpus)
    assert "vCPU 1:" in dead
    assert "vCPU 0:" not in dead
    running = report(memory, None, vcpus)
    assert "vCPU 0:" in running
    assert "vCPU 2 has not been started by the guest" in running
    assert "vCPU 3: 64-bit mode, CPL 0, halted" in running


def test_last_exits_name_the_device_the_place_and_repetitions(memory):
    exits = [LastExit("mmio_write", 0xFEC00010, 4, TEXT)]
    exits += [LastExit("pio_read", 0x3FD, 1, TEXT + 0x10)] * 3
    exits += [LastExit("pio_write", 0x9999, 2, 0x5), LastExit("shutdown", 0, 0, TEXT)]
    text = report(memory, None, [vcpu(last_exits=exits)], symbols=from_elf(VMLINUX))
    assert text.index("mmio write 0xfec00010 (I/O APIC), 4 bytes, at ") < text.index(
        "pio read 0x3fd (COM1), 1 byte, at 0xffffffff81000010 startup_64+0x10/0x100, 3 times"
    )
    assert "pio write 0x9999, 2 bytes, at 0x5\n" in text
    assert f"shutdown, at {TEXT:#x}" in text


def test_the_console_is_shown_printable_and_only_its_end(memory):
    console = b"".join(b"line %d\r\n" % i for i in range(100)) + b"\x1b[31mlast\x07"
    text = report(memory, console=console)
    assert "line 99\n  last\N{REPLACEMENT CHARACTER}" in text
    assert "line 1\n" not in text


def log_of(memory, *lines):
    ring = Ring()
    for ns, line in lines:
        ring.add(line, ns)
    ram = LinuxRam(memory)
    ram.place_ring(ring)
    ram.finish()


def test_the_kernels_log_is_shown_if_the_console_has_nothing(memory):
    log_of(memory, (0, b"Linux version 6"), (1_500_000_000, b"\x1b[2Jwaiting\nfor you"))
    text = report(memory)
    assert "printed nothing" in text
    assert "[    1.500000] waiting\n  [    1.500000] for you" in text


def test_the_kernels_log_is_left_out_if_the_console_has_its_last_line(memory):
    log_of(memory, (0, b"Linux version 6"), (1_500_000_000, b"Freeing memory"))
    assert "log, found" not in report(memory, console=b"[  1.5] Freeing memory\r\n# ")
    assert "log, found" in report(memory, console=b"Loading\r\n")


def test_a_panic_that_no_console_showed_is_found_in_the_log(memory):
    log_of(memory, (0, b"Linux version 6"), (9, b"Kernel panic - not syncing: Fatal exception"))
    first = report(memory, ends.GuestPanic("", "pvpanic")).splitlines()[0]
    assert first == ("The guest's kernel panicked (Kernel panic - not syncing: Fatal exception)")


def test_causes_stand_right_below_the_first_line(memory):
    text = report(memory, facts=FACTS._replace(cmdline="quiet"))
    assert text.splitlines()[2:4] == [
        "Likely cause: The command line has no console=, but the serial port in use is ttyS0.",
        "What to do: Add console=ttyS0 with --append console=ttyS0.",
    ]


def test_a_vcpu_of_which_nothing_is_known_is_reported_as_such(memory):
    text = report(memory, ends.TripleFault(0), [VcpuState(0)], facts=BootFacts())
    assert "vCPU 0: its registers cannot be read" in text


def test_no_vcpu_and_no_output_still_give_a_report(memory):
    assert report(memory, facts=BootFacts()) == (
        "The guest is still running\n\nThe guest printed nothing on a serial port"
    )
