from __future__ import annotations

import pytest

from pyvmm.inspection import chips
from pyvmm.inspection import chips_spec as spec
from pyvmm.native import ffi

ENABLED = spec.BASE_ENABLED


def lapic(*registers):
    state = ffi.new("struct kvm_lapic_state *")
    page = ffi.buffer(state.regs)
    for offset, value in ((spec.VERSION, 0x5_0014), *registers):
        page[offset : offset + 4] = value.to_bytes(4, "little")
    return state


def test_the_local_APIC_is_read_at_the_manuals_offsets():
    state = lapic(
        (0x20, 3 << 24),
        (0xF0, 0x1FF),
        (0x110, 1 << 4),  # ISR, bits 32 to 63
        (0x200, 1 << 31),  # IRR, bits 0 to 31
        (0x270, 1 << 31),  # and its last
        (0x320, 1 << 17 | 0xEC),
        (0x310, 0x200_0000),
        (0x300, 0xFD),
    )
    apic = chips.lapic_of(state, ENABLED)
    assert (apic.id, apic.enabled, apic.x2apic) == (3, True, False)
    assert apic.in_service == [36]
    assert apic.requested == [31, 255]
    assert apic.timer == "periodic"
    assert apic.local["timer"] & spec.VECTOR == 0xEC
    assert apic.registers["ICR"] == 0x0200_0000_0000_00FD
    assert "CMCI" not in apic.local  # its version says six entries


def test_an_x2APIC_has_an_id_of_32_bits():
    assert chips.lapic_of(lapic((0x20, 0x105)), ENABLED | spec.BASE_X2APIC).id == 0x105


@pytest.mark.parametrize(("svr", "base"), [(0xFF, ENABLED), (0x1FF, 0)])
def test_an_APIC_is_enabled_by_its_register_and_the_MSR(svr, base):
    assert not chips.lapic_of(lapic((0xF0, svr)), base).enabled


def test_a_pin_of_the_IOAPIC_says_where_it_goes():
    state = ffi.new("struct kvm_irqchip *")
    state.chip.ioapic.irr = 1 << 9
    state.chip.ioapic.redirtbl[9].bits = 1 << 56 | spec.LEVEL | spec.ACTIVE_LOW | 0x29
    state.chip.ioapic.redirtbl[4].bits = 3 << 56 | spec.LOGICAL | spec.MASKED
    pins = chips.pins_of(state)
    assert len(pins) == 24
    assert (pins[9].vector, pins[9].asserted, pins[9].masked) == (0x29, True, False)
    assert (pins[9].destination, pins[4].destination) == ("APIC 1", "logical 0x3")
    assert chips.delivery_of(pins[9].entry) == "fixed, level, active low"
    assert pins[4].masked


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (7 << 8, "ExtINT, edge"),
        (4 << 8 | spec.MASKED, "NMI, edge, masked"),
        (spec.LEVEL | spec.REMOTE_IRR | spec.SENDING, "fixed, level, being sent, not acknowledged"),
    ],
)
def test_a_delivery_is_put_in_words(entry, words):
    assert chips.delivery_of(entry) == words


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"present": 1, "s": 1, "type": 0xB, "l": 1}, "code, 64 bits"),
        ({"present": 1, "s": 1, "type": 0xF, "db": 1}, "code, 32 bits, conforming"),
        ({"present": 1, "s": 1, "type": 3}, "data"),
        ({"present": 1, "s": 1, "type": 1}, "data, read only"),
        ({"present": 1, "type": 11}, "busy TSS"),
        ({"present": 1, "type": 12}, "system segment 12"),
        ({"present": 1, "unusable": 1}, "not usable"),
        ({}, "not usable"),
    ],
)
def test_a_segment_is_put_in_words(fields, words):
    assert chips.segment_kind(ffi.new("struct kvm_segment *", fields)[0]) == words
