"""The interrupt controllers of a machine that stands still, and segments, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyvmm.inspection import chips_spec as spec
from pyvmm.native import ffi
from pyvmm.value import Value


class Lapic(Value):
    """A local APIC: plain registers by name, the vectors in service, those requested, and the
    local vector table by name."""

    id: int
    version: int
    enabled: bool
    x2apic: bool
    registers: dict[str, int]
    in_service: Sequence[int]
    requested: Sequence[int]
    local: dict[str, int]
    timer: str


class Pin(Value):
    """One pin of the IOAPIC: whether its line asks, and its entry of the redirection table."""

    number: int
    asserted: bool
    entry: int

    @property
    def masked(self) -> bool:
        """Whether it is shut off."""
        return bool(self.entry & spec.MASKED)

    @property
    def vector(self) -> int:
        """The vector that a CPU gets."""
        return self.entry & spec.VECTOR

    @property
    def destination(self) -> str:
        """The CPU or CPUs that it is for."""
        to = self.entry >> spec.DESTINATION_SHIFT & spec.DESTINATION
        return f"logical {to:#x}" if self.entry & spec.LOGICAL else f"APIC {to}"


class Pic(Value):
    """One of the two 8259A: each bit is a line."""

    base: int
    requested: int
    masked: int
    in_service: int
    level: int


def lapic_of(state: Any, apic_base: int) -> Lapic:
    """Read a struct kvm_lapic_state; `apic_base` is the MSR of that name."""
    page = bytes(ffi.buffer(state.regs))

    def register(offset: int) -> int:
        return int.from_bytes(page[offset : offset + 4], "little")

    x2apic = bool(apic_base & spec.BASE_X2APIC)
    names = ("TPR", "PPR", "LDR", "DFR", "SVR", "ESR", "ICR")
    registers = {name: register(getattr(spec, name)) for name in names}
    registers["ICR"] |= register(spec.ICR_HIGH) << 32
    registers |= {
        "timer initial": register(spec.TIMER_INITIAL),
        "timer current": register(spec.TIMER_CURRENT),
        "timer divide": register(spec.TIMER_DIVIDE),
    }
    entries = (register(spec.VERSION) >> spec.MAX_LVT_SHIFT & spec.MAX_LVT) + 1
    local = {name: register(at) for name, at in list(spec.LVT.items())[:entries]}
    return Lapic(
        register(spec.ID) if x2apic else register(spec.ID) >> spec.ID_SHIFT,
        register(spec.VERSION),
        bool(apic_base & spec.BASE_ENABLED and registers["SVR"] & spec.SVR_ENABLED),
        x2apic,
        registers,
        _vectors(page, spec.ISR),
        _vectors(page, spec.IRR),
        local,
        spec.TIMER_MODES[local["timer"] >> spec.TIMER_MODE_SHIFT & 3],
    )


def _vectors(page: bytes, offset: int) -> list[int]:
    """Those whose bit is set in one of the registers of 256 bits."""
    found = []
    for vector in range(spec.VECTORS):
        word, bit = divmod(vector, spec.REGISTER_BITS)
        at = offset + word * spec.REGISTER_STRIDE + bit // 8
        if page[at] >> bit % 8 & 1:
            found.append(vector)
    return found


def pins_of(state: Any) -> list[Pin]:
    """The pins of the IOAPIC, of a struct kvm_irqchip."""
    chip = state.chip.ioapic
    return [
        Pin(number, bool(chip.irr >> number & 1), one.bits)
        for number, one in enumerate(chip.redirtbl)
    ]


def pic_of(state: Any) -> Pic:
    """One of the PICs, of a struct kvm_irqchip."""
    chip = state.chip.pic
    return Pic(chip.irq_base, chip.irr, chip.imr, chip.isr, chip.elcr)


def delivery_of(entry: int) -> str:
    """How an entry of a vector table is delivered, and what state it is in, in words."""
    words = [spec.DELIVERIES[entry >> spec.DELIVERY_SHIFT & spec.DELIVERY]]
    words.append("level" if entry & spec.LEVEL else "edge")
    if entry & spec.ACTIVE_LOW:
        words.append("active low")
    if entry & spec.SENDING:
        words.append("being sent")
    if entry & spec.REMOTE_IRR:
        words.append("not acknowledged")
    if entry & spec.MASKED:
        words.append("masked")
    return ", ".join(words)


def segment_kind(segment: Any) -> str:
    """What a struct kvm_segment describes, SDM 3A §3.4.5.1 and §3.5."""
    if segment.unusable or not segment.present:
        return "not usable"
    if not segment.s:
        return spec.SYSTEM_SEGMENTS.get(segment.type, f"system segment {segment.type}")
    if not segment.type & spec.SEGMENT_CODE:
        return "data" if segment.type & spec.SEGMENT_WRITABLE else "data, read only"
    bits = 64 if segment.l else 32 if segment.db else 16
    return f"code, {bits} bits" + (", conforming" * bool(segment.type & spec.SEGMENT_CONFORMING))
