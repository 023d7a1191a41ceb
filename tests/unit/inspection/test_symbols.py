from __future__ import annotations

import struct

import pytest

from pyvmm.errors import ImageError
from pyvmm.inspection.kallsyms import by_note
from pyvmm.inspection.kernel import find_kernels
from pyvmm.inspection.symbols import from_elf
from pyvmm.layout import MIB
from pyvmm.memory import GuestMemory
from tests.fakes.printk import LinuxRam

TEXT = 0xFFFFFFFF81000000
NAMES = ("startup_64", "a_" + "very_" * 30 + "long_name", "sys_read")
PLACES = ((TEXT, NAMES[0]), (TEXT + 0x100, NAMES[1]), (TEXT + 0x180, NAMES[2]))
FUNC, OBJECT = 0x12, 0x11  # global


def elf(symbols, text_size=0x200):
    """An ELF64 file: symbols are (name, value, info, section), section 1 code and 2 data."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in symbols)
    table, at = bytes(24), 1
    for name, value, info, section in symbols:
        table += struct.pack("<IBBHQQ", at, info, 0, section, value, 0)
        at += len(name) + 1
    names = b"\0.text\0.data\0.symtab\0.strtab\0"
    bodies = [b"", b"\x90" * text_size, b"", table, strings + names]
    offsets = [64 + sum(map(len, bodies[:i])) for i in range(5)]
    strtab = len(strings)
    headers = [(strtab, 0, 0, 0, 0, 0), (strtab + 1, 1, 6, TEXT, 0, 0)]
    headers += [(strtab + 7, 1, 3, TEXT + 0x10000, 0, 0), (strtab + 13, 2, 0, 0, 4, 24)]
    headers += [(strtab + 21, 3, 0, 0, 0, 0)]
    section_headers = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, flags, address, offset, len(body), link, 1, 1, size)
        for (name, kind, flags, address, link, size), offset, body in zip(
            headers, offsets, bodies, strict=True
        )
    )
    end = 64 + sum(map(len, bodies))
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, TEXT, 0, end, 0, 64, 0, 0, 64, 5, 4)
    return ident + header + b"".join(bodies) + section_headers


VMLINUX = elf([(name, at, FUNC, 1) for at, name in PLACES])


@pytest.fixture
def memory():
    memory = GuestMemory(16 * MIB)
    yield memory
    memory.close()


def kallsyms(memory, **how):
    ram = LinuxRam(memory)
    ram.place_kallsyms([*PLACES, (TEXT + 0x200, "_end")], **how)
    ram.finish()
    (kernel,) = find_kernels(memory)
    return by_note(kernel)


@pytest.fixture(params=["elf", "kallsyms", "kallsyms with percpu"])
def symbols(request, memory):
    if request.param == "elf":
        return from_elf(VMLINUX)
    return kallsyms(memory, percpu=["irq_stack", "current"] if "percpu" in request.param else [])


@pytest.mark.parametrize(
    ("offset", "name"),
    [
        (0, "startup_64+0x0/0x100"),
        (0xFF, "startup_64+0xff/0x100"),
        (0x100, f"{NAMES[1]}+0x0/0x80"),
        (0x1FF, "sys_read+0x7f/0x80"),
        (0x200, None),
        (-1, None),
    ],
)
def test_lookup_gives_the_symbol_around_an_address(symbols, offset, name):
    assert symbols.lookup(TEXT + offset) == name


def test_lookup_far_from_the_image_gives_none(symbols):
    for address in (0, 8, 0xFFF0, (1 << 64) - 1):
        assert symbols.lookup(address) is None


def test_the_kaslr_offset_moves_an_image():
    symbols = from_elf(VMLINUX).moved(0x1400000)
    assert symbols.lookup(TEXT + 0x1400000 + 4) == "startup_64+0x4/0x100"


def test_only_symbols_in_code_count():
    symbols = from_elf(
        elf([("code", TEXT, FUNC, 1), ("data", TEXT + 0x10000, OBJECT, 2), ("pcpu", 64, OBJECT, 2)])
    )
    assert symbols.lookup(TEXT + 0x10) == "code+0x10/0x200"
    assert symbols.lookup(TEXT + 0x10000) is None


def test_a_stripped_image_has_no_symbols(tmp_path):
    (tmp_path / "vmlinux").write_bytes(elf([]))
    assert from_elf(tmp_path / "vmlinux") is None


@pytest.mark.parametrize(
    "image", [b"", b"\x7fELF", VMLINUX[:80], VMLINUX[:-100], b"MZ" + bytes(512)]
)
def test_a_damaged_image_is_an_image_error(image):
    with pytest.raises(ImageError, match="The image"):
        from_elf(image)


def test_a_missing_image_is_an_image_error_that_names_it(tmp_path):
    with pytest.raises(ImageError, match="nowhere cannot be read: No such file"):
        from_elf(tmp_path / "nowhere")


def test_a_kernel_that_shows_no_table_has_no_symbols(memory):
    LinuxRam(memory).finish()
    (kernel,) = find_kernels(memory)
    assert by_note(kernel) is None


@pytest.mark.parametrize("count", [0, 1 << 21, 0xFFFFFFFF])
def test_an_impossible_table_is_refused(memory, count):
    ram = LinuxRam(memory)
    ram.place_kallsyms(PLACES)
    ram.symbols["kallsyms_num_syms"] = ram.place(struct.pack("<I", count))
    ram.finish()
    (kernel,) = find_kernels(memory)
    assert by_note(kernel) is None


def test_a_damaged_name_is_no_name(memory):
    ram = LinuxRam(memory)
    ram.place_kallsyms(PLACES)
    ram.symbols["kallsyms_names"] = ram.symbols["kallsyms_token_table"] - 1
    ram.finish()
    (kernel,) = find_kernels(memory)
    assert by_note(kernel).lookup(TEXT + 0x110) is None
