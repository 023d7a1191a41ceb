"""i8042 and its keyboard: what drivers ask when they probe, and the reset line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.bus import Bus
from pyvmm.devices import i8042_spec as spec
from pyvmm.devices.i8042 import I8042
from pyvmm.devices.keyboard_spec import KEYS
from pyvmm.errors import UsageError
from tests.fakes.lines import FakeLine


class Controller:
    """The controller behind a bus, driven as Linux's i8042.c does."""

    def __init__(self, line: FakeLine) -> None:
        self.resets = 0
        self.line = line
        self.device = I8042("i8042", line, self.reset)
        self.bus = Bus("pio")
        self.bus.claim(0x60, 1, self.device, offset=spec.DATA)
        self.bus.claim(0x64, 1, self.device, offset=spec.COMMAND)

    def reset(self) -> None:
        self.resets += 1

    @property
    def status(self) -> int:
        return self.bus.read(0x64, 1)

    def data(self) -> int:
        assert self.status & 0x01, "a driver would wait for a time-out"
        return self.bus.read(0x60, 1)

    def answers(self) -> list[int]:
        answers = []
        while self.status & 0x01:
            answers.append(self.data())
        return answers

    def command(self, value: int, *parameters: int) -> None:
        self.bus.write(0x64, 1, value)
        for parameter in parameters:
            assert not self.status & 0x02
            self.bus.write(0x60, 1, parameter)

    def keyboard(self, *values: int) -> list[int]:
        answers = []
        for value in values:
            self.bus.write(0x60, 1, value)
            answers += self.answers()
        return answers


@pytest.fixture
def ctl(line: FakeLine) -> Controller:
    return Controller(line)


def test_status_at_reset_is_unlocked_and_empty(ctl: Controller) -> None:
    assert ctl.status == 0x14


def test_status_tells_commands_from_data(ctl: Controller) -> None:
    ctl.command(0xAE)
    assert ctl.status & 0x08
    ctl.bus.write(0x60, 1, 0xEE)
    assert not ctl.status & 0x08


@pytest.mark.parametrize(
    ("command", "answer"), [(0xAA, 0x55), (0xAB, 0x00), (0xC0, 0x80), (0xD0, 0x03), (0xE0, 0x00)]
)
def test_commands_that_answer(ctl: Controller, command: int, answer: int) -> None:
    ctl.command(command)
    assert ctl.answers() == [answer]


def test_configuration_byte_reads_back(ctl: Controller) -> None:
    ctl.command(0x20)
    assert ctl.data() == 0x65
    ctl.command(0x60, 0x74)
    ctl.command(0x20)
    assert ctl.data() == 0x74
    assert ctl.status & 0x04


def test_linux_finds_no_auxiliary_port_without_waiting(ctl: Controller) -> None:
    ctl.command(0xD3, 0x5A)
    assert ctl.status & 0x21 == 0x01  # an answer, but not from an auxiliary port
    ctl.command(0xA9)  # without reading it, as Linux does
    assert ctl.data() not in (0x00, 0xFA, 0xFF)
    assert ctl.answers() == []


def test_auxiliary_port_cannot_be_enabled(ctl: Controller) -> None:
    ctl.command(0xA8)
    ctl.command(0x20)
    assert ctl.data() & 0x20
    ctl.command(0x60, 0x45)
    ctl.command(0x20)
    assert ctl.data() & 0x20
    ctl.command(0xD4, 0xF2)
    assert ctl.answers() == []


def test_linux_atkbd_probe_gets_every_answer(ctl: Controller) -> None:
    assert ctl.keyboard(0xF2) == [0xFA, 0xAB, 0x41]
    assert ctl.keyboard(0xF5) == [0xFA]
    assert ctl.keyboard(0xED, 0x00) == [0xFA, 0xFA]
    assert ctl.keyboard(0xF3, 0x00) == [0xFA, 0xFA]
    assert ctl.keyboard(0xF4) == [0xFA]
    assert ctl.keyboard(0xFF) == [0xFA, 0xAA]


def test_keyboard_identity_is_not_translated_if_translation_is_off(ctl: Controller) -> None:
    ctl.command(0x60, 0x05)
    assert ctl.keyboard(0xF2) == [0xFA, 0xAB, 0x83]


def test_scan_set_is_kept_and_told(ctl: Controller) -> None:
    ctl.command(0x60, 0x05)
    assert ctl.keyboard(0xF0, 0) == [0xFA, 0xFA, 2]
    assert ctl.keyboard(0xF0, 1) == [0xFA, 0xFA]
    assert ctl.keyboard(0xF0, 3) == [0xFA, 0xFE]  # there is no such
    assert ctl.keyboard(0xF0, 0) == [0xFA, 0xFA, 1]


def test_echo_resend_and_unknown_commands(ctl: Controller) -> None:
    assert ctl.keyboard(0xEE) == [0xEE]
    assert ctl.keyboard(0xFE) == [0xEE]
    assert ctl.keyboard(0x01) == [0xFE]


def test_every_byte_of_the_keyboard_is_an_edge_of_irq_1(ctl: Controller) -> None:
    ctl.bus.write(0x60, 1, 0xF2)
    assert ctl.answers() == [0xFA, 0xAB, 0x41]
    assert ctl.line.edges == 3
    assert not ctl.line.level


def test_no_interrupt_while_it_is_not_enabled(ctl: Controller) -> None:
    ctl.command(0x60, 0x44)
    ctl.bus.write(0x60, 1, 0xEE)
    assert not ctl.line.level
    ctl.command(0x60, 0x45)
    assert ctl.line.level


def test_a_disabled_keyboard_keeps_its_bytes_until_it_is_enabled(ctl: Controller) -> None:
    ctl.command(0xAD)
    ctl.device.press(["a"])
    assert ctl.answers() == []
    ctl.command(0xAE)
    assert ctl.answers() == [0x1E, 0x9E]


def test_an_answer_of_the_controller_loses_no_key(ctl: Controller) -> None:
    ctl.device.press(["a"])
    ctl.command(0x20)
    assert ctl.answers() == [0x65, 0x1E, 0x9E]


TRANSLATED, SET_2, SET_1 = "translated", "set 2", "set 1"


@pytest.mark.parametrize(
    ("how", "keys", "codes"),
    [
        (TRANSLATED, "ctrl-alt-delete", "1d 38 e053 e0d3 b8 9d"),
        (SET_2, "ctrl-alt-delete", "14 11 e071 e0f071 f011 f014"),
        (SET_1, "ctrl-alt-delete", "1d 38 e053 e0d3 b8 9d"),
        (TRANSLATED, "f7", "41 c1"),
        (SET_2, "f7", "83 f083"),
        (TRANSLATED, "alt-sysrq", "38 54 d4 b8"),
        (SET_2, "alt-sysrq", "11 84 f084 f011"),
        (TRANSLATED, "pause", "e11d45 e19dc5"),
        (SET_2, "pause", "e11477 e1f014f077"),
        (TRANSLATED, "shift-1", "2a 02 82 aa"),
        (SET_2, "ret", "5a f05a"),
    ],
)
def test_keys_are_pressed_in_order_and_released_backwards(
    ctl: Controller, how: str, keys: str, codes: str
) -> None:
    if how != TRANSLATED:
        ctl.command(0x60, 0x05)
    if how == SET_1:
        ctl.keyboard(0xF0, 1)
    ctl.device.press(keys.split("-"))
    assert bytes(ctl.answers()) == bytes.fromhex(codes)


def test_every_key_has_codes_of_its_own() -> None:
    codes = set()
    for name in KEYS:
        ctl = Controller(FakeLine())
        ctl.device.press([name])
        codes.add(bytes(ctl.answers()))
    assert len(codes) == len(KEYS) == 102 + 4  # with the later three of Windows, and SysRq alone


def test_keys_are_taken_whole_or_not_at_all(ctl: Controller) -> None:
    ctl.device.press(["a"])
    with pytest.raises(UsageError, match="must read its keyboard"):
        ctl.device.press(["b"] * 400)
    with pytest.raises(UsageError, match="not 'delet'"):
        ctl.device.press(["b", "delet"])
    assert ctl.answers() == [0x1E, 0x9E]
    ctl.keyboard(0xF5)
    with pytest.raises(UsageError, match="must read its keyboard"):
        ctl.device.press(["a"])
    ctl.keyboard(0xF4)
    ctl.device.press(["a"])
    assert ctl.answers() == [0x1E, 0x9E]


@pytest.mark.parametrize("command", [0xFE, 0xF0, 0xFA])
def test_pulsing_the_reset_line_resets(ctl: Controller, command: int) -> None:
    ctl.command(command)
    assert ctl.resets == 1


def test_pulsing_other_lines_does_not_reset(ctl: Controller) -> None:
    for command in (0xF1, 0xFD, 0xFF):
        ctl.command(command)
    assert ctl.resets == 0


def test_output_port_has_the_reset_line_and_a20(ctl: Controller) -> None:
    ctl.command(0xD1, 0x01)
    ctl.command(0xD0)
    assert ctl.data() == 0x01
    ctl.command(0xDF)
    ctl.command(0xD0)
    assert ctl.data() == 0x03
    assert ctl.resets == 0
    ctl.command(0xD1, 0x02)
    assert ctl.resets == 1


def test_a_command_takes_the_place_of_one_that_waits_for_data(ctl: Controller) -> None:
    ctl.command(0x60)
    ctl.command(0xAE)
    assert ctl.keyboard(0xEE) == [0xEE]


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 255)), max_size=200))
def test_any_access_is_answered_with_a_byte(accesses: list[tuple[bool, bool, int]]) -> None:
    ctl = Controller(FakeLine())
    for is_write, is_data, value in accesses:
        port = 0x60 if is_data else 0x64
        if is_write:
            ctl.bus.write(port, 1, value)
        else:
            assert 0 <= ctl.bus.read(port, 1) <= 0xFF
        assert ctl.status & 0x22 == 0
    assert len(ctl.answers()) <= 18
