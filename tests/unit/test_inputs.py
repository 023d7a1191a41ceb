"""Magic SysRq keys go where Linux listens for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm.devices.i8042 import I8042
from pyvmm.devices.serial import Serial
from pyvmm.errors import UsageError
from pyvmm.inputs import serial_port, sysrq
from tests.fakes.lines import FakeLine
from tests.unit.devices.test_i8042 import Controller
from tests.unit.devices.test_serial import Backend, fifo_on


def board(cmdline: str, ports: int = 2) -> Any:
    serials = [Serial(f"COM{n}", FakeLine(), Backend()) for n in range(1, ports + 1)]
    for serial in serials:
        fifo_on(serial)
    controller = Controller(FakeLine())
    assert isinstance(controller.device, I8042)
    return SimpleNamespace(
        cmdline=cmdline, serials=serials, i8042=controller.device, controller=controller
    )


def received(serial: Serial) -> list[int]:
    got = []
    while serial.read(5, 1) & 1:
        got.append(serial.read(0, 1))
    return got


@pytest.mark.parametrize(
    ("cmdline", "port"),
    [("console=ttyS0 quiet", 0), ("console=hvc0 console=ttyS1,115200n8", 1)],
)
def test_a_serial_console_gets_a_break_and_the_key(cmdline: str, port: int) -> None:
    its = board(cmdline)
    sysrq(its, "w")
    assert received(its.serials[port]) == [0, ord("w")]
    assert received(its.serials[1 - port]) == []
    assert its.controller.answers() == []


@pytest.mark.parametrize(
    "cmdline", ["", "console=hvc0", "console=ttyS0 console=tty0", "console=ttyS²"]
)
def test_any_other_console_leaves_the_keyboard(cmdline: str) -> None:
    its = board(cmdline)
    sysrq(its, "B")
    assert bytes(its.controller.answers()) == bytes.fromhex("38 54 30 b0 d4 b8")
    assert received(its.serials[0]) == []


@pytest.mark.parametrize("key", ["", "ab", "-", "é", "²"])
def test_a_sysrq_key_is_a_letter_or_a_digit(key: str) -> None:
    with pytest.raises(UsageError, match="must be a letter or a digit, not"):
        sysrq(board("console=ttyS0"), key)


def test_a_serial_port_must_be_there() -> None:
    its = board("console=ttyS3")
    assert serial_port(its, 2) is its.serials[1]
    for number in (0, 3, -1):
        with pytest.raises(UsageError, match=f"COM{number} must be one of .* there are 2"):
            serial_port(its, number)
    with pytest.raises(UsageError, match="COM4 must be"):
        sysrq(its, "h")
