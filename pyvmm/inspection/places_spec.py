"""What KVM's own chips answer: no claim of a bus has it.

Sources: Linux 6.1, arch/x86/kvm/i8259.c and i8254.c; sizes in ports and bytes.
"""

from __future__ import annotations

from pyvmm import layout

PORTS = (
    (0x20, 2, "PIC 1"),
    (0x40, 4, "PIT"),
    (0x61, 1, "speaker and PIT channel 2"),
    (0xA0, 2, "PIC 2"),
    (0x4D0, 2, "edge and level registers of the PICs"),
)
MEMORY = (
    (layout.IOAPIC, 0x100, "IOAPIC"),
    (layout.LOCAL_APIC, layout.PAGE, "local APIC"),
    (layout.IDENTITY_MAP, layout.PAGE, "identity map, of Intel hosts"),
    (layout.TSS, 3 * layout.PAGE, "TSS, of Intel hosts"),
)
PIT_GSI, CASCADE_GSI = 0, 2  # the PIT's line; of the PICs the one that joins them
ALL_PORTS = 1 << 16
