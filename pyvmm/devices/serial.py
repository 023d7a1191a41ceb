"""The NS16550A UART, as QEMU wires it: interrupts reach the controller whatever OUT2 is.

On a PC they would need OUT2, but guests that were written on an emulator do not always set it.

Characters take no time on this line. What the guest sends is gone at once, unless the host does
not take it: then the transmitter stays full. And when characters have arrived, the four character
times after which a FIFO below its trigger level reports a time-out have always passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pyvmm.bus import Device
from pyvmm.devices import serial_spec as spec
from pyvmm.errors import UsageError
from pyvmm.irq import IrqLine
from pyvmm.layout import KIB, MIB
from pyvmm.log import Log
from pyvmm.typed import Protocol

log = Log(__name__)

UNSENT_STALLS = 64 * KIB  # the transmitter stays full while the back end holds more than this
UNSENT_MAX = MIB  # what a guest sends all the same is lost beyond this
BREAK = 0x100  # received as a character of zeros (§8.4)


class CharBackend(Protocol):
    """The host's end of a serial line.

    The port calls these on any thread, with its lock held: they neither wait nor call it back.
    Input comes the other way, by `Serial.receive`, on a thread that does not hold the lock.
    """

    def attach(self, port: Serial) -> None:
        """Learn whose `receive` takes input and whose `drained` is told that all is sent."""

    def transmit(self, data: bytes) -> None:
        """Take all of `data`; what cannot be sent now is kept."""

    @property
    def unsent(self) -> int:
        """How many bytes are kept."""

    def resume(self) -> None:
        """The guest has made room: offer again the input that `receive` did not take."""


class Serial(Device):
    """One port. `on_output` sees all that the guest sends, in order, before the back end does.

    `on_output` is called with the lock held, on any thread; it must not wait.
    """

    def __init__(
        self,
        name: str,
        line: IrqLine,
        backend: CharBackend,
        on_output: Callable[[bytes], object] | None = None,
    ) -> None:
        super().__init__(name)
        self._line = line
        self._backend = backend
        self._on_output = on_output
        self._received: deque[int] = deque()  # characters, and a BREAK where the line broke
        self._refused_input = False
        self._stalled = False
        self._said_lost = False
        backend.attach(self)
        self.reset()

    def reset(self) -> None:
        """Master reset, data sheet table I; what the back end holds is still sent."""
        self._ier = 0
        self._fcr = 0
        self._lcr = 0
        self._mcr = 0
        self._scr = 0
        self._divisor = [spec.DIVISOR_AT_RESET, 0]
        self._overrun = 0
        self._msr = spec.MSR_CONNECTED
        self._thr_interrupt = False
        self._received.clear()
        self._route()
        self._sync()

    # The guest's side.

    def read(self, offset: int, size: int) -> int:
        """Answer a one-byte read."""
        value = self._read(offset)
        self._sync()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a one-byte write."""
        self._write(offset, value)
        self._sync()

    def posted(self, offset: int, data: bytes) -> None:
        """Take bytes of the transmitter holding register, the only register that is posted."""
        self._transmit(data)
        self._sync()

    def _read(self, offset: int) -> int:
        match offset:
            case spec.DLL | spec.DLM if self._lcr & spec.LCR_DLAB:
                return self._divisor[offset]
            case spec.RBR:
                return self._received.popleft() & 0xFF if self._received else 0
            case spec.IER:
                return self._ier
            case spec.IIR:
                source = self._interrupt()
                if source == spec.IIR_THR_EMPTY:
                    self._thr_interrupt = False
                return source | (spec.IIR_FIFOS if self._fcr & spec.FCR_ENABLE else 0)
            case spec.LCR:
                return self._lcr
            case spec.MCR:
                return self._mcr
            case spec.LSR:
                value = self._lsr()
                self._overrun = 0
                if self._broken():
                    self._received[0] = 0
                return value
            case spec.MSR:
                value = self._msr
                self._msr &= spec.MSR_INPUTS
                return value
            case _:
                return self._scr

    def _write(self, offset: int, value: int) -> None:
        match offset:
            case spec.DLL | spec.DLM if self._lcr & spec.LCR_DLAB:
                self._divisor[offset] = value
            case spec.THR:
                self._transmit(bytes((value,)))
            case spec.IER:
                enabled = value & ~self._ier
                self._ier = value & spec.IER_MASK
                if enabled & spec.IER_ETBEI and not self._stalled:
                    self._thr_interrupt = True
            case spec.FCR:
                self._set_fcr(value)
            case spec.LCR:
                self._lcr = value
                self._route()
            case spec.MCR:
                self._mcr = value & spec.MCR_MASK
                self._route()
                self._set_modem_inputs()
            case spec.SCR:
                self._scr = value

    def _set_fcr(self, value: int) -> None:
        """§8.5: switching the FIFOs empties them; without FCR_ENABLE nothing else counts."""
        if (value ^ self._fcr) & spec.FCR_ENABLE or value & spec.FCR_CLEAR_RECEIVER:
            self._received.clear()
        self._fcr = value if value & spec.FCR_ENABLE else 0

    def _set_modem_inputs(self) -> None:
        inputs = spec.MSR_CONNECTED
        if self._mcr & spec.MCR_LOOP:
            inputs = sum(pin for output, pin in spec.LOOPBACK if self._mcr & output)
        changed = (inputs ^ self._msr) & spec.MSR_INPUTS
        if inputs & spec.MSR_RI:
            changed &= ~spec.MSR_RI
        self._msr = inputs | self._msr & spec.MSR_DELTA | changed >> spec.MSR_DELTA_SHIFT

    def _transmit(self, data: bytes) -> None:
        if self._mcr & spec.MCR_LOOP:
            room = self._room()
            self._received += data[:room]
            self._overrun = spec.LSR_OE if len(data) > room else self._overrun
        else:
            self._send(data)
        self._thr_interrupt = not self._stalled

    def _send(self, data: bytes) -> None:
        if self._on_output is not None:
            self._on_output(data)
        if self._backend.unsent <= UNSENT_MAX:
            self._backend.transmit(data)
        elif not self._said_lost:
            self._said_lost = True
            log.warning("%s: output is lost, the host takes none and %d bytes wait",
                        self.name, self._backend.unsent)  # fmt: skip
        self._stalled = self._backend.unsent > UNSENT_STALLS

    # The host's side.

    def replace_backend(self, backend: CharBackend) -> CharBackend:
        """Connect it to `backend`, and return what it was connected to. With the lock held."""
        before, self._backend = self._backend, backend
        return before

    def receive(self, data: bytes) -> int:
        """Give the guest what there is room for, and return how many bytes that was.

        If it was not all, the back end's `resume` is called once there is room. Any thread.
        """
        with self.lock:
            taken = 0 if self._mcr & spec.MCR_LOOP else min(len(data), self._room())
            self._received += data[:taken]
            self._refused_input = taken < len(data)
            self._sync()
        return taken

    def send_break(self, then: bytes = b"") -> None:
        """Break the line for a moment, and send `then` after it. Any thread.

        Raises UsageError while the guest has no room for all of it.
        """
        with self.lock:
            if self._mcr & spec.MCR_LOOP or self._room() < 1 + len(then):
                raise UsageError(f"The guest must read {self.name} before it can take a break")
            self._received += (BREAK, *then)
            self._sync()

    def drained(self) -> None:
        """The back end has sent all that it held. Any thread."""
        with self.lock:
            was_stalled = self._stalled
            self._stalled = self._backend.unsent > UNSENT_STALLS
            if was_stalled and not self._stalled:
                self._thr_interrupt = True
            self._sync()

    def ended(self) -> None:
        """A serial line has no way to tell the guest."""

    def resized(self) -> None:
        """A serial line does not tell. Any thread."""

    # What both see.

    def _room(self) -> int:
        return (spec.FIFO_SIZE if self._fcr & spec.FCR_ENABLE else 1) - len(self._received)

    def _broken(self) -> bool:
        """Whether what would be read next is a break that the status has not told of."""
        return bool(self._received) and self._received[0] == BREAK

    def _lsr(self) -> int:
        ready = spec.LSR_DR if self._received else 0
        empty = 0 if self._stalled else spec.LSR_THRE | spec.LSR_TEMT
        broken = spec.LSR_BI if self._broken() else 0
        if self._fcr & spec.FCR_ENABLE and BREAK in self._received:
            broken |= spec.LSR_FIFO_ERROR
        return ready | self._overrun | empty | broken

    def _interrupt(self) -> int:
        """The pending and enabled source of the highest priority, table IV."""
        if self._ier & spec.IER_ELSI and (self._overrun or self._broken()):
            return spec.IIR_LINE_STATUS
        if self._ier & spec.IER_ERBFI and self._received:
            trigger = spec.TRIGGER_LEVELS[self._fcr >> spec.FCR_TRIGGER_SHIFT]
            return spec.IIR_RECEIVED if len(self._received) >= trigger else spec.IIR_TIMEOUT
        if self._ier & spec.IER_ETBEI and self._thr_interrupt:
            return spec.IIR_THR_EMPTY
        if self._ier & spec.IER_EDSSI and self._msr & spec.MSR_DELTA:
            return spec.IIR_MODEM_STATUS
        return spec.IIR_NONE

    def _route(self) -> None:
        """Have writes of THR posted while offset 0 is that and its bytes leave the chip."""
        self.window.post(spec.THR, not self._lcr & spec.LCR_DLAB and not self._mcr & spec.MCR_LOOP)

    def _sync(self) -> None:
        # First the status, then the interrupt: a guest that is interrupted reads what was published
        # at once, on another thread, and must find the reason there.
        if self._overrun or self._broken():
            self.window.withdraw(spec.LSR)
        else:
            self.window.publish(spec.LSR, bytes((self._lsr(),)))
        looped = self._mcr & spec.MCR_LOOP
        self._line.set(not looped and self._interrupt() != spec.IIR_NONE)
        if self._refused_input and not self._received and not self._mcr & spec.MCR_LOOP:
            self._refused_input = False
            self._backend.resume()
