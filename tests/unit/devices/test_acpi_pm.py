"""ACPI 6.4 §4.8: PM1a registers, the PM timer and what they interrupt for."""

from __future__ import annotations

import pytest

from pyvmm.bus import Bus
from pyvmm.devices import acpi_pm_spec as spec
from pyvmm.devices.acpi_pm import AcpiPm
from tests.fakes.lines import FakeLine, FakeTimers, FakeWindow

STATUS, ENABLE, CONTROL, TIMER = 0x600, 0x602, 0x604, 0x608
PWRBTN = 0x100


class Pm:
    def __init__(self, line: FakeLine, timers: FakeTimers) -> None:
        self.ends = 0
        self.device = AcpiPm("PM", line, timers, self.power_off)
        self.bus = Bus("pio")
        self.device.window = self.bus.claim(0x600, spec.BLOCK_SIZE, self.device, width=4)

    def power_off(self) -> None:
        self.ends += 1

    def inw(self, port: int) -> int:
        return self.bus.read(port, 2)

    def outw(self, port: int, value: int) -> None:
        self.bus.write(port, 2, value)


@pytest.fixture
def pm(line: FakeLine, timers: FakeTimers) -> Pm:
    return Pm(line, timers)


def test_reset_state_is_acpi_mode_without_events(pm: Pm) -> None:
    assert (pm.inw(STATUS), pm.inw(ENABLE), pm.inw(CONTROL)) == (0, 0, 1)


def test_power_button_raises_the_sci_until_its_status_is_cleared(pm: Pm, line: FakeLine) -> None:
    pm.outw(ENABLE, PWRBTN)
    pm.device.power_button()
    assert pm.inw(STATUS) == PWRBTN
    assert line.level
    pm.outw(STATUS, PWRBTN)
    assert pm.inw(STATUS) == 0
    assert not line.level


def test_a_button_pressed_before_it_is_enabled_is_not_forgotten(pm: Pm, line: FakeLine) -> None:
    pm.device.power_button()
    assert not line.level
    pm.outw(ENABLE, PWRBTN)
    assert line.level


def test_writing_zero_to_status_clears_nothing(pm: Pm) -> None:
    pm.device.power_button()
    pm.outw(STATUS, 0)
    pm.bus.write(STATUS, 1, 0xFF)  # the other byte
    assert pm.inw(STATUS) == PWRBTN
    pm.bus.write(STATUS + 1, 1, 0x01)
    assert pm.inw(STATUS) == 0


def test_one_dword_reaches_status_and_enable(pm: Pm, line: FakeLine) -> None:
    pm.device.power_button()
    pm.bus.write(STATUS, 4, PWRBTN << 16)
    assert pm.bus.read(STATUS, 4) == PWRBTN << 16 | PWRBTN
    assert line.level


def test_enable_keeps_only_events_that_exist(pm: Pm) -> None:
    pm.outw(ENABLE, 0xFFFF)
    assert pm.inw(ENABLE) == spec.PM1_ENABLE_BITS


def test_sci_en_reads_as_set_and_slp_en_as_clear(pm: Pm) -> None:
    pm.outw(CONTROL, 0)
    assert pm.inw(CONTROL) == 0x0001
    pm.outw(CONTROL, 3 << 10 | 0x2000)
    assert pm.inw(CONTROL) == 3 << 10 | 1


def test_sleeping_with_s5s_type_powers_off(pm: Pm) -> None:
    pm.outw(CONTROL, spec.SLP_TYP_S5 << 10)
    assert pm.ends == 0
    pm.outw(CONTROL, spec.SLP_TYP_S5 << 10 | 0x2000)
    assert pm.ends == 1


def test_other_sleep_types_do_nothing(pm: Pm) -> None:
    for sleep_type in set(range(8)) - {spec.SLP_TYP_S5}:
        pm.outw(CONTROL, sleep_type << 10 | 0x2000)
    assert pm.ends == 0


def test_timer_counts_at_3_579545_mhz_and_wraps_at_24_bits(pm: Pm, timers: FakeTimers) -> None:
    for seconds in (0, 1, 4.6, 1000):
        timers.advance(seconds)
        assert pm.bus.read(TIMER, 4) == int(timers.time * 3_579_545) % 2**24


def test_timer_is_published_with_the_same_formula(pm: Pm) -> None:
    window = pm.device.window = FakeWindow()
    pm.device.reset()
    assert window.counters == {8: (4, 3_579_545, 24)}


def test_timer_registers_take_no_writes(pm: Pm, timers: FakeTimers) -> None:
    pm.bus.write(TIMER, 4, 0)
    assert pm.bus.read(TIMER, 4) == int(timers.time * 3_579_545) % 2**24


def test_tmr_sts_is_set_whenever_the_top_bit_changes(pm: Pm, timers: FakeTimers) -> None:
    half = 2**23 / 3_579_545
    timers.advance(half)
    assert pm.inw(STATUS) == 1
    pm.outw(STATUS, 1)
    assert pm.inw(STATUS) == 0
    timers.advance(half)
    assert pm.inw(STATUS) == 1
    assert timers.armed == 0


def test_tmr_en_raises_the_sci_by_one_timer(pm: Pm, timers: FakeTimers, line: FakeLine) -> None:
    pm.outw(ENABLE, 1)
    top_bit = pm.bus.read(TIMER, 4) >> 23
    timers.advance(2**23 / 3_579_545 + 0.001)
    assert pm.bus.read(TIMER, 4) >> 23 != top_bit
    assert line.level
    timers.advance(100)  # not acknowledged
    assert timers.calls == 1
    pm.outw(STATUS, 1)
    assert not line.level
    timers.advance(2**23 / 3_579_545 + 0.001)
    assert line.level


def test_reset_clears_events_and_the_sci(pm: Pm, line: FakeLine) -> None:
    pm.outw(ENABLE, PWRBTN | 1)
    pm.device.power_button()
    pm.device.reset()
    assert not line.level
    assert (pm.inw(STATUS), pm.inw(ENABLE)) == (0, 0)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_access_inside_the_block_is_answered(pm: Pm, size: int) -> None:
    for port in range(0x600, 0x600 + spec.BLOCK_SIZE, size):
        pm.bus.write(port, size, 0)
        assert 0 <= pm.bus.read(port, size) < 1 << 8 * size
