"""Facts of the interrupt controllers' registers, as KVM's state structures hold them.

Sources: Intel SDM volume 3A (SDM), chapter 10 (APIC); Intel 82093AA data sheet (IOAPIC);
Intel 8259A data sheet (PIC).
"""

from __future__ import annotations

# SDM table 10-1: offsets of 32-bit registers in the local APIC's page.
ID = 0x20
VERSION = 0x30
TPR = 0x80
PPR = 0xA0
LDR = 0xD0
DFR = 0xE0
SVR = 0xF0
ISR, TMR, IRR = 0x100, 0x180, 0x200  # 256 bits each, 32 in every 16 bytes
ESR = 0x280
ICR = 0x300
ICR_HIGH = 0x310
TIMER_INITIAL, TIMER_CURRENT, TIMER_DIVIDE = 0x380, 0x390, 0x3E0
LVT = {
    "timer": 0x320,
    "thermal": 0x330,
    "performance": 0x340,
    "LINT0": 0x350,
    "LINT1": 0x360,
    "error": 0x370,
    "CMCI": 0x2F0,
}
VECTORS, REGISTER_STRIDE, REGISTER_BITS = 256, 16, 32

ID_SHIFT = 24  # SDM §10.4.6; in x2APIC mode KVM keeps all 32 bits
MAX_LVT_SHIFT, MAX_LVT = 16, 0xFF  # §10.4.8, in VERSION: entries less one
SVR_ENABLED = 1 << 8  # §10.9
BASE_X2APIC, BASE_ENABLED = 1 << 10, 1 << 11  # §10.4.4, of the MSR IA32_APIC_BASE
TIMER_MODE_SHIFT = 17  # §10.5.4
TIMER_MODES = {0: "one-shot", 1: "periodic", 2: "TSC deadline", 3: "reserved"}

# SDM §10.5.1 (LVT), §10.6.1 (ICR) and 82093AA §3.2.4 (redirection table) agree in these bits.
VECTOR = 0xFF
DELIVERY_SHIFT, DELIVERY = 8, 7
DELIVERIES = ("fixed", "lowest priority", "SMI", "remote read", "NMI", "INIT", "start-up", "ExtINT")
LOGICAL = 1 << 11  # else the destination is an APIC id
SENDING = 1 << 12
ACTIVE_LOW = 1 << 13
REMOTE_IRR = 1 << 14
LEVEL = 1 << 15  # else edge-triggered
MASKED = 1 << 16
DESTINATION_SHIFT, DESTINATION = 56, 0xFF

PIC_LINES = 8

# SDM 3A tables 3-1 and 3-2: the kinds of segments and of system segments.
SEGMENT_CODE, SEGMENT_WRITABLE, SEGMENT_CONFORMING = 1 << 3, 1 << 1, 1 << 2
SYSTEM_SEGMENTS = {
    1: "TSS, 16 bits", 2: "LDT", 3: "busy TSS, 16 bits", 9: "TSS", 11: "busy TSS",
}  # fmt: skip
