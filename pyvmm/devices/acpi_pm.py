"""ACPI fixed hardware: power button, sleep control and the power management timer."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.bus import Device
from pyvmm.devices import acpi_pm_spec as spec
from pyvmm.irq import IrqLine
from pyvmm.log import Log
from pyvmm.loop import Timer, Timers

log = Log(__name__)


class AcpiPm(Device):
    """PM1a event and control blocks and the PM timer; claim BLOCK_SIZE bytes, four wide.

    `sci` is driven high while an enabled event is pending. `power_off` is called with the lock
    held, on a vCPU's thread, when the guest enters S5.
    """

    def __init__(
        self, name: str, sci: IrqLine, timers: Timers, power_off: Callable[[], object]
    ) -> None:
        super().__init__(name)
        self._sci = sci
        self._timers = timers
        self._power_off = power_off
        self._timer = Timer(self._timer_due)
        self.reset()

    def reset(self) -> None:
        """Clear all events; the PM timer counts on."""
        self._events = 0  # PM1_STATUS without TMR, which follows from the time
        self._enable = 0
        self._control = 0
        self._seen_half = self._half()
        self.window.publish_counter(
            spec.PM_TIMER, spec.PM_TIMER_SIZE, spec.PM_TIMER_HZ, spec.PM_TIMER_BITS
        )
        self._sync()

    def power_button(self) -> None:
        """Press and let go of the power button. Any thread."""
        with self.lock:
            self._events |= spec.PWRBTN
            self._sync()

    def read(self, offset: int, size: int) -> int:
        """Answer a read of one, two or four bytes."""
        registers = (
            (spec.PM1_STATUS, self._status()),
            (spec.PM1_ENABLE, self._enable),
            (spec.PM1_CONTROL, self._control | spec.SCI_EN),
            (spec.PM_TIMER, self._ticks() & (1 << spec.PM_TIMER_BITS) - 1),
        )
        block = sum(value << 8 * at for at, value in registers)
        return block >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of one, two or four bytes: each byte belongs to one register."""
        for index, byte in enumerate(value.to_bytes(size, "little")):
            register, shift = (offset + index) & ~1, 8 * ((offset + index) & 1)
            self._write_byte(register, byte << shift, 0xFF << shift)
        self._sync()

    def _write_byte(self, register: int, value: int, mask: int) -> None:
        match register:
            case spec.PM1_STATUS:
                self._events &= ~value
                if value & spec.TMR:
                    self._seen_half = self._half()
            case spec.PM1_ENABLE:
                self._enable = (self._enable & ~mask | value) & spec.PM1_ENABLE_BITS
            case spec.PM1_CONTROL:
                stored = spec.SLP_TYP_MASK | spec.BM_RLD
                self._control = (self._control & ~mask | value) & stored
                if value & spec.SLP_EN:
                    self._sleep(self._control >> spec.SLP_TYP_SHIFT)

    def _sleep(self, slp_typ: int) -> None:
        if slp_typ == spec.SLP_TYP_S5:
            self._power_off()
        else:
            log.info("%s: there is no sleep state with SLP_TYP %d", self.name, slp_typ)

    def _ticks(self) -> int:
        """CLOCK_MONOTONIC in ticks, as `Window.publish_counter` has it, not yet cut to size."""
        return int(self._timers.now() * spec.PM_TIMER_HZ)

    def _half(self) -> int:
        """How often the timer's most significant bit has changed, §4.8.3.1.1 TMR_STS."""
        return self._ticks() >> spec.PM_TIMER_BITS - 1

    def _status(self) -> int:
        return self._events | (spec.TMR if self._half() != self._seen_half else 0)

    def _timer_due(self) -> None:
        with self.lock:
            self._sync()

    def _sync(self) -> None:
        pending = self._status() & self._enable
        self._sci.set(bool(pending))
        self._timer.cancel()
        if self._enable & spec.TMR and not pending & spec.TMR:
            next_half = self._seen_half + 1 << spec.PM_TIMER_BITS - 1
            # One tick later, so that a time rounded down to a float has the bit changed.
            due = (next_half + 1) / spec.PM_TIMER_HZ
            self._timer = self._timers.call_at(due, self._timer_due)
