"""The target description, and what gdb makes of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.gdb import target, target_spec
from pyvmm.gdb.target import Target, memory_map
from pyvmm.inspection.registers import TABLE
from pyvmm.kvm.cpuid import CpuidEntry

AVX = CpuidEntry(0xD, 2, 1, 256, 576, 0, 0)


def described(*cpuid: CpuidEntry) -> Target:
    return Target(SimpleNamespace(supported_cpuid=cpuid))  # type: ignore[arg-type]


def test_every_register_is_one_of_the_monitor_s_and_fits_there() -> None:
    for one in described(AVX).registers:
        if one.source != target_spec.LINEAR_PC:
            assert one.shift < TABLE[one.source].bits <= max(64, one.shift + one.bits), one.name


def test_names_are_unique() -> None:
    names = [one.name for one in described(AVX).registers]
    assert len(set(names)) == len(names)


def test_without_avx_there_are_no_halves_of_its_registers() -> None:
    assert "ymm0h" in [one.name for one in described(AVX).registers]
    assert "ymm0h" not in [one.name for one in described().registers]
    assert "i386.avx" not in described().description()


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
@pytest.mark.parametrize("cpuid", [(), (AVX,)], ids=["sse", "avx"])
def test_gdb_has_the_registers_in_our_order_and_size(
    tmp_path: Path, cpuid: Sequence[CpuidEntry]
) -> None:
    file = tmp_path / "target.xml"
    subject = described(*cpuid)
    file.write_text(subject.description())
    commands = (f"set tdesc filename {file}", "maint print remote-registers")
    words = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(["gdb", "-nx", "-batch", *words], capture_output=True, text=True)
    assert "warning" not in done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    # Name, number, rel, offset, size, type, number and offset in the packet.
    found = {row[0]: (int(row[6]), int(row[7]), int(row[4])) for row in rows if len(row) >= 8}
    offset = 0
    for number, one in enumerate(subject.registers):
        assert found[one.name] == (number, offset, one.bits // 8)
        offset += one.bits // 8


def test_both_halves_of_the_address_space_can_be_read() -> None:
    regions = ElementTree.fromstring(memory_map())
    spans = [(int(one.get("start", ""), 16), int(one.get("length", ""), 16)) for one in regions]
    assert spans == [(0, 1 << 56), (0xFF00_0000_0000_0000, 1 << 56)]


@given(st.integers(0, 7), st.lists(st.sampled_from(range(4)), min_size=8, max_size=8))
def test_the_tag_word_is_made_of_the_numbers(top: int, tags: list[int]) -> None:
    numbers = {0: 0x3FFF_8000_0000_0000_0000, 1: 0, 2: 0x7FFF_8000_0000_0000_0000, 3: 1}
    registers = {"fsw": top << 11, "ftw": sum((tag != 3) << at for at, tag in enumerate(tags))}
    for physical, tag in enumerate(tags):
        registers[f"st{(physical - top) % 8}"] = numbers[tag]
    word = target._full_tags(registers)  # type: ignore[arg-type]
    assert [word >> 2 * at & 3 for at in range(8)] == tags
    assert target._short_tags(word) == registers["ftw"]
