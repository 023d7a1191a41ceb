"""What a person does at a machine's keyboard and serial lines. Any thread."""

from __future__ import annotations

from pyvmm.board import Board
from pyvmm.devices.serial import Serial
from pyvmm.errors import UsageError

CONSOLE, SERIAL = "console=", "ttyS"  # Linux: admin-guide/serial-console.rst


def serial_port(board: Board, number: int) -> Serial:
    """COM`number`. Raises UsageError if there is none."""
    count = len(board.serials)
    if not 1 <= number <= count:
        raise UsageError(f"COM{number} must be one of the serial ports, of which there are {count}")
    port: Serial = board.serials[number - 1]
    return port


def sysrq(board: Board, key: str) -> None:
    """See Machine.sysrq (Linux: admin-guide/sysrq.rst)."""
    if len(key) != 1 or not (key.isascii() and key.isalnum()):
        raise UsageError(f"A SysRq key must be a letter or a digit, not {key!r}")
    consoles = [word for word in board.cmdline.split() if word.startswith(CONSOLE)]
    name = consoles[-1].removeprefix(CONSOLE).partition(",")[0] if consoles else ""
    number = name.removeprefix(SERIAL)
    if name.startswith(SERIAL) and number.isdecimal():
        serial_port(board, int(number) + 1).send_break(key.encode())
    else:
        board.i8042.press(["alt", "sysrq", key.lower()])
