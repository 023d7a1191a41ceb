from __future__ import annotations

import pytest

from pyvmm.errors import ImageError, UsageError
from pyvmm.inspection import guest as module
from pyvmm.inspection.guest import Guest
from pyvmm.inspection.symbolfile import elf_file, map_text
from pyvmm.inspection.symbols import table
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.fakes.printk import KASLR, NOTE, PHYS_BASE, LinuxRam, Ring

LINKED = 0xFFFFFFFF81000000


@pytest.fixture
def memory():
    memory = GuestMemory(16 * MIB)
    yield memory
    memory.close()


def running(memory, *, told=True, kaslr=KASLR) -> LinuxRam:
    """A kernel with a table of symbols, of which a few are where they must be."""
    ram = LinuxRam(memory)
    start = LINKED + kaslr
    banner = ram.place(b"Linux version 6.1.0-test (someone)\0")
    phys_base = ram.place((PHYS_BASE % (1 << 64)).to_bytes(8, "little"))
    levels = ram.place(bytes(8))
    places = {"linux_banner": banner, "phys_base": phys_base, "__pgtable_l5_enabled": levels}
    places["init_top_pgt"] = ram.symbols["init_top_pgt"]
    many = [(start + 16 * i, f"function_{i}") for i in range(400)]
    several = sorted([(start - 16, "_text"), (start, "_stext"), *many])
    after = sorted((at, name) for name, at in places.items())
    ram.place_kallsyms(sorted([*several, *after]), ["current_task"], told=told)
    ram.symbols["_stext"] = start
    return ram


def guest_of(memory, entry=0):
    return Guest(memory, lambda: entry)


def test_the_kernel_and_its_symbols_are_found_by_the_note(memory):
    running(memory).finish()
    guest = guest_of(memory)
    assert guest.kernel.release == "6.1.0"
    assert guest.symbols.lookup(LINKED + KASLR + 20) == "function_1+0x4/0x10"
    assert guest.symbols.address("current_task") == 0
    assert guest.symbols.names("function_39") == [
        "function_39",
        *(f"function_39{i}" for i in range(10)),
    ]


def test_symbols_are_found_by_their_content_if_the_note_does_not_tell(memory):
    running(memory, told=False).finish()
    assert guest_of(memory).symbols.lookup(LINKED + KASLR) == "_stext+0x0/0x10"


def test_before_the_note_exists_the_kernel_is_found_by_its_symbols(memory):
    running(memory, told=False)
    guest = guest_of(memory)
    kernel = guest.kernel
    assert kernel.release == "6.1.0-test"
    assert kernel.kaslr_offset == KASLR
    assert not guest.found.has_note
    assert kernel.read(guest.symbols.address("linux_banner"), 13) == b"Linux version"


def test_what_was_found_is_found_again_after_a_reset(memory):
    ram = running(memory)
    ram.finish()
    guest = guest_of(memory)
    assert guest.symbols.lookup(LINKED + KASLR)
    memory.discard()
    with pytest.raises(UsageError, match="no kernel"):
        _ = guest.kernel
    with pytest.raises(UsageError, match="no symbols"):
        _ = guest.symbols
    running(memory, kaslr=0).finish()
    assert guest.symbols.lookup(LINKED) == "_stext+0x0/0x10"


def test_memory_is_searched_once_as_long_as_the_kernel_is_there(memory, monkeypatch):
    running(memory).finish()
    guest = guest_of(memory)
    assert guest.symbols is guest.symbols
    monkeypatch.setattr(module, "find_kernels", None)
    assert guest.kernel.release == "6.1.0"


def test_a_note_whose_page_tables_lead_elsewhere_is_of_a_kernel_that_is_gone(memory):
    ram = running(memory)
    memory.write(NOTE - MIB, ram.note().replace(b"phys_base)=-", b"phys_base)=-1"))
    ram.finish()
    assert [kernel.place for kernel in [guest_of(memory).kernel]] == [NOTE + 12 + 12]


FILE = [(LINKED, "T_stext"), (LINKED, "Tfunction_0"), (LINKED + 16, "Tentry_SYSCALL_64")]


def file_of(path, symbols=FILE, numbers=None, elf=False):
    found = table(symbols, numbers or {})
    path.write_bytes((elf_file if elf else map_text)(found))
    return str(path)


@pytest.mark.parametrize("elf", [True, False])
def test_symbols_of_a_file_are_where_the_guest_has_them(memory, tmp_path, elf):
    running(memory).finish()
    guest = guest_of(memory)
    guest.load_symbols(file_of(tmp_path / "System.map", elf=elf, numbers={"percpu": 32}))
    assert guest.symbols.address("entry_SYSCALL_64") == LINKED + KASLR + 16
    assert guest.symbols.address("percpu") == 32
    guest.forget_symbols()
    assert guest.symbols.address("function_2") == LINKED + KASLR + 32


def test_they_move_with_the_kernel_of_the_next_start(memory, tmp_path):
    running(memory).finish()
    guest = guest_of(memory)
    guest.load_symbols(file_of(tmp_path / "map"))
    assert guest.symbols.address("_stext") == LINKED + KASLR
    memory.discard()
    running(memory, kaslr=0).finish()
    assert guest.symbols.address("_stext") == LINKED


def test_without_a_kernel_the_cpu_tells_where_it_enters(memory, tmp_path):
    guest = guest_of(memory, entry=LINKED + 0x600000 + 16)
    guest.load_symbols(file_of(tmp_path / "map"))
    assert guest.symbols.address("_stext") == LINKED + 0x600000


def test_symbols_of_another_kernel_are_refused_and_the_old_ones_kept(memory, tmp_path):
    ram = running(memory)
    ram.symbols["init_uts_ns"] = LINKED + KASLR + 0x2000 + 4 * MIB
    ram.finish()
    guest = guest_of(memory)
    other = file_of(tmp_path / "other", [*FILE, (LINKED + 0x2000, "Dinit_uts_ns")])
    with pytest.raises(UsageError, match=r"other must be of the guest's kernel, 6\.1\.0: its symb"):
        guest.load_symbols(other)
    assert guest.source == ""
    assert guest.symbols.address("function_0") == LINKED + KASLR


def test_an_offset_that_kaslr_cannot_make_is_of_another_kernel(memory, tmp_path):
    guest = guest_of(memory, entry=LINKED + 17)
    with pytest.raises(UsageError, match="must be of the guest's kernel: its symbols"):
        guest.load_symbols(file_of(tmp_path / "map"))


@pytest.mark.parametrize(
    "content", [b"", b"MZ\x90", b"\0" * 100, b"0000000000000000 T _stext\n" * 3, b"12 what\n"]
)
def test_a_file_without_symbols_is_refused(memory, tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ImageError, match="file must have symbols"):
        guest_of(memory).load_symbols(str(tmp_path / "file"))


def test_a_missing_file_is_named(memory, tmp_path):
    with pytest.raises(ImageError, match="nowhere cannot be read: No such file"):
        guest_of(memory).load_symbols(str(tmp_path / "nowhere"))


def test_a_guest_without_types_says_what_it_lacks(memory):
    running(memory).finish()
    with pytest.raises(UsageError, match="CONFIG_DEBUG_INFO_BTF"):
        _ = guest_of(memory).tasks


def test_the_log_is_the_kernels(memory):
    ring = Ring()
    ring.add(b"hello", 5)
    ram = running(memory)
    ram.place_ring(ring)
    ram.finish()
    assert [line.text for line in guest_of(memory).log] == ["hello"]
