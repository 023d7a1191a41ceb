"""Facts about the debug registers: Intel SDM volume 3B §17.2, AMD APM volume 2 §13.1.1."""

from __future__ import annotations

DB_VECTOR, BP_VECTOR = 1, 3  # SDM 3A table 6-1
INT3, HLT = b"\xcc", b"\xf4"  # SDM 2A

REGISTERS = 4  # DR0 to DR3
DR6_HITS = (1 << REGISTERS) - 1  # B0 to B3
DR6_STEP = 1 << 14  # BS
DR6_CAUSES = DR6_HITS | 1 << 13 | DR6_STEP | 1 << 15  # BD, BT
DR7_FIXED = 1 << 10  # always set
EXECUTE, WRITE, ACCESS = 0b00, 0b01, 0b11  # the R/W field; x86 has none for reads alone
LENGTHS = {1: 0b00, 2: 0b01, 8: 0b10, 4: 0b11}  # the LEN field by bytes; addresses are aligned


def dr7_bits(register: int, access: int, length: int) -> int:
    """What DR7 has to have for one of DR0 to DR3: Gn, R/Wn and LENn."""
    return 0b10 << 2 * register | (access | LENGTHS[length] << 2) << 16 + 4 * register
