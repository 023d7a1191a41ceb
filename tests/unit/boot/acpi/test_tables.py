"""The ACPI tables of a board: found, summed and read as a guest does, and through ACPICA."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pyvmm import layout
from pyvmm.boot import acpi
from pyvmm.devices import acpi_pm_spec as pm
from pyvmm.errors import UsageError

BASE = layout.ACPI_TABLES
BOARD = acpi.Board(
    cpus=4,
    com_ports=(0, 1),
    pci_window64=(0xC0_0000_0000, 0x40_0000_0000),
    virtio_mmio=((layout.VIRTIO_MMIO, 5), (layout.VIRTIO_MMIO + layout.VIRTIO_MMIO_STRIDE, 20)),
)
needs_iasl = pytest.mark.skipif(not shutil.which("iasl"), reason="iasl (acpica-tools) is missing")
needs_acpiexec = pytest.mark.skipif(
    not shutil.which("acpiexec"), reason="acpiexec (acpica-tools) is missing"
)


def table_at(blob: bytes, address: int) -> bytes:
    """The table at a guest address, by its own length."""
    start = address - BASE
    (size,) = struct.unpack_from("<I", blob, start + 4)
    assert start + size <= len(blob)
    return blob[start : start + size]


def tables_of(board: acpi.Board) -> dict[str, bytes]:
    """Every table by signature, found from the RSDP as a guest finds them."""
    blob = acpi.build(BASE, board)
    (xsdt_address,) = struct.unpack_from("<Q", blob, 24)
    tables = {"XSDT": table_at(blob, xsdt_address)}
    for (address,) in struct.iter_unpack("<Q", tables["XSDT"][36:]):
        table = table_at(blob, address)
        tables[table[:4].decode()] = table
    facs, dsdt = struct.unpack_from("<II", tables["FACP"], 36)
    return tables | {"FACS": table_at(blob, facs), "DSDT": table_at(blob, dsdt)}


def madt_entries(board: acpi.Board) -> list[tuple[int, bytes]]:
    """The MADT's entries as (type, all of its bytes)."""
    rest = tables_of(board)["APIC"][44:]
    entries = []
    while rest:
        entries.append((rest[0], rest[: rest[1]]))
        rest = rest[rest[1] :]
    return entries


def disassemble(table: bytes, folder: Path) -> str:
    """A table's listing by iasl, which must find nothing to complain of."""
    (folder / "table.dat").write_bytes(table)
    done = subprocess.run(
        ["iasl", "-d", "table.dat"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert not re.search("error|warning|invalid", done.stdout + done.stderr, re.IGNORECASE)
    return (folder / "table.dsl").read_text()


def acpiexec(command: str, folder: Path) -> str:
    """What ACPICA's interpreter prints when it loads the DSDT and runs one debugger command."""
    (folder / "dsdt.dat").write_bytes(tables_of(BOARD)["DSDT"])
    done = subprocess.run(
        ["acpiexec", "-b", command, "dsdt.dat"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not re.search("ACPI (BIOS )?(error|warning)", done.stdout + done.stderr, re.IGNORECASE)
    return done.stdout


def test_the_rsdp_comes_first_with_both_checksums() -> None:
    rsdp = acpi.build(BASE, BOARD)[:36]
    assert rsdp.startswith(b"RSD PTR ")
    assert rsdp[15] == 2
    assert sum(rsdp[:20]) % 256 == 0
    assert sum(rsdp) % 256 == 0


def test_every_table_sums_to_zero() -> None:
    tables = tables_of(BOARD)
    assert set(tables) == {"XSDT", "FACP", "FACS", "DSDT", "APIC", "MCFG"}
    for signature, table in tables.items():
        assert signature == "FACS" or sum(table) % 256 == 0, signature


def test_the_facs_is_aligned_to_64_bytes() -> None:
    facs, _ = struct.unpack_from("<II", tables_of(BOARD)["FACP"], 36)
    assert facs % 64 == 0


def test_the_fadt_gives_the_pm_block_alike_in_its_old_and_new_fields() -> None:
    fadt = tables_of(BOARD)["FACP"]
    port = layout.ACPI_PM_PORT
    assert len(fadt) == 276
    registers = [(56, 88, 148, port), (64, 89, 172, port + 4), (76, 91, 208, port + 8)]
    for old, length, new, expected in registers:
        space, bits, shift, _, address = struct.unpack_from("<BBBBQ", fadt, new)
        assert struct.unpack_from("<I", fadt, old) == (address,) == (expected,)
        assert (space, bits, shift) == (1, 8 * fadt[length], 0)


def test_the_fadt_leaves_nothing_to_system_management_mode() -> None:
    assert struct.unpack_from("<I4B", tables_of(BOARD)["FACP"], 48) == (0, 0, 0, 0, 0)


def test_the_fadt_names_both_dsdt_fields_and_one_facs() -> None:
    fadt = tables_of(BOARD)["FACP"]
    (dsdt,) = struct.unpack_from("<I", fadt, 40)
    facs64, dsdt64 = struct.unpack_from("<QQ", fadt, 132)
    assert (facs64, dsdt64) == (0, dsdt)


def test_each_cpu_has_a_local_apic_of_its_own_number() -> None:
    apics = [entry for kind, entry in madt_entries(BOARD) if kind == 0]
    assert [struct.unpack("<BBBBI", entry) for entry in apics] == [
        (0, 8, cpu, cpu, 1) for cpu in range(4)
    ]


def test_cpus_from_255_have_x2apic_entries() -> None:
    entries = madt_entries(acpi.Board(cpus=257))
    x2apics = [struct.unpack("<BBHIII", entry) for kind, entry in entries if kind == 9]
    assert x2apics == [(9, 16, 0, cpu, 1, cpu) for cpu in (255, 256)]
    assert sum(kind == 0 for kind, _ in entries) == 255
    nmis = [struct.unpack("<BBHIB3x", entry) for kind, entry in entries if kind == 0xA]
    assert nmis == [(0xA, 12, 0, 0xFFFF_FFFF, 1)]


def test_255_cpus_need_no_x2apic_entry() -> None:
    assert {kind for kind, _ in madt_entries(acpi.Board(cpus=255))} == {0, 1, 2, 4}


def test_the_sci_is_level_triggered_and_the_pit_stays_on_its_pin() -> None:
    overrides = [entry for kind, entry in madt_entries(BOARD) if kind == 2]
    assert [struct.unpack("<BBBBIH", entry) for entry in overrides] == [(2, 10, 0, 9, 9, 0x000D)]


def test_a_pit_on_another_pin_is_overridden() -> None:
    overrides = [e for kind, e in madt_entries(acpi.Board(cpus=1, pit_gsi=2)) if kind == 2]
    assert struct.unpack("<BBBBIH", overrides[0]) == (2, 10, 0, 0, 2, 0)


def test_the_mcfg_covers_the_ecam_of_bus_0() -> None:
    assert struct.unpack("<8xQHBB4x", tables_of(BOARD)["MCFG"][36:]) == (layout.ECAM, 0, 0, 0)


def test_tables_for_255_cpus_fit() -> None:
    assert len(acpi.build(BASE, acpi.Board(cpus=255))) < layout.ACPI_TABLES_MAX


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"ACPI tables for 4096 CPUs .* must fit into 131072"):
        acpi.build(BASE, acpi.Board(cpus=4096))


@needs_iasl
@pytest.mark.parametrize("signature", ["XSDT", "FACP", "FACS", "APIC", "MCFG"])
def test_iasl_reads_the_fixed_table_and_writes_it_back(signature: str, tmp_path: Path) -> None:
    table = tables_of(BOARD)[signature]
    disassemble(table, tmp_path)
    done = subprocess.run(
        ["iasl", "-p", "again", "table.dsl"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    again = (tmp_path / "again.aml").read_bytes()
    header = 0 if signature == "FACS" else 36  # iasl signs what it compiles
    assert again[header:] == table[header:]


@needs_iasl
@pytest.mark.parametrize(
    "board",
    [BOARD, acpi.Board(cpus=1, com_ports=(), pvpanic=False), acpi.Board(cpus=255)],
    ids=["full", "bare", "255 CPUs"],
)
def test_iasl_compiles_the_dsdt_back_to_the_same_bytes(board: acpi.Board, tmp_path: Path) -> None:
    dsdt = tables_of(board)["DSDT"]
    disassemble(dsdt, tmp_path)
    done = subprocess.run(
        ["iasl", "-p", "again", "table.dsl"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "0 Errors, 0 Warnings, 0 Remarks" in done.stdout
    assert (tmp_path / "again.aml").read_bytes()[36:] == dsdt[36:]


@needs_iasl
def test_the_dsdt_lists_what_the_board_has_and_no_more(tmp_path: Path) -> None:
    full = disassemble(tables_of(BOARD)["DSDT"], tmp_path)
    devices = re.findall(r"Device \((\w+)\)", full)
    cpus = ["C000", "C001", "C002", "C003"]
    on_pci = ["COM1", "COM2", "RTC", "KBD", "PEVT"]
    assert devices == [*cpus, "MBRD", "PCI0", *on_pci, "V000", "V001"]
    bare = acpi.Board(cpus=1, com_ports=(), pvpanic=False)
    devices = re.findall(r"Device \((\w+)\)", disassemble(tables_of(bare)["DSDT"], tmp_path))
    assert devices == ["C000", "MBRD", "PCI0", "RTC", "KBD"]


@needs_acpiexec
def test_the_interpreter_reads_the_sleep_type_of_soft_off(tmp_path: Path) -> None:
    output = acpiexec("evaluate \\_S5", tmp_path)
    assert f"[Integer] = {pm.SLP_TYP_S5:016X}" in output


@needs_acpiexec
def test_the_interpreter_finds_the_bridge_windows(tmp_path: Path) -> None:
    output = acpiexec("resources \\_SB.PCI0", tmp_path)
    numbers = re.findall(r"Address (?:Minimum|Maximum) : ([0-9A-F]+)", output)
    ranges = [(int(low, 16), int(high, 16)) for low, high in zip(*[iter(numbers)] * 2, strict=True)]
    window = (layout.PCI_WINDOW, layout.PCI_WINDOW + layout.PCI_WINDOW_SIZE - 1)
    window64 = (0xC0_0000_0000, 0xFF_FFFF_FFFF)
    for expected in ((0, 0), (0, 0xCF7), (0xCF8, 0xCF8), (0xD00, 0xFFFF), window, window64):
        assert expected in ranges


@needs_acpiexec
def test_the_interpreter_finds_interrupts_in_rotation_for_all_slots(tmp_path: Path) -> None:
    output = acpiexec("resources \\_SB.PCI0", tmp_path)
    addresses = re.findall(r"^ +Address : ([0-9A-F]{16})\n +Pin : (\w+)", output, re.MULTILINE)
    gsis = re.findall(r"Source Index : (\w+)", output)
    found = {
        (int(address, 16), int(pin, 16)): int(gsi, 16)
        for (address, pin), gsi in zip(addresses, gsis[: len(addresses)], strict=True)
    }
    assert found == {
        (slot << 16 | 0xFFFF, pin): layout.PCI_INTX_GSIS[(slot + pin) % 4]
        for slot in range(32)
        for pin in range(4)
    }


PCI_UUID = "5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66"
OTHER_UUID = "00 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66"


@needs_acpiexec
@pytest.mark.parametrize(
    ("uuid", "revision", "control", "answer"),
    [
        (PCI_UUID, 1, "10 00 00 00", "00 00 00 00 1F 01 00 00 10 00 00 00"),
        (PCI_UUID, 1, "1F 00 00 00", "10 00 00 00 1F 01 00 00 10 00 00 00"),
        (PCI_UUID, 2, "10 00 00 00", "08 00 00 00 1F 01 00 00 10 00 00 00"),
        (OTHER_UUID, 1, "1F 00 00 00", "04 00 00 00 1F 01 00 00 1F 00 00 00"),
    ],
    ids=["granted", "masked", "unknown revision", "unknown UUID"],
)
def test_osc_grants_the_pcie_capability_alone(
    uuid: str, revision: int, control: str, answer: str, tmp_path: Path
) -> None:
    call = f"execute \\_SB.PCI0._OSC ({uuid}) {revision} 3 (00 00 00 00 1F 01 00 00 {control})"
    assert f"0000: {answer}" in acpiexec(call, tmp_path)
