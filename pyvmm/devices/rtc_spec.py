"""Facts of the MC146818A real-time clock: Motorola data sheet (1984), and a PC's use of it.

Registers are reached through two ports: the index, then the data.
"""

from __future__ import annotations

PORTS = 2
INDEX = 0  # WO; bit 7 masks NMIs on a PC, the rest selects a register
DATA = 1  # RW
INDEX_MASK = 0x7F

# Figure 14, address map.
SECONDS = 0x00
SECONDS_ALARM = 0x01
MINUTES = 0x02
MINUTES_ALARM = 0x03
HOURS = 0x04
HOURS_ALARM = 0x05
DAY_OF_WEEK = 0x06  # 1 is Sunday
DATE_OF_MONTH = 0x07
MONTH = 0x08
YEAR = 0x09
REGISTER_A = 0x0A  # RW, bit 7 RO
REGISTER_B = 0x0B  # RW
REGISTER_C = 0x0C  # RO; reading it clears it
REGISTER_D = 0x0D  # RO
CENTURY = 0x32  # a PC's, always BCD; ACPI 6.4 §5.2.9 FADT: the CENTURY field holds this index
TIME = (SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DATE_OF_MONTH, MONTH, YEAR, CENTURY)
SIZE = 0x80

# Register A.
A_UIP = 0x80  # an update begins within 244 microseconds, or is being made
A_DV_MASK = 0x70
A_DV_RUN = 0x20  # the divider for a 32,768 Hz crystal; any other value stops the clock
A_RS_MASK = 0x0F
A_AT_RESET = A_DV_RUN | 0x06  # 1024 Hz, as a PC's firmware leaves it

# Register B.
B_SET = 0x80  # no updates: the program sets the time
B_PIE = 0x40
B_AIE = 0x20
B_UIE = 0x10
B_DM = 0x04  # binary, not BCD
B_24H = 0x02
B_CLEARED_BY_RESET = 0x78  # the three enables and SQWE
B_AT_RESET = B_24H

# Register C; its flags have the positions of register B's enables.
C_IRQF = 0x80
C_PF = B_PIE
C_AF = B_AIE
C_UF = B_UIE
FLAGS = (C_PF, C_AF, C_UF)

# Register D.
D_VRT = 0x80  # the battery is good

HOUR_PM = 0x80  # in 12-hour mode
ALARM_ANY = 0xC0  # both bits set in an alarm byte: it matches all values

NANOSECOND = 1_000_000_000  # per second
UIP_BEFORE_UPDATE = 244_000  # ns, table 6: t_BUC
FIRST_UPDATE = NANOSECOND // 2  # ns after the divider starts, §"Divider control"
CRYSTAL_HZ = 32_768


def period(rate_select: int) -> int:
    """Nanoseconds between periodic interrupts, table 5; 0 is never. Two rates exist twice."""
    if rate_select == 0:
        return 0
    steps = rate_select + 7 if rate_select <= 2 else rate_select
    return (NANOSECOND << steps - 1) // CRYSTAL_HZ
