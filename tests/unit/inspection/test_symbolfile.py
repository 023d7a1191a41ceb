from __future__ import annotations

import io
from itertools import pairwise

import pytest
from elftools.elf.elffile import ELFFile

from pyvmm.inspection.symbolfile import elf_file, export, map_text
from pyvmm.inspection.symbols import from_elf, from_map, table

TEXT = 0xFFFFFFFF81000000
SYMBOLS = [
    *((TEXT, "T_stext"), (TEXT + 16, "tlocal"), (TEXT + 0x1000, "Rtable"), (TEXT + 0x1010, "dx")),
    *((TEXT + 0x2000, "Tinit"), (TEXT + 0x3000, "B_end")),
]
NUMBERS = {"percpu": 0x20}


@pytest.fixture
def symbols():
    return table(SYMBOLS, NUMBERS)


def test_an_elf_file_tells_the_same_addresses_and_what_is_code(symbols):
    read = from_elf(elf_file(symbols))
    for name in ("_stext", "local", "table", "x", "init", "_end", "percpu"):
        assert read.address(name) == symbols.address(name)
    for address in range(TEXT, TEXT + 0x3000, 8):
        assert read.lookup(address) == symbols.lookup(address)
        assert read.is_code(address) == symbols.is_code(address)


def test_functions_and_data_are_told_apart_and_have_their_sizes(symbols):
    elf = ELFFile(io.BytesIO(elf_file(symbols)))
    found = {s.name: s for s in elf.get_section_by_name(".symtab").iter_symbols() if s.name}
    types = {name: s["st_info"]["type"] for name, s in found.items()}
    assert types["local"] == types["init"] == "STT_FUNC"
    assert types["table"] == types["percpu"] == "STT_OBJECT"
    assert [found[name]["st_size"] for name in ("local", "table", "x")] == [0xFF0, 16, 0xFF0]


def test_its_sections_do_not_overlap(symbols):
    elf = ELFFile(io.BytesIO(elf_file(symbols)))
    sections = [s for s in elf.iter_sections() if s["sh_addr"]]
    assert [s.name for s in sections] == [".text", ".data", ".text", ".data"]
    for one, other in pairwise(sections):
        assert one["sh_addr"] + one["sh_size"] == other["sh_addr"]


@pytest.mark.parametrize(
    ("name", "text"), [("guest.elf", False), ("System.map-6.1", True), ("guest.map", True)]
)
def test_the_name_decides_what_is_written(symbols, tmp_path, name, text):
    export(symbols, str(tmp_path / name))
    data = (tmp_path / name).read_bytes()
    assert data == (map_text(symbols) if text else elf_file(symbols))


def test_the_text_can_be_read_again(symbols, tmp_path):
    (tmp_path / "map").write_bytes(map_text(symbols))
    assert list(from_map(tmp_path / "map").items()) == list(symbols.items())


def test_names_that_are_no_ascii_do_no_harm(symbols):
    odd = table([(TEXT, "T\N{REPLACEMENT CHARACTER}"), (TEXT + 8, "Tb")], {})
    assert b"?" in map_text(odd)
    assert from_elf(elf_file(odd)).address("b") == TEXT + 8
