"""ACPI power management registers: facts only, shared by the device and the FADT.

Source: ACPI 6.4 §4.8 "ACPI Register Model"; the section is at each register. Offsets are from
`layout.ACPI_PM_PORT`; every register is little-endian and may be accessed by byte, word or dword.
"""

from __future__ import annotations

from pyvmm import layout

# PM1a event register group, §4.8.3.1: a status and an enable register of half the block each.
PM1A_EVENT = 0
PM1A_EVENT_SIZE = 4
PM1_STATUS = PM1A_EVENT  # R, W1C; 16 bits, §4.8.3.1.1
PM1_ENABLE = PM1A_EVENT + PM1A_EVENT_SIZE // 2  # RW; 16 bits, §4.8.3.1.2
PM1_STATUS_SIZE = PM1_ENABLE_SIZE = PM1A_EVENT_SIZE // 2

# Bits of PM1_STATUS, tables 4.11 and 4.12 of §4.8.3.1; the same positions enable them.
TMR = 1 << 0  # the timer's most significant bit has changed
BM = 1 << 4  # status only
GBL = 1 << 5
PWRBTN = 1 << 8
SLPBTN = 1 << 9  # fixed hardware we have not (FADT: SLP_BUTTON)
RTC = 1 << 10
PCIEXP_WAKE_STS = 1 << 14
PCIEXP_WAKE_DIS = 1 << 14  # in PM1_ENABLE: disables instead of enables
WAK = 1 << 15  # status only
PM1_STATUS_BITS = TMR | GBL | PWRBTN | RTC | WAK  # those that exist here; the rest read as zero
PM1_ENABLE_BITS = TMR | GBL | PWRBTN | RTC

# PM1a control register, §4.8.3.2.1.
PM1_CONTROL = PM1A_EVENT + PM1A_EVENT_SIZE  # RW; 16 bits
PM1_CONTROL_SIZE = 2
SCI_EN = 1 << 0  # always set: SMI_CMD is 0 in the FADT, so the machine starts in ACPI mode
BM_RLD = 1 << 1
GBL_RLS = 1 << 2  # WO
SLP_TYP_SHIFT = 10
SLP_TYP_MASK = 0b111 << SLP_TYP_SHIFT
SLP_EN = 1 << 13  # WO, reads as zero: enter the state that SLP_TYP names

# Values of SLP_TYP, ours to choose: the DSDT's \_S5 object tells the guest (§7.4.2.6).
SLP_TYP_S5 = 5

# Power management timer, §4.8.3.3: RO, counts up. 24 bits, which every guest takes (Linux uses no
# more of a wider one either); the FADT's TMR_VAL_EXT flag is therefore clear.
PM_TIMER = 8
PM_TIMER_SIZE = 4
PM_TIMER_BITS = 24
PM_TIMER_HZ = 3_579_545

BLOCK_SIZE = PM_TIMER + PM_TIMER_SIZE

# Reset register, §4.8.3.6, at the port and with the bits of the PIIX and ICH reset control
# register (Intel ICH9 data sheet, §13.7.5): a hard reset when RST_CPU goes from 0 to 1.
RESET_PORT = layout.RESET_PORT
RESET_SYS_RST = 1 << 1  # hard, not soft
RESET_RST_CPU = 1 << 2  # resets on the rising edge
RESET_VALUE = RESET_SYS_RST | RESET_RST_CPU
