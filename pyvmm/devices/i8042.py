"""The i8042 keyboard controller with a keyboard, the reset line and no auxiliary port.

It answers at once, so that no driver's probe waits. The absence of the auxiliary port shows as it
did on machines without one: its loopback comes back from the keyboard's side, its test finds the
clock stuck, and it cannot be enabled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from pyvmm.bus import Device
from pyvmm.devices import i8042_spec as spec
from pyvmm.errors import UsageError
from pyvmm.irq import IrqLine


class Keyboard:
    """What is at the end of the keyboard's cable. The controller's lock guards it."""

    def __init__(self) -> None:
        self.output: deque[int] = deque(maxlen=spec.KEYBOARD_BUFFER)
        self._command = 0  # that waits for its parameter
        self._last = 0
        self._scanning = True
        self._scan_set = spec.SCAN_SET_DEFAULT

    def take(self) -> int:
        """The next byte for the controller."""
        self._last = self.output.popleft()
        return self._last

    def press(self, keys: Sequence[tuple[Sequence[int], Sequence[int]]]) -> bool:
        """Press keys of keyboard_spec.KEYS in their order, and release them backwards.

        All of it, or nothing if it does not fit or scanning is off.
        """
        codes = [code for key in keys for code in self._codes(*key, False)]
        codes += [code for key in reversed(keys) for code in self._codes(*key, True)]
        if not self._scanning or len(self.output) + len(codes) > spec.KEYBOARD_BUFFER:
            return False
        self.output += codes
        return True

    def _codes(self, prefix: Sequence[int], codes: Sequence[int], released: bool) -> Iterator[int]:
        yield from prefix
        for code in codes:
            if self._scan_set == 1:
                yield code | (spec.RELEASED_1 if released else 0)
            else:
                yield from (spec.BREAK_2,) * released
                yield spec.SET_2[code]

    def command(self, value: int) -> None:
        """Take a byte from the controller: a command or its parameter."""
        command, self._command = self._command, 0
        self.output.clear()
        self.output += self._parameter(command, value) if command else self._answer(value)

    def _parameter(self, command: int, value: int) -> tuple[int, ...]:
        if command == spec.SCAN_SET and value == 0:
            return spec.ACK, self._scan_set
        if command == spec.SCAN_SET and value not in spec.SCAN_SETS:
            return (spec.PLEASE_RESEND,)
        if command == spec.SCAN_SET:
            self._scan_set = value
        return (spec.ACK,)

    def _answer(self, command: int) -> tuple[int, ...]:
        match command:
            case spec.ECHO:
                return (spec.ECHO,)
            case spec.READ_ID:
                return spec.ACK, *spec.ID
            case spec.RESEND:
                return (self._last,)
            case spec.RESET:
                self._set_default(scanning=True)
                return spec.ACK, spec.BAT_PASSED
            case spec.ENABLE:
                self._scanning = True
            case spec.DEFAULT_DISABLE | spec.SET_DEFAULT:
                self._set_default(scanning=command == spec.SET_DEFAULT)
            case _ if command in spec.WITH_PARAMETER:
                self._command = command
        return (spec.ACK if command in spec.ACKNOWLEDGED else spec.PLEASE_RESEND,)

    def _set_default(self, *, scanning: bool) -> None:
        self._scanning = scanning
        self._scan_set = spec.SCAN_SET_DEFAULT


class I8042(Device):
    """Claim one port at DATA and one at COMMAND.

    `reset_cpu` is called with the lock held, on a vCPU's thread, when the guest pulls the line.
    """

    def __init__(self, name: str, line: IrqLine, reset_cpu: Callable[[], object]) -> None:
        super().__init__(name)
        self._line = line
        self._reset_cpu = reset_cpu
        self.reset()

    def reset(self) -> None:
        """Power-on state, as a PC's firmware leaves it: the self-test has passed."""
        self._keyboard = Keyboard()
        self._config = spec.CONFIG_AT_RESET
        self._output_port = spec.OUTPUT_AT_RESET
        self._command = 0  # that waits for its data byte
        self._status_command = 0
        self._output = 0  # the output buffer: the last byte, also after it was read
        self._full = False
        self._from_keyboard = False
        self._displaced: int | None = None  # the keyboard's byte, by one of the controller
        self._released = False  # the keyboard's BREAK_2 has been translated away
        self._sync()

    def press(self, names: Sequence[str]) -> None:
        """Press keys (keyboard_spec.KEYS) one after the other, and release them all. Any thread.

        Raises UsageError, and presses none, for what is no key, and while the keyboard's buffer
        (1 KiB) has no room for all or the guest has the keyboard switched off.
        """
        from pyvmm.devices.keyboard_spec import KEYS

        for name in names:
            if name not in KEYS:
                raise UsageError(f"A key must be a, 1, ctrl, f1, ret, delete or so, not {name!r}")
        with self.lock:
            taken = self._keyboard.press([KEYS[name] for name in names])
            self._sync()
        if not taken:
            raise UsageError("The guest must read its keyboard before it can take more keys")

    def read(self, offset: int, size: int) -> int:
        """Answer a one-byte read."""
        if offset == spec.STATUS:
            return self._status()
        value = self._output
        self._full = False
        self._line.set(False)  # the next byte, if there is one, must be a new edge
        self._sync()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a one-byte write."""
        if offset == spec.COMMAND:
            self._status_command = spec.STATUS_COMMAND
            self._command = value if value in spec.COMMANDS_WITH_DATA else 0
            self._run(value)
        else:
            self._status_command = 0
            command, self._command = self._command, 0
            self._take_data(command, value)
        self._sync()

    def _run(self, command: int) -> None:
        match command:
            case spec.READ_CONFIG:
                self._answer(self._config)
            case spec.AUX_TEST:
                self._answer(spec.AUX_TEST_CLOCK_LOW)
            case spec.SELF_TEST:
                self._config |= spec.CONFIG_SYSTEM
                self._answer(spec.SELF_TEST_PASSED)
            case spec.KEYBOARD_TEST:
                self._answer(spec.KEYBOARD_TEST_PASSED)
            case spec.KEYBOARD_DISABLE:
                self._config |= spec.CONFIG_KEYBOARD_OFF
            case spec.KEYBOARD_ENABLE:
                self._config &= ~spec.CONFIG_KEYBOARD_OFF
            case spec.READ_INPUT_PORT:
                self._answer(spec.INPUT_PORT)
            case spec.READ_OUTPUT_PORT:
                full = spec.OUTPUT_OBF if self._full else 0
                self._answer(self._output_port | full)
            case spec.A20_OFF:
                self._output_port &= ~spec.OUTPUT_A20
            case spec.A20_ON:
                self._output_port |= spec.OUTPUT_A20
            case spec.TEST_INPUTS:
                self._answer(spec.TEST_INPUTS_IDLE)
            case _ if command >= spec.PULSE_OUTPUT_PORT:
                if not command & spec.OUTPUT_NOT_RESET:
                    self._reset_cpu()

    def _take_data(self, command: int, value: int) -> None:
        match command:
            case spec.WRITE_CONFIG:
                self._config = value | spec.CONFIG_AUX_OFF
            case spec.WRITE_OUTPUT_PORT:
                self._output_port = value & spec.OUTPUT_AT_RESET | spec.OUTPUT_NOT_RESET
                if not value & spec.OUTPUT_NOT_RESET:
                    self._reset_cpu()
            case spec.WRITE_OUTPUT_BUFFER | spec.WRITE_AUX_OUTPUT_BUFFER:
                self._answer(value)
            case spec.WRITE_AUX:
                pass
            case _:
                self._config &= ~spec.CONFIG_KEYBOARD_OFF  # a byte for it switches it on
                self._keyboard.command(value)

    def _answer(self, value: int) -> None:
        """Put the controller's byte in the output buffer; one of the keyboard comes after it."""
        if self._full and self._from_keyboard:
            self._displaced = self._output
        self._line.set(False)
        self._output, self._full, self._from_keyboard = value, True, False

    def _status(self) -> int:
        full = spec.STATUS_OBF if self._full else 0
        return (
            full | self._config & spec.CONFIG_SYSTEM | self._status_command | spec.STATUS_UNLOCKED
        )

    def _sync(self) -> None:
        """Fill the output buffer if it is empty, and interrupt while it is full."""
        keyboard_on = not self._config & spec.CONFIG_KEYBOARD_OFF
        if not self._full and keyboard_on and self._displaced is not None:
            self._offer(self._displaced)
            self._displaced = None
        while not self._full and keyboard_on and self._keyboard.output:
            self._receive(self._keyboard.take())
        self._line.set(self._full and bool(self._config & spec.CONFIG_KEYBOARD_INTERRUPT))

    def _receive(self, value: int) -> None:
        """Put a byte of the keyboard's in the output buffer, as a code of set 1 if it must be."""
        if self._config & spec.CONFIG_TRANSLATE:
            if value == spec.BREAK_2:
                self._released = True
                return
            value = spec.TRANSLATION.get(value, value) | self._released * spec.RELEASED_1
            self._released = False
        self._offer(value)

    def _offer(self, value: int) -> None:
        self._output, self._full, self._from_keyboard = value, True, True
