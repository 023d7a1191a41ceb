"""Facts of the i8042 keyboard controller and an AT keyboard.

Sources: IBM, PS/2 Hardware Interface Technical Reference (1990), "Keyboard and Auxiliary Device
Controller" and "Keyboards (101- and 102-key)"; Microsoft, Keyboard Scan Code Specification 1.3a
(2000), for the translation of scan codes.
"""

from __future__ import annotations

# Ports, as offsets of the device.
DATA = 0  # RW: the output buffer, the input buffer
COMMAND = 4  # WO
STATUS = 4  # RO

# Status register.
STATUS_OBF = 0x01  # the output buffer holds a byte for the processor
STATUS_SYSTEM = 0x04  # the self-test has passed
STATUS_COMMAND = 0x08  # the last write was to COMMAND
STATUS_UNLOCKED = 0x10  # the keyboard lock is open

# Controller configuration byte.
CONFIG_KEYBOARD_INTERRUPT = 0x01
CONFIG_SYSTEM = 0x04  # copied to STATUS_SYSTEM
CONFIG_KEYBOARD_OFF = 0x10
CONFIG_AUX_OFF = 0x20  # stuck: there is no auxiliary port
CONFIG_TRANSLATE = 0x40  # scan code set 2 to set 1
CONFIG_AT_RESET = CONFIG_TRANSLATE | CONFIG_AUX_OFF | CONFIG_SYSTEM | CONFIG_KEYBOARD_INTERRUPT

# Controller commands.
READ_CONFIG = 0x20
WRITE_CONFIG = 0x60
AUX_TEST = 0xA9
SELF_TEST = 0xAA
KEYBOARD_TEST = 0xAB
KEYBOARD_DISABLE = 0xAD
KEYBOARD_ENABLE = 0xAE
READ_INPUT_PORT = 0xC0
READ_OUTPUT_PORT = 0xD0
WRITE_OUTPUT_PORT = 0xD1
WRITE_OUTPUT_BUFFER = 0xD2
WRITE_AUX_OUTPUT_BUFFER = 0xD3
WRITE_AUX = 0xD4
A20_OFF = 0xDD  # a PC's: output port as a command
A20_ON = 0xDF
TEST_INPUTS = 0xE0
PULSE_OUTPUT_PORT = 0xF0  # to 0xFF: bits 0 to 3 that are clear are pulsed low
COMMANDS_WITH_DATA = (
    WRITE_CONFIG,
    WRITE_OUTPUT_PORT,
    WRITE_OUTPUT_BUFFER,
    WRITE_AUX_OUTPUT_BUFFER,
    WRITE_AUX,
)

# Their answers.
SELF_TEST_PASSED = 0x55
KEYBOARD_TEST_PASSED = 0x00
AUX_TEST_CLOCK_LOW = 0x01  # what an unconnected port's test finds
INPUT_PORT = 0x80  # keyboard not locked
TEST_INPUTS_IDLE = 0x00

# Output port.
OUTPUT_NOT_RESET = 0x01  # low resets the processor
OUTPUT_A20 = 0x02
OUTPUT_OBF = 0x10  # drives the keyboard's interrupt line
OUTPUT_AT_RESET = OUTPUT_NOT_RESET | OUTPUT_A20

# Keyboard commands.
SET_LEDS = 0xED  # + lights
ECHO = 0xEE
SCAN_SET = 0xF0  # + set, 0 asks
READ_ID = 0xF2
SET_RATE = 0xF3  # + rate
ENABLE = 0xF4
DEFAULT_DISABLE = 0xF5
SET_DEFAULT = 0xF6
SET_ALL_KEYS = range(0xF7, 0xFB)
SET_KEY = range(0xFB, 0xFE)  # + key
RESEND = 0xFE
RESET = 0xFF
WITH_PARAMETER = (SET_LEDS, SCAN_SET, SET_RATE, *SET_KEY)
ACKNOWLEDGED = (*WITH_PARAMETER, ENABLE, DEFAULT_DISABLE, SET_DEFAULT, *SET_ALL_KEYS)

# Keyboard answers.
ACK = 0xFA
PLEASE_RESEND = 0xFE
BAT_PASSED = 0xAA
ID = (0xAB, 0x83)
SCAN_SETS = (1, 2)  # those that this one has
SCAN_SET_DEFAULT = 2

# Scan codes. In set 1 a key's release is its code with this bit, in set 2 its code after BREAK_2.
RELEASED_1 = 0x80
BREAK_2 = 0xF0
# The codes of set 2 by those of set 1, 0x00 to 0x7F: the controller's translation, backwards.
SET_2 = bytes.fromhex(
    "0076161e26252e363d3e46454e55660d"
    "151d242d2c353c43444d545b5a141c1b"
    "232b34333b424b4c520e125d1a22212a"
    "32313a41494a597c1129580506040c03"
    "0b830a0109777e6c757d7b6b73747969"
    "727a707184606178070f171f272f373f"
    "474f565e08101820283038404850576f"
    "13193951535c5f6263646567686a6d6e"
)
TRANSLATION = {code: index for index, code in enumerate(SET_2) if code}
KEYBOARD_BUFFER = 1024  # bytes, ours: a keyboard has 16, but programs type faster than people
