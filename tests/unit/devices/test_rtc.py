"""MC146818A against its data sheet: registers, time, and when each interrupt comes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyvmm.bus import Bus
from pyvmm.devices import rtc_spec as spec
from pyvmm.devices.rtc import Rtc
from tests.fakes.lines import FakeLine, FakeTimers

A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
NS = 10**9


def at(text: str, nanoseconds: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS + nanoseconds


class Chip:
    """The clock behind a bus, as a guest has it."""

    def __init__(self, now: int) -> None:
        self.line = FakeLine()
        self.timers = FakeTimers(now)
        self.rtc = Rtc("RTC", self.line, self.timers, self.timers.wall)
        self.bus = Bus("pio")
        self.rtc.window = self.bus.claim(0x70, spec.PORTS, self.rtc)

    def __getitem__(self, index: int) -> int:
        self.bus.write(0x70, 1, index)
        return self.bus.read(0x71, 1)

    def __setitem__(self, index: int, value: int) -> None:
        self.bus.write(0x70, 1, index)
        self.bus.write(0x71, 1, value)

    def time(self) -> list[int]:
        """Century, year, month, day, hours, minutes, seconds, as the registers have them."""
        return [self[index] for index in (0x32, 9, 8, 7, 4, 2, 0)]

    def set_time(self, values: list[int]) -> None:
        for index, value in zip((0x32, 9, 8, 7, 4, 2, 0), values, strict=True):
            self[index] = value


@pytest.fixture
def chip() -> Chip:
    return Chip(at("2024-02-29T23:59:58"))


def test_time_is_the_hosts_in_bcd_and_24_hours(chip: Chip) -> None:
    assert chip.time() == [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58]
    assert chip[6] == 5  # a Thursday


def test_binary_mode(chip: Chip) -> None:
    chip[B] = 0x06
    assert chip.time() == [0x20, 24, 2, 29, 23, 59, 58]


@pytest.mark.parametrize(
    ("hour", "bcd", "binary"),
    [
        (0, 0x12, 12),
        (1, 0x01, 1),
        (11, 0x11, 11),
        (12, 0x92, 0x8C),
        (13, 0x81, 0x81),
        (23, 0x91, 0x8B),
    ],
)
def test_12_hour_mode(hour: int, bcd: int, binary: int) -> None:
    chip = Chip(at(f"2024-02-29T{hour:02}:00:00"))
    chip[B] = 0x00
    assert chip[4] == bcd
    chip[B] = 0x04
    assert chip[4] == binary
    chip[4] = binary  # and back
    chip[B] = 0x06
    assert chip[4] == hour


def test_time_goes_on_into_leap_days_and_centuries(chip: Chip) -> None:
    chip.timers.advance(2)
    assert chip.time() == [0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00]
    chip.set_time([0x20, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59])
    chip.timers.advance(1)
    assert chip.time() == [0x21, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00]


def test_set_bit_holds_the_registers_until_it_is_cleared(chip: Chip) -> None:
    chip[B] = 0x82
    chip.timers.advance(10)
    assert chip.time() == [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58]
    chip.set_time([0x20, 0x30, 0x01, 0x02, 0x03, 0x04, 0x05])
    chip.timers.advance(10)
    assert chip.time() == [0x20, 0x30, 0x01, 0x02, 0x03, 0x04, 0x05]
    chip[B] = 0x02
    chip.timers.advance(1)
    assert chip.time() == [0x20, 0x30, 0x01, 0x02, 0x03, 0x04, 0x06]


def test_first_update_comes_half_a_second_after_the_divider_starts(chip: Chip) -> None:
    """As Linux sets the time: SET and a stopped divider, and both back."""
    chip.timers.advance(0.123)
    chip[B] = 0x82
    chip[A] = 0x76
    chip.set_time([0x20, 0x30, 0x01, 0x02, 0x03, 0x04, 0x05])
    chip[B] = 0x02
    chip[A] = 0x26
    chip.timers.advance(0.499)
    assert chip[0] == 0x05
    chip.timers.advance(0.002)
    assert chip[0] == 0x06


def test_a_reset_leaves_time_and_ram_alone(chip: Chip) -> None:
    chip.set_time([0x20, 0x30, 0x01, 0x02, 0x03, 0x04, 0x05])
    chip[0x40] = 0x5A
    chip[B] = 0x7A
    chip.rtc.reset()
    assert chip.time() == [0x20, 0x30, 0x01, 0x02, 0x03, 0x04, 0x05]
    assert (chip[0x40], chip[B], chip[C]) == (0x5A, 0x02, 0x00)


@pytest.mark.parametrize(
    ("date", "becomes"),
    [
        ([0x20, 0x23, 0x02, 0x31], [0x20, 0x23, 0x03, 0x03]),
        ([0x20, 0x23, 0x00, 0x01], [0x20, 0x23, 0x01, 0x01]),
    ],
)
def test_a_date_that_does_not_exist_becomes_one_that_does(
    chip: Chip, date: list[int], becomes: list[int]
) -> None:
    chip[B] = 0x82
    chip.set_time([*date, 0, 0, 0])
    chip[B] = 0x02
    assert chip.time()[:4] == becomes


def test_uip_is_set_in_the_last_244_microseconds_of_a_second(chip: Chip) -> None:
    chip.timers.advance(0.999_755)
    assert chip[A] == 0x26
    chip.timers.advance(0.000_002)
    assert chip[A] == 0xA6
    chip.timers.advance(0.000_244)
    assert chip[A] == 0x26
    assert chip.timers.armed == 0


def test_uip_is_clear_while_the_time_is_being_set(chip: Chip) -> None:
    chip.timers.advance(0.999_9)
    chip[B] = 0x82
    assert chip[A] == 0x26


def test_register_d_says_that_the_battery_is_good_and_is_read_only(chip: Chip) -> None:
    chip[D] = 0x00
    assert chip[D] == 0x80


def test_ram_is_zero_and_holds_what_is_written(chip: Chip) -> None:
    ram = [index for index in range(0x0E, 0x80) if index != 0x32]
    assert all(chip[index] == 0 for index in ram)
    for index in ram:
        chip[index] = index ^ 0xA5
    assert all(chip[index] == index ^ 0xA5 for index in ram)


def test_index_port_ignores_the_nmi_bit_and_reads_as_ones(chip: Chip) -> None:
    assert chip[0x80 | D] == 0x80
    assert chip.bus.read(0x70, 1) == 0xFF


# Interrupts.


def test_update_ended_interrupt_comes_once_a_second_if_it_is_acknowledged() -> None:
    chip = Chip(at("2024-06-01T12:00:00"))
    chip[A] = 0x20  # no periodic flag
    chip.timers.advance(0.5)
    chip[C]
    chip[B] = 0x12
    chip.timers.advance(0.499)
    assert not chip.line.level
    chip.timers.advance(0.001)
    assert chip.line.level
    assert chip[C] == 0x90
    assert not chip.line.level
    assert chip[C] == 0x00
    chip.timers.advance(1)
    assert chip[C] == 0x90


def test_flags_are_set_also_while_their_interrupts_are_off(chip: Chip) -> None:
    chip.timers.advance(1)
    assert chip[C] == 0x50  # updated, and a period has passed; no IRQF
    assert not chip.line.level
    assert chip.timers.armed == 0


def test_an_enabled_interrupt_whose_flag_is_set_comes_at_once(chip: Chip) -> None:
    chip.timers.advance(1)
    chip[B] = 0x12
    assert chip.line.level


@pytest.mark.parametrize(("rate", "hz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)])
def test_periodic_interrupt_rates(chip: Chip, rate: int, hz: int) -> None:
    chip[A] = 0x20 | rate
    chip[B] = 0x42
    chip[C]
    ticks = 0
    for _ in range(hz // 2):
        chip.timers.advance(1 / hz)
        ticks += bool(chip[C] & 0x40)
    assert ticks >= hz // 2 - 1


def test_no_rate_no_periodic_interrupt(chip: Chip) -> None:
    chip[A] = 0x20
    chip[B] = 0x42
    chip.timers.advance(5)
    assert chip[C] & 0x40 == 0
    assert chip.timers.calls == 0


def test_ticks_that_nobody_acknowledges_cost_one_timer(chip: Chip) -> None:
    chip[A] = 0x23
    chip[B] = 0x42
    chip.timers.advance(60)
    assert (chip.timers.calls, chip.line.edges) == (1, 1)


@pytest.mark.parametrize(
    ("alarm", "seconds"),
    [
        ((0xC0, 0xC0, 0xC0), 1),
        ((0xC0, 0xC0, 0x30), 30),
        ((0xC0, 0x15, 0x00), 15 * 60),
        ((0x13, 0x00, 0x00), 60 * 60),
        ((0x12, 0x00, 0x00), 24 * 60 * 60),  # this second is past
        ((0x11, 0x59, 0x59), 24 * 60 * 60 - 1),
        ((0x12, 0xC0, 0x00), 60),
        ((0xC0, 0x00, 0xFF), 1),
    ],
)
def test_alarm_comes_at_the_next_match(alarm: tuple[int, ...], seconds: int) -> None:
    chip = Chip(at("2024-06-01T12:00:00"))
    for index, value in zip((5, 3, 1), alarm, strict=True):
        chip[index] = value
    chip[B] = 0x22
    chip[C]
    chip.timers.advance(seconds - 0.001)
    assert not chip.line.level
    chip.timers.advance(0.001)
    assert chip.line.level
    assert chip[C] & 0xA0 == 0xA0


@pytest.mark.parametrize("alarm", [(0x24, 0, 0), (0, 0x60, 0), (0, 0, 0x60), (0xC0, 0x7F, 0x7F)])
def test_an_alarm_that_cannot_match_never_comes(chip: Chip, alarm: tuple[int, ...]) -> None:
    for index, value in zip((5, 3, 1), alarm, strict=True):
        chip[index] = value
    chip[B] = 0x22
    assert chip.timers.armed == 0
    chip.timers.advance(2 * 86400)
    assert chip[C] & 0x20 == 0


def test_setting_the_clock_moves_the_alarm(chip: Chip) -> None:
    for index, value in zip((5, 3, 1), (0x06, 0x00, 0x00), strict=True):
        chip[index] = value
    chip[B] = 0x22
    chip.set_time([0x20, 0x24, 0x02, 0x29, 0x05, 0x59, 0x59])
    chip.timers.advance(1)
    assert chip.line.level


def test_setting_the_clock_raises_nothing(chip: Chip) -> None:
    chip[A] = 0x20
    chip[C]
    chip.set_time([0x20, 0x60, 0x01, 0x02, 0x03, 0x04, 0x05])
    assert chip[C] == 0x00


def test_a_host_clock_that_jumps_back_raises_nothing(chip: Chip) -> None:
    chip[C]
    chip[B] = 0x12
    chip.timers._wall -= 3600 * NS
    assert chip[C] == 0x00
    chip.timers.advance(1)
    assert chip[C] == 0xD0


class Hammer(RuleBasedStateMachine):
    """Any access in any order, with time passing."""

    def __init__(self) -> None:
        super().__init__()
        self.chip = Chip(at("1999-12-31T23:59:59"))

    @rule(index=st.integers(0, 255) | st.integers(0, 0x0D), value=st.integers(0, 255))
    def guest_writes(self, index: int, value: int) -> None:
        self.chip[index] = value

    @rule(index=st.integers(0, 255) | st.integers(0, 0x0D))
    def guest_reads(self, index: int) -> None:
        assert 0 <= self.chip[index] <= 0xFF

    @rule(seconds=st.floats(0, 0.5))
    def time_passes(self, seconds: float) -> None:
        self.chip.timers.advance(seconds)

    @rule(seconds=st.integers(-(10**9), 10**9))
    def host_clock_jumps(self, seconds: int) -> None:
        self.chip.timers._wall = max(self.chip.timers._wall + seconds * NS, 0)

    @invariant()
    def line_is_irqf_and_there_is_at_most_one_timer(self) -> None:
        self.chip[0x7F]
        assert self.chip.line.level == bool(self.chip.rtc._flags & self.chip.rtc._b & 0x70)
        assert self.chip.timers.armed <= 1


TestHammer = Hammer.TestCase
TestHammer.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
