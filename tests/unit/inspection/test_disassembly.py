from __future__ import annotations

import sys

import pytest

from pyvmm.errors import HostError
from pyvmm.inspection.disassembly import disassemble

pytest.importorskip("capstone")
NAMES = {0x1000: "start", 0x2008: "data+0x8"}


def texts(code, address=0x1000, bits=64):
    return [one.text for one in disassemble(bytes.fromhex(code), address, bits, NAMES.get)]


@pytest.mark.parametrize(
    ("bits", "text"), [(16, "mov ax, 1"), (32, "mov eax, 0x90900001"), (64, "mov eax, 0x90900001")]
)
def test_the_width_of_the_code_counts(bits, text):
    assert texts("b8 01 00 90 90", bits=bits)[0] == text


def test_a_branch_names_its_target():
    assert texts("eb fe e8 f9 ff ff ff") == ["jmp 0x1000 <start>", "call 0x1000 <start>"]
    assert texts("eb 00") == ["jmp 0x1002"]


def test_an_operand_relative_to_RIP_shows_its_address_and_name():
    assert texts("48 8b 05 01 10 00 00") == [
        "mov rax, qword ptr [rip + 0x1001]  # 0x2008 <data+0x8>"
    ]
    assert texts("48 8b 05 f9 ff ff ff") == ["mov rax, qword ptr [rip - 7]  # 0x1000 <start>"]
    assert texts("48 8b 05 00 00 00 00") == ["mov rax, qword ptr [rip]  # 0x1007"]


def test_a_number_that_is_no_address_gets_no_name():
    assert texts("b8 00 10 00 00") == ["mov eax, 0x1000"]


def test_what_is_no_instruction_is_bytes_and_the_rest_goes_on():
    assert texts("06 90 0f") == [".byte 0x06", "nop", ".byte 0x0f"]


def test_instructions_across_the_decoders_pieces_are_whole():
    code = b"\x48\xb8" + bytes(8)  # 10 bytes: mov rax, imm64
    found = list(disassemble(code * 100, 0, 64, NAMES.get))
    assert [one.address for one in found] == list(range(0, 1000, 10))
    assert {one.text for one in found} == {"movabs rax, 0"}


def test_without_capstone_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "capstone", None)
    with pytest.raises(HostError, match=r"pip install 'pyvmm\[disassembly\]'"):
        texts("90")
