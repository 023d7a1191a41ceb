"""AML terms against the encodings that ACPI 6.4 §20.2 and §6.4 prescribe."""

from __future__ import annotations

import pytest

from pyvmm.boot.acpi import aml


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a 02"),
        (0xFF, "0a ff"),
        (0x100, "0b 00 01"),
        (0xFFFF, "0b ff ff"),
        (0x1_0000, "0c 00 00 01 00"),
        (0xFFFF_FFFF, "0c ff ff ff ff"),
        (0x1_0000_0000, "0e 00 00 00 00 01 00 00 00"),
    ],
)
def test_an_integer_takes_its_shortest_form(value: int, encoded: str) -> None:
    assert aml.integer(value) == bytes.fromhex(encoded)


@pytest.mark.parametrize(
    ("size", "prefix"),
    [
        (62, "3f"),
        (63, "41 04"),
        (4093, "4f ff"),
        (4094, "81 00 01"),
        ((1 << 20) - 4, "8f ff ff"),
        ((1 << 20) - 3, "c1 00 00 01"),
    ],
)
def test_a_package_length_counts_itself(size: int, prefix: str) -> None:
    body = bytes(size - 4)
    assert aml.scope("ABCD", body) == b"\x10" + bytes.fromhex(prefix) + b"ABCD" + body


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("PCI0", b"PCI0"),
        ("KBD", b"KBD_"),
        ("\\_SB", b"\\_SB_"),
        ("_SB.PCI0", b"\x2e_SB_PCI0"),
        ("\\_SB.PCI0.COM1", b"\\\x2f\x03_SB_PCI0COM1"),
    ],
)
def test_a_path_has_padded_segments_and_their_count(name: str, encoded: bytes) -> None:
    assert aml.path(name) == encoded


def test_an_eisa_id_is_compressed_big_endian() -> None:
    assert aml.eisa_id("PNP0A03") == bytes.fromhex("0c 41 d0 0a 03")


def test_the_first_three_groups_of_a_uuid_are_little_endian() -> None:
    encoded = bytes.fromhex("11 13 0a 10 33221100 5544 7766 8899 aabbccddeeff")
    assert aml.uuid("00112233-4455-6677-8899-aabbccddeeff") == encoded


def test_a_resource_template_ends_with_its_tag() -> None:
    template = aml.resource_template(aml.io(0x60, 1), aml.irq(1))
    assert template == bytes.fromhex("11 10 0a 0d 47 01 6000 6000 01 01 22 0200 79 00")


def test_a_window_says_its_last_address_and_its_length() -> None:
    encoded = "8a 2b00 00 0c 01 0000000000000000 0000000001000000 ffffff3f01000000"
    encoded += "0000000000000000 0000004000000000"
    assert aml.memory_window64(0x1_0000_0000, 0x4000_0000) == bytes.fromhex(encoded)
