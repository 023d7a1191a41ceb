"""The commands that look into a machine: memory, registers, interrupts, exits, the board."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TIMEOUT, Bare, machine, numbered_disk

from pyvmm import Disk, Machine
from pyvmm.errors import MemoryAccessError, UnmappedError, UsageError
from pyvmm.inspection.registers import Registers
from pyvmm.kvm import exits
from pyvmm.monitor.command import parse_arguments
from pyvmm.monitor.session import Interrupted, Session

SCRATCH = 0x20_0000  # RAM that no small guest uses
LINES = (
    *("info version", "info cpus", "info kvm", "info memory map", "info address spaces"),
    *("info devices", "info ioapic", "info irq", "info exits", "info lapic", "info registers"),
    *("info page tables $rip", "translate $pc", "x/4xg $rsp", "x/s $rsp", "xp/4xw 0"),
    *('find "Linux"', "cpu 1", "info registers 1 general", "info exits 1", "info lapic 1"),
)


@pytest.fixture(scope="module")
def serial() -> Iterator[Machine]:
    """A guest that gives back what it gets on COM1, and else sleeps; one CPU never starts."""
    with machine("serial", cpus=2, serial=("buffer",)) as vm:
        vm.serial.expect(b"ready", TIMEOUT)
        yield vm
        vm.serial.write(b".")
        vm.wait(TIMEOUT)


@pytest.fixture
def session(serial: Machine) -> Session:
    return Session(serial)


def data(session: Session, line: str) -> Any:
    result = session.execute(line)
    assert result is not None
    assert str(result)
    return result.data


# ---- whatever the machine does ----


@pytest.mark.parametrize("line", LINES)
def test_every_command_works_while_the_guest_runs(serial: Machine, line: str) -> None:
    session = Session(serial)
    result = session.execute(line)
    assert result is None or str(result)
    assert serial.state == "running"


@pytest.mark.parametrize("how", ["poweroff", "triple"])
def test_every_command_works_after_the_end(how: str) -> None:
    with machine("end", how, cpus=2) as vm:
        vm.wait(TIMEOUT)
        session = Session(vm)
        for line in LINES:
            try:
                session.execute(line)
            except UnmappedError:  # a processor that has been reset has no stack
                assert "$rsp" in line
        assert vm.state == "ended"


def test_every_command_works_before_the_start() -> None:
    with Machine(memory="16M", cpus=2) as vm:
        for line in LINES:
            session = Session(vm)
            session.execute(line)


def test_a_closed_machine_is_said_to_be_closed() -> None:
    with pytest.raises(UsageError, match="not open"):
        Session(Machine()).execute("info cpus")


# ---- memory ----


def test_what_is_written_is_shown_in_each_format(session: Session) -> None:
    session.execute(f"writep {SCRATCH} 0x41 0x80 0xff 0xff 0x68 0x69 0 10")
    for line, text in {
        f"xp/2xw {SCRATCH}": "0000000000200000: 0xffff8041 0x0a006968",
        f"xp/4xb {SCRATCH}": "0000000000200000: 0x41 0x80 0xff 0xff",
        f"xp/2dh {SCRATCH + 2}": "0000000000200002:    -1 26984",
        f"xp/1ub {SCRATCH + 1}": "0000000000200001: 128",
        f"xp/ob {SCRATCH}": "0000000000200000: 0101",
        f"xp/3c {SCRATCH + 5}": "0000000000200005: 'i' '\\0' '\\n'",
        f"xp/s {SCRATCH + 4}": '0000000000200004: "hi"',
        f"x/xg {SCRATCH}": "0000000000200000: 0x0a006968ffff8041",
    }.items():
        assert str(session.execute(line)) == text
    assert data(session, f"xp/2xb {SCRATCH}")["lines"][0]["value"] == [0x41, 0x80]


def test_a_virtual_write_is_where_translate_says(session: Session) -> None:
    session.execute("write $rsp-64 1 2 0xfe")
    physical = data(session, "translate $rsp-64")["physical"]
    assert session.machine.memory.read(physical, 3) == b"\x01\x02\xfe"


def test_a_dump_stops_where_memory_stops_and_says_so(session: Session) -> None:
    shown = data(session, "xp/4xw 0x1000000-8")
    assert len(shown["lines"][0]["value"]) == 2
    assert "0x1000000" in shown["problem"]
    with pytest.raises(MemoryAccessError):
        session.execute("xp/4xw 0x1000000")


def test_an_unmapped_address_names_the_level(session: Session) -> None:
    for line in ("x 0xffff800000000000", "translate -4096", "write -4096 1"):
        with pytest.raises(UnmappedError, match=r"its PML4E at 0x[0-9a-f]+ is not present"):
            session.execute(line)
    shown = data(session, "info page tables 0xffff800000000000")
    assert "PML4E" in shown["Result"]["problem"]
    (entries,) = (rows for title, rows in shown.items() if title != "Result")
    assert [row["level"] for row in entries] == ["PML4E"]


def test_nothing_is_written_if_a_part_is_not_mapped(session: Session) -> None:
    with pytest.raises(MemoryAccessError):
        session.execute("writep 0xfffffe 1 2 3")
    assert session.machine.memory.read(0xFF_FFFE, 2) == bytes(2)
    with pytest.raises(UsageError, match="must be bytes"):
        session.execute("writep 0")
    with pytest.raises(UsageError, match="BYTE must be 0 to 0xff, not 256"):
        session.execute("writep 0 256")


def test_find_finds_texts_and_bytes_in_all_memory_or_a_part(session: Session) -> None:
    memory = session.machine.memory
    memory.write(SCRATCH + 0x100, b"needle one")
    memory.write(0x5F_FFFC, b"needle across two pieces")  # of 2 MiB
    for line in ('find "needle"', "find 6e6565646c65", "find 6e65??646c65"):
        found = [row["address"] for row in data(session, line)]
        assert found == [SCRATCH + 0x100, 0x5F_FFFC]
    assert data(session, f'find "needle" {SCRATCH} 0x1000')[0]["text"].startswith("needle one")
    assert not session.execute(f'find "needle" {SCRATCH} 0x105').data
    assert data(session, f'find "needle o" {SCRATCH + 0x100} 8')


@pytest.mark.parametrize("what", ["find xyz", 'find ""', "find 123", 'find "a" 5', "find"])
def test_find_says_what_must_be(session: Session, what: str) -> None:
    with pytest.raises(UsageError):
        session.execute(what)


def test_find_shows_no_more_than_100_places(session: Session) -> None:
    session.machine.memory.write(SCRATCH + 0x1000, b"crowd" * 200)
    ((title, rows),) = data(session, 'find "crowd"').items()
    assert title == "The first 100 places"
    assert len(rows) == 100


@pytest.mark.parametrize("line", ['find "absent"', "x/100s 0x200000", "x/1000i 0x100000"])
def test_a_long_command_is_interrupted(session: Session, line: str) -> None:
    session.interrupt()
    command, text = session.find(line)
    positional, named = parse_arguments(session, command, text)
    with pytest.raises(Interrupted):
        command(session, *positional, **named)


# ---- instructions and names ----


def test_instructions_are_shown_with_their_function(session: Session) -> None:
    pytest.importorskip("capstone")
    (first, *_) = data(session, "x/2i main")["lines"]
    assert first["name"] == "main"
    lines = str(session.execute("disassemble")).splitlines()
    (marked,) = (line for line in lines if line.startswith("=> "))
    assert "<main+" in marked
    assert lines[lines.index(marked) - 1].endswith(": hlt")


def test_a_guest_in_real_mode_has_16_bit_code() -> None:
    pytest.importorskip("capstone")
    with Machine(memory="16M") as vm:
        vcpu = vm.vcpus[0]
        sregs, regs = vcpu.sregs, vcpu.regs
        sregs.cr0 &= ~1
        sregs.cs.selector, sregs.cs.base, regs.rip = 0x2000, 0x2_0000, 0x10
        vcpu.sregs, vcpu.regs = sregs, regs
        vm.memory.write(0x2_0010, bytes.fromhex("b80100"))
        assert str(vm.command("x/i $pc")) == "0000000000020010: mov ax, 1"


def test_addresses_are_expressions(session: Session) -> None:
    physical = data(session, "translate main+(16-$rax+$rax)")["physical"]
    assert physical == data(session, "translate main")["physical"] + 16
    with pytest.raises(UsageError, match="no symbol 'mian'"):
        session.execute("x mian")
    with pytest.raises(UsageError, match="no register 'raks'; did you mean"):
        session.execute("x $raks")


def test_registers_symbols_and_formats_complete(session: Session) -> None:
    assert "$rsp" in session.complete("x $rs")[1]
    assert session.complete("x 8+mai") == (2, ["8+main"])
    assert "$lstar" in session.complete("set $ls")[1]
    assert session.complete("x /4x")[1] == ["/4xb", "/4xh", "/4xw", "/4xg"]
    assert "/4x" in session.complete("x /4")[1]


# ---- vCPUs ----


def test_info_cpus_says_what_each_does_and_where(session: Session) -> None:
    first, second = data(session, "info cpus")
    assert (first["cpu"], first["state"], first["mode"]) == ("* 0", "halted", "64-bit code")
    assert first["in"].startswith("main+")
    assert first["thread"]
    assert second["state"] == "not started"
    session.execute("cpu 1")
    assert [row["cpu"] for row in data(session, "info cpus")] == ["  0", "* 1"]


def test_a_register_that_is_set_is_shown_and_used(session: Session) -> None:
    session.execute("cpu 1")  # it does not run
    session.execute(f"set $rbx {SCRATCH}")
    session.execute("set dr1 0x1234")
    session.execute("set $st3 0x5678")
    session.execute("set $xmm7 $rbx+1")
    groups = data(session, "info registers")
    assert groups["General"]["rbx"] == SCRATCH
    assert groups["Debug"]["dr1"] == 0x1234
    assert groups["FPU"]["st3"] == 0x5678
    assert groups["SSE"]["xmm7"] == SCRATCH + 1
    assert data(session, "info registers 1 debug") == {"Debug": groups["Debug"]}
    assert data(session, "info registers 0 general")["General"]["rbx"] != SCRATCH
    assert {row["segment"] for row in groups["Segments"]} >= {"cs", "ss", "tr", "gdt"}


def test_the_vCPU_that_runs_gets_what_is_set(session: Session) -> None:
    before = data(session, "info registers general")["General"]["r15"]
    session.execute("set $r15 0x123456789")
    assert session.machine.state == "running"
    assert data(session, "info registers general")["General"]["r15"] == 0x1_2345_6789
    session.execute(f"set $r15 {before}")


def test_a_register_is_shown_as_KVM_has_made_it(bare: Bare) -> None:
    registers = Registers(bare.vcpu, 4096)
    registers["rflags"] = 0
    assert registers["rflags"] == 2  # SDM 1 §3.4.3: a bit that is always set


def test_a_register_or_a_CPU_that_is_not_there_is_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="did you mean 'rax'"):
        session.execute("set $raxx 1")
    with pytest.raises(UsageError, match="must be a number of 16 bits"):
        session.execute("set $cs 0x10000")
    with pytest.raises(UsageError, match="CPU must be 0 to 1"):
        session.execute("cpu 2")


# ---- interrupts, exits and the board ----


def test_info_irq_counts_what_COM1_raised(serial: Machine, session: Session) -> None:
    def com1() -> dict[str, Any]:
        (row,) = (row for row in data(session, "info irq")["Lines"] if row["of"] == "COM1")
        return row

    before = com1()["raised"]
    serial.serial.write(b"ab")
    serial.serial.expect(b"ab", TIMEOUT)
    assert com1()["raised"] > before
    assert com1()["GSI"] == 4
    assert com1()["PIC"] == "vector 0x24"
    assert "masked" in com1()["IOAPIC"]
    pins = data(session, "info ioapic")
    assert [pin["of"] for pin in pins][:5] == ["PIT", "i8042", None, None, "COM1"]
    assert data(session, "info lapic")["Local APIC of vCPU 0"]["enabled"] is True


def test_info_exits_counts_by_kind_and_address(serial: Machine, session: Session) -> None:
    def writes() -> tuple[int, int]:
        shown = data(session, "info exits 0")
        (kind,) = (row["exits"] for row in shown["By kind"] if row["kind"] == "pio write")
        places = {(row["kind"], row["address"]): row for row in shown["By address"]}
        row = places["pio write", 0x3F8]
        assert row["of"] == "COM1"
        assert sum(r["exits"] for r in shown["By address"] if r["kind"] == "pio write") == kind
        return kind, row["exits"]

    before = writes()
    serial.serial.write(b"xyz")
    serial.serial.expect(b"xyz", TIMEOUT)
    after = writes()
    assert after[1] - before[1] == 3
    assert after[0] - before[0] >= 3


def test_addresses_that_find_no_room_are_counted_together(bare: Bare) -> None:
    bare.load("31 d2 ee 42 81 fa e8 03 72 f8 f4")  # writes to ports 0 to 999
    while not isinstance(bare.vcpu.run(), exits.Hlt):
        pass
    *others, last = sorted(bare.vcpu.places(), key=lambda place: place.address is None)
    assert last.address is None
    assert 200 < len(others) <= 256
    assert {place.count for place in others} == {1}
    assert last.count == 1000 - len(others)


def test_the_board_is_shown_with_its_disk(tmp_path: Path) -> None:
    disk = Disk("root", str(numbered_disk(tmp_path / "disk")))
    with machine("virtio_blk", "requests", devices=(disk,)) as vm:
        vm.wait(TIMEOUT)
        session = Session(vm)
        (row,) = (row for row in data(session, "info devices") if "root" in row["device"])
        assert row["device"] == "  01.0 root"
        assert (row["type"], row["interrupt"]) == ("Blk", "MSI-X")
        assert row["at"].startswith("memory 0xc")
        spaces = data(session, "info address spaces")
        window = next(at for at, row in enumerate(spaces["Memory"]) if "32 bits" in row["what"])
        assert spaces["Memory"][window + 1]["what"] == "  root"
        assert any(row["what"] == "COM1" for row in spaces["Ports"])
        messages = data(session, "info irq")["Messages"]
        assert {row["of"] for row in messages} == {"root"}
        assert "root" in {row["of"] for row in data(session, "info ioapic")}


def test_address_spaces_have_no_gap(session: Session) -> None:
    shown = data(session, "info address spaces")
    for space, size in (("Ports", 1 << 16), ("Memory", sum(session.machine.board.pci_window64))):
        end = 0
        for row in shown[space]:
            assert row["from"] <= end
            end = max(end, row["to"] + 1)
        assert end == size


def test_the_memory_map_has_all_RAM(session: Session) -> None:
    shown = data(session, "info memory map")
    (ram,) = shown["RAM, by memory slot"]
    assert (ram["from"], ram["to"], ram["size"]) == (0, 0xFF_FFFF, "16 MiB")
    assert {row["type"] for row in shown["What the guest was told"]} == {"RAM", "reserved"}


def test_info_kvm_names_capabilities(session: Session) -> None:
    shown = data(session, "info kvm")
    there = {row["capability"]: row["value"] for row in shown["Capabilities"]}
    assert there["IRQCHIP"] == 1
    assert shown["KVM"]["API version"] == 12
    assert not {row["capability"] for row in shown["Not there"]} & there.keys()
