"""The MC146818A real-time clock and its CMOS RAM, battery-backed: a reset leaves them alone.

The chip has no clockwork: time, update-in-progress and interrupt flags are computed from the
host's clock when somebody looks. Only an enabled interrupt whose flag is clear has a timer, so that
a guest which does not acknowledge costs nothing and ticks that come late are one tick.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pyvmm.bus import Device
from pyvmm.devices import rtc_spec as spec
from pyvmm.irq import IrqLine
from pyvmm.loop import Timer, Timers

DAY = 24 * 60 * 60


class Rtc(Device):
    """Claim PORTS ports. `wall` gives nanoseconds since 1970, UTC; the guest may set its own."""

    def __init__(
        self, name: str, line: IrqLine, timers: Timers, wall: Callable[[], int] = time.time_ns
    ) -> None:
        super().__init__(name)
        self._line = line
        self._timers = timers
        self._wall = wall
        self._offset = 0  # ns that the guest's clock is ahead of `wall`
        self._timer = Timer(self._timer_due)
        self._ram = bytearray(spec.SIZE)  # and the alarm; the time only while the clock is stopped
        self._a = spec.A_AT_RESET
        self._b = spec.B_AT_RESET
        self._seen = self._now()  # events up to here are in `_flags`
        self.reset()

    def reset(self) -> None:
        """Data sheet, "RESET": interrupts off, flags clear; time and RAM stay."""
        self._index = 0
        self._b &= ~spec.B_CLEARED_BY_RESET
        self._flags = 0
        self._sync()

    def read(self, offset: int, size: int) -> int:
        """Answer a one-byte read."""
        if offset != spec.DATA:
            return super().read(offset, size)
        self._advance()
        value = self._read(self._index)
        self._sync()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a one-byte write."""
        if offset == spec.INDEX:
            self._index = value & spec.INDEX_MASK
        else:
            self._advance()
            self._write(self._index, value)
            self._sync()

    def _read(self, index: int) -> int:
        match index:
            case spec.REGISTER_A:
                return self._a | (spec.A_UIP if self._update_in_progress() else 0)
            case spec.REGISTER_B:
                return self._b
            case spec.REGISTER_C:
                value = self._flags | (spec.C_IRQF if self._flags & self._b else 0)
                self._flags = 0
                return value
            case spec.REGISTER_D:
                return spec.D_VRT
            case _ if index in spec.TIME and self._running():
                return self._time_registers()[index]
            case _:
                return self._ram[index]

    def _write(self, index: int, value: int) -> None:
        match index:
            case spec.REGISTER_A:
                self._control(value & ~spec.A_UIP, self._b)
            case spec.REGISTER_B:
                self._control(self._a, value)
            case spec.REGISTER_C | spec.REGISTER_D:
                pass
            case _ if index in spec.TIME and self._running():
                self._load_time()
                self._ram[index] = value
                self._set_time(self._now() % spec.NANOSECOND)
            case _:
                self._ram[index] = value

    def _control(self, a: int, b: int) -> None:
        """Change registers A and B, which between them stop and start the clock."""
        divider_was_off = self._a & spec.A_DV_MASK != spec.A_DV_RUN
        was_running = self._running()
        if was_running:
            self._load_time()
        self._a, self._b = a, b
        if not was_running and self._running():
            fraction = self._now() % spec.NANOSECOND
            self._set_time(spec.FIRST_UPDATE if divider_was_off else fraction)

    # Time.

    def _now(self) -> int:
        return self._wall() + self._offset

    def _running(self) -> bool:
        return not self._b & spec.B_SET and self._a & spec.A_DV_MASK == spec.A_DV_RUN

    def _update_in_progress(self) -> bool:
        to_update = spec.NANOSECOND - self._now() % spec.NANOSECOND
        return self._running() and to_update <= spec.UIP_BEFORE_UPDATE

    def _time_registers(self) -> dict[int, int]:
        now = time.gmtime(self._now() // spec.NANOSECOND)
        century, year = divmod(now.tm_year, 100)
        return {
            spec.SECONDS: self._encode(now.tm_sec),
            spec.MINUTES: self._encode(now.tm_min),
            spec.HOURS: self._encode_hour(now.tm_hour),
            spec.DAY_OF_WEEK: self._encode((now.tm_wday + 1) % 7 + 1),
            spec.DATE_OF_MONTH: self._encode(now.tm_mday),
            spec.MONTH: self._encode(now.tm_mon),
            spec.YEAR: self._encode(year),
            spec.CENTURY: _to_bcd(century),
        }

    def _load_time(self) -> None:
        for index, value in self._time_registers().items():
            self._ram[index] = value

    def _set_time(self, fraction: int) -> None:
        """Let the clock go on from the time in `_ram` and `fraction` ns.

        A date that does not exist becomes the one that as many days and hours on would be.
        """
        from datetime import date  # 2 ms to import, for guests that set the clock

        year = _from_bcd(self._ram[spec.CENTURY]) * 100 + self._decode(self._ram[spec.YEAR])
        month = self._decode(self._ram[spec.MONTH])
        first = date(min(max(year, 1970), 9998), min(max(month, 1), 12), 1)
        days = (first - date(1970, 1, 1)).days + self._decode(self._ram[spec.DATE_OF_MONTH]) - 1
        seconds = (
            days * DAY
            + self._decode_hour(self._ram[spec.HOURS]) * 3600
            + self._decode(self._ram[spec.MINUTES]) * 60
            + self._decode(self._ram[spec.SECONDS])
        )
        self._offset = seconds * spec.NANOSECOND + fraction - self._wall()
        self._seen = self._now()

    def _encode(self, value: int) -> int:
        return value if self._b & spec.B_DM else _to_bcd(value)

    def _decode(self, value: int) -> int:
        return value if self._b & spec.B_DM else _from_bcd(value)

    def _encode_hour(self, hour: int) -> int:
        if self._b & spec.B_24H:
            return self._encode(hour)
        return self._encode((hour - 1) % 12 + 1) | (spec.HOUR_PM if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int:
        if self._b & spec.B_24H:
            return self._decode(value)
        afternoon = 12 if value & spec.HOUR_PM else 0
        return self._decode(value & ~spec.HOUR_PM) % 12 + afternoon

    # Interrupts.

    def _next_event(self, flag: int, after: int) -> int | None:
        """When, in ns of the guest's time, the event of `flag` next happens after `after`."""
        if flag == spec.C_PF:
            period = spec.period(self._a & spec.A_RS_MASK)
            divided = self._a & spec.A_DV_MASK == spec.A_DV_RUN
            return (after // period + 1) * period if period and divided else None
        if not self._running():
            return None
        second = after // spec.NANOSECOND + 1
        if flag == spec.C_AF:
            alarm = self._next_alarm(second)
            return alarm * spec.NANOSECOND if alarm is not None else None
        return second * spec.NANOSECOND

    def _next_alarm(self, second: int) -> int | None:
        """The first second from `second` on that the three alarm bytes match, if there is one."""
        at_hour, at_minute, at_second = (
            None if byte & spec.ALARM_ANY == spec.ALARM_ANY else decode(byte)
            for byte, decode in (
                (self._ram[spec.HOURS_ALARM], self._decode_hour),
                (self._ram[spec.MINUTES_ALARM], self._decode),
                (self._ram[spec.SECONDS_ALARM], self._decode),
            )
        )
        if (at_hour or 0) > 23 or (at_minute or 0) > 59 or (at_second or 0) > 59:
            return None
        while True:  # at most twice 24 hours, 60 minutes and one, since each value exists
            hour, minute = second // 3600 % 24, second // 60 % 60
            if at_hour not in (None, hour):
                second += 3600 - second % 3600
            elif at_minute not in (None, minute):
                second += 60 - second % 60
            elif at_second is None or at_second == second % 60:
                return second
            else:
                second += (at_second - second) % 60

    def _advance(self) -> None:
        """Set the flags of all that has happened since the last look."""
        now = self._now()
        for flag in spec.FLAGS:
            if not self._flags & flag:
                due = self._next_event(flag, self._seen)
                self._flags |= flag if due is not None and due <= now else 0
        self._seen = now

    def _timer_due(self) -> None:
        with self.lock:
            self._advance()
            self._sync()

    def _sync(self) -> None:
        self._line.set(bool(self._flags & self._b))
        self._timer.cancel()
        waiting = [flag for flag in spec.FLAGS if self._b & ~self._flags & flag]
        events = [self._next_event(flag, self._seen) for flag in waiting]
        due = min((event for event in events if event is not None), default=None)
        if due is not None:
            wait = (due - self._now()) / spec.NANOSECOND
            self._timer = self._timers.call_at(self._timers.now() + wait, self._timer_due)


def _to_bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


def _from_bcd(value: int) -> int:
    return (value >> 4) * 10 + (value & 0x0F)
