from __future__ import annotations

from itertools import pairwise

import pytest

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


def test_its_sections_do_not_overlap(symbols):
    import io

    from elftools.elf.elffile import ELFFile

    sections = [s for s in ELFFile(io.BytesIO(elf_file(symbols))).iter_sections() if s["sh_addr"]]
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
