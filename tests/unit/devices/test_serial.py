"""NS16550A against its data sheet's tables, and against what drivers do to find it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyvmm.bus import Bus
from pyvmm.devices import serial as serial_module
from pyvmm.devices import serial_spec as spec
from pyvmm.devices.serial import Serial
from pyvmm.errors import UsageError
from tests.fakes.lines import FakeLine, FakeWindow

RBR, THR, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 0, 1, 2, 2, 3, 4, 5, 6, 7
BASE = 0x3F8


class Backend:
    def __init__(self) -> None:
        self.sent = bytearray()
        self.unsent = 0
        self.resumed = 0

    def attach(self, port: Serial) -> None:
        self.port = port

    def transmit(self, data: bytes) -> None:
        self.sent += data

    def resume(self) -> None:
        self.resumed += 1


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def uart(line: FakeLine, backend: Backend) -> Serial:
    return Serial("COM1", line, backend)


def get(uart: Serial, offset: int) -> int:
    return uart.read(offset, 1)


def put(uart: Serial, offset: int, value: int) -> None:
    uart.write(offset, 1, value)


def fifo_on(uart: Serial, trigger: int = 0) -> None:
    put(uart, FCR, 0x01 | trigger << 6)


def test_table_1_reset_state(uart: Serial) -> None:
    assert [get(uart, at) for at in (IER, IIR, LCR, MCR, LSR)] == [0, 0x01, 0, 0, 0x60]
    assert get(uart, MSR) == 0xB0  # a terminal is connected and has been all along


def test_reserved_bits_of_ier_and_mcr_read_as_zero(uart: Serial) -> None:
    put(uart, IER, 0xFF)
    put(uart, MCR, 0xFF)
    assert (get(uart, IER), get(uart, MCR)) == (0x0F, 0x1F)


def test_scratch_holds_any_byte(uart: Serial) -> None:
    for value in (0x55, 0xAA, 0x00, 0xFF):
        put(uart, SCR, value)
        assert get(uart, SCR) == value


def test_dlab_switches_offsets_0_and_1_to_the_divisor(uart: Serial, backend: Backend) -> None:
    put(uart, IER, 0x05)
    put(uart, LCR, 0x83)
    put(uart, 0, 0x01)
    put(uart, 1, 0x02)
    assert (get(uart, 0), get(uart, 1)) == (0x01, 0x02)
    put(uart, LCR, 0x03)
    assert (get(uart, 0), get(uart, 1)) == (0, 0x05)
    assert not backend.sent


def test_what_is_written_to_thr_is_sent_in_order(uart: Serial, backend: Backend) -> None:
    for byte in b"hello":
        put(uart, THR, byte)
        assert get(uart, LSR) == 0x60
    assert backend.sent == b"hello"


def test_posted_bytes_are_sent_at_once_and_raise_the_thr_interrupt(
    uart: Serial, backend: Backend, line: FakeLine
) -> None:
    put(uart, MCR, 0x08)
    put(uart, IER, 0x02)
    get(uart, IIR)
    uart.posted(THR, b"hello")
    assert backend.sent == b"hello"
    assert line.level


def test_observer_sees_the_output_before_the_back_end(line: FakeLine, backend: Backend) -> None:
    seen: list[tuple[bytes, bytes]] = []
    uart = Serial("COM1", line, backend, lambda data: seen.append((data, bytes(backend.sent))))
    uart.posted(THR, b"ab")
    put(uart, THR, 0x63)
    assert seen == [(b"ab", b""), (b"c", b"ab")]


# Interrupts, §8.6 and table IV.


def test_enabling_etbei_with_thr_empty_raises_the_thr_interrupt(
    uart: Serial, line: FakeLine
) -> None:
    put(uart, MCR, 0x08)
    put(uart, IER, 0x02)
    assert line.level
    assert get(uart, IIR) == 0x02


def test_reading_iir_takes_the_thr_interrupt_away(uart: Serial, line: FakeLine) -> None:
    put(uart, MCR, 0x08)
    put(uart, IER, 0x02)
    assert get(uart, IIR) == 0x02
    assert get(uart, IIR) == 0x01
    assert not line.level


def test_writing_etbei_again_raises_nothing_new(uart: Serial) -> None:
    put(uart, IER, 0x02)
    get(uart, IIR)
    put(uart, IER, 0x02)
    assert get(uart, IIR) == 0x01
    put(uart, IER, 0x00)
    put(uart, IER, 0x02)
    assert get(uart, IIR) == 0x02


def test_reading_iir_for_another_source_leaves_the_thr_interrupt(uart: Serial) -> None:
    put(uart, IER, 0x03)
    uart.receive(b"x")
    assert get(uart, IIR) == 0x04
    get(uart, RBR)
    assert get(uart, IIR) == 0x02


def test_priorities_line_status_data_thr_modem(uart: Serial) -> None:
    put(uart, MCR, 0x10)  # loopback: an overrun and modem changes are in reach
    put(uart, THR, 1)
    put(uart, THR, 2)
    put(uart, IER, 0x0F)
    seen = [get(uart, IIR)]
    get(uart, LSR)
    seen.append(get(uart, IIR))
    get(uart, RBR)
    seen += [get(uart, IIR), get(uart, IIR)]
    get(uart, MSR)
    seen.append(get(uart, IIR))
    assert seen == [0x06, 0x04, 0x02, 0x00, 0x01]


def test_interrupts_need_no_out2_but_stay_inside_in_loopback(uart: Serial, line: FakeLine) -> None:
    put(uart, IER, 0x01)
    uart.receive(b"x")
    assert get(uart, IIR) == 0x04
    assert line.level
    put(uart, MCR, 0x18)
    assert not line.level
    put(uart, MCR, 0x08)
    assert line.level


@pytest.mark.parametrize(("code", "trigger"), [(0, 1), (1, 4), (2, 8), (3, 14)])
def test_fifo_reports_data_at_its_trigger_level_and_a_timeout_below(
    uart: Serial, code: int, trigger: int
) -> None:
    fifo_on(uart, code)
    put(uart, IER, 0x01)
    uart.receive(b"x" * (trigger - 1))
    assert get(uart, IIR) == (0xCC if trigger > 1 else 0xC1)
    uart.receive(b"x")
    assert get(uart, IIR) == 0xC4
    get(uart, RBR)
    assert get(uart, IIR) == (0xCC if trigger > 1 else 0xC1)


def test_data_interrupt_lasts_until_the_fifo_is_empty(uart: Serial, line: FakeLine) -> None:
    fifo_on(uart)
    put(uart, MCR, 0x08)
    put(uart, IER, 0x01)
    uart.receive(b"ab")
    assert get(uart, RBR) == ord("a")
    assert line.level
    assert get(uart, RBR) == ord("b")
    assert not line.level
    assert get(uart, LSR) == 0x60


# FIFOs, §8.5.


def test_without_fifos_there_is_room_for_one_byte(uart: Serial) -> None:
    assert uart.receive(b"abc") == 1
    assert uart.receive(b"bc") == 0
    assert get(uart, RBR) == ord("a")


def test_a_fifo_takes_16_bytes_and_asks_for_more_when_it_is_empty(
    uart: Serial, backend: Backend
) -> None:
    fifo_on(uart)
    data = bytes(range(40))
    assert uart.receive(data) == 16
    assert [get(uart, RBR) for _ in range(15)] == list(range(15))
    assert backend.resumed == 0
    get(uart, RBR)
    assert backend.resumed == 1
    assert uart.receive(data[16:]) == 16


def test_switching_the_fifos_empties_them(uart: Serial) -> None:
    fifo_on(uart)
    uart.receive(b"abc")
    put(uart, FCR, 0)
    assert not get(uart, LSR) & 0x01
    assert get(uart, IIR) & 0xC0 == 0


def test_clearing_the_receiver_lets_waiting_input_in(uart: Serial, backend: Backend) -> None:
    fifo_on(uart)
    uart.receive(b"x" * 20)
    put(uart, FCR, 0x03)
    assert not get(uart, LSR) & 0x01
    assert backend.resumed == 1


def test_fcr_without_its_enable_bit_changes_nothing_else(uart: Serial) -> None:
    put(uart, FCR, 0xC0)
    put(uart, IER, 0x01)
    uart.receive(b"x")
    assert get(uart, IIR) == 0x04


# Loopback, §8.8.


@pytest.mark.parametrize(
    ("mcr", "msr"), [(0x11, 0x20), (0x12, 0x10), (0x14, 0x40), (0x18, 0x80), (0x1A, 0x90)]
)
def test_loopback_connects_the_modem_outputs_to_the_inputs(
    uart: Serial, mcr: int, msr: int
) -> None:
    put(uart, MCR, mcr)
    assert get(uart, MSR) & 0xF0 == msr


def test_loopback_returns_what_is_sent_and_nothing_leaves(uart: Serial, backend: Backend) -> None:
    put(uart, MCR, 0x10)
    put(uart, THR, 0xAE)
    assert get(uart, RBR) == 0xAE
    assert not backend.sent


def test_overrun_in_loopback_is_told_once(uart: Serial) -> None:
    put(uart, MCR, 0x10)
    put(uart, THR, 1)
    put(uart, THR, 2)
    assert get(uart, LSR) == 0x63
    assert get(uart, LSR) == 0x61
    assert get(uart, RBR) == 1


def test_input_waits_while_the_line_is_looped_back(uart: Serial, backend: Backend) -> None:
    put(uart, MCR, 0x10)
    assert uart.receive(b"x") == 0
    put(uart, MCR, 0x00)
    assert backend.resumed == 1
    assert uart.receive(b"x") == 1


def test_modem_changes_are_told_once(uart: Serial) -> None:
    put(uart, MCR, 0x14)  # DCD, DSR and CTS fall, RI rises
    assert get(uart, MSR) == 0x4B
    assert get(uart, MSR) == 0x40
    put(uart, MCR, 0x00)  # RI's trailing edge counts
    assert get(uart, MSR) == 0xBF


# Back-pressure.


def test_transmitter_stays_full_while_the_host_takes_nothing(
    uart: Serial, backend: Backend, line: FakeLine
) -> None:
    put(uart, MCR, 0x08)
    put(uart, IER, 0x02)
    get(uart, IIR)
    backend.unsent = serial_module.UNSENT_STALLS + 1
    put(uart, THR, 0x78)
    assert get(uart, LSR) == 0x00
    assert not line.level
    backend.unsent = 0
    uart.drained()
    assert get(uart, LSR) == 0x60
    assert line.level


def test_a_guest_that_goes_on_loses_what_is_beyond_the_limit(
    uart: Serial, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.unsent = serial_module.UNSENT_MAX + 1
    for _ in range(3):
        put(uart, THR, 0x78)
    assert not backend.sent
    assert len(caplog.records) == 1
    assert "COM1" in caplog.text


def test_reset_keeps_the_transmitter_stalled(uart: Serial, backend: Backend) -> None:
    backend.unsent = serial_module.UNSENT_STALLS + 1
    put(uart, THR, 0x78)
    uart.reset()
    assert get(uart, LSR) == 0x00


# The fast path.


def test_lsr_is_published_but_while_an_error_waits_in_it(uart: Serial) -> None:
    window = uart.window = FakeWindow()
    uart.reset()
    assert window.data == {LSR: b"\x60"}
    uart.receive(b"x")
    assert window.data == {LSR: b"\x61"}
    put(uart, MCR, 0x10)
    put(uart, THR, 1)
    assert window.data == {}
    get(uart, LSR)
    assert window.data == {LSR: b"\x61"}


def test_thr_is_posted_only_while_it_leads_out_of_the_chip(uart: Serial) -> None:
    window = uart.window = FakeWindow()
    uart.reset()
    assert window.posting == {THR}
    put(uart, LCR, 0x80)
    assert window.posting == set()
    put(uart, LCR, 0x03)
    put(uart, MCR, 0x10)
    assert window.posting == set()
    put(uart, MCR, 0x0B)
    assert window.posting == {THR}


# What Linux's 8250 driver does, in its order, through a bus as the guest does.


class Ports:
    def __init__(self, uart: Serial) -> None:
        self.bus = Bus("pio")
        uart.window = self.bus.claim(BASE, spec.PORTS, uart)

    def inb(self, offset: int) -> int:
        return self.bus.read(BASE + offset, 1)

    def outb(self, offset: int, value: int) -> None:
        self.bus.write(BASE + offset, 1, value)


@pytest.fixture
def ports(uart: Serial) -> Ports:
    return Ports(uart)


def test_linux_autoconfig_finds_a_16550a(ports: Ports) -> None:
    ports.outb(IER, 0x00)
    assert ports.inb(IER) & 0x0F == 0x00
    ports.outb(IER, 0x0F)
    assert ports.inb(IER) & 0x0F == 0x0F
    ports.outb(IER, 0x00)
    ports.outb(MCR, 0x10 | 0x0A)
    assert ports.inb(MSR) & 0xF0 == 0x90  # the loopback test
    ports.outb(MCR, 0x00)
    ports.outb(LCR, 0xBF)
    ports.outb(2, 0x00)  # EFR, where there is one
    ports.outb(LCR, 0x00)
    ports.outb(FCR, 0x01)
    assert ports.inb(IIR) >> 6 == 3  # PORT_16550A


def test_linux_autoconfig_finds_nothing_beyond_a_16550a(ports: Ports) -> None:
    ports.outb(FCR, 0x01)
    for lcr in (0x80, 0xBF):  # an enhanced feature register would read zero
        ports.outb(LCR, lcr)
        assert ports.inb(2) != 0
    ports.outb(LCR, 0x00)
    mcr = ports.inb(MCR)
    ports.outb(LCR, 0xE0)  # National's bank switch
    exc1 = ports.inb(2)
    ports.outb(LCR, 0x00)
    ports.outb(MCR, mcr ^ 0x10)
    ports.outb(LCR, 0xE0)
    assert ports.inb(2) == exc1
    ports.outb(LCR, 0x00)
    ports.outb(MCR, mcr)
    ports.outb(FCR, 0x21)
    assert ports.inb(IIR) & 0xE0 == 0xC0  # no 64-byte FIFO
    ports.outb(IER, 0x40)
    assert ports.inb(IER) & 0x40 == 0  # no XScale


def test_linux_startup_finds_no_transmitter_bug(ports: Ports) -> None:
    ports.outb(FCR, 0x07)
    ports.outb(FCR, 0x00)
    for register in (LSR, RBR, IIR, MSR):
        ports.inb(register)
    ports.outb(LCR, 0x03)
    for _ in range(2):  # UART_BUG_THRE: the second enabling must interrupt again
        ports.outb(IER, 0x02)
        assert ports.inb(IIR) & 0x0F == 0x02
        ports.outb(IER, 0x00)
    ports.outb(MCR, 0x0B)
    ports.outb(IER, 0x02)  # UART_BUG_TXEN
    assert ports.inb(LSR) & 0x40
    assert not ports.inb(IIR) & 0x01


def test_linux_console_writes_16_bytes_per_fifo(
    ports: Ports, backend: Backend, line: FakeLine
) -> None:
    ports.outb(FCR, 0x01)
    ports.outb(MCR, 0x0B)
    ports.outb(IER, 0x02)
    text = bytes(range(64))
    for start in range(0, len(text), 16):
        assert line.level
        assert ports.inb(IIR) & 0x0F == 0x02
        for byte in text[start : start + 16]:
            ports.outb(THR, byte)
    assert backend.sent == text


class Hammer(RuleBasedStateMachine):
    """Any access in any order, from both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.backend = Backend()
        self.line = FakeLine()
        self.uart = Serial("COM1", self.line, self.backend)
        self.window = self.uart.window = FakeWindow()
        self.uart.reset()
        self.offered = b""

    @rule(offset=st.integers(0, 7), value=st.integers(0, 255))
    def guest_writes(self, offset: int, value: int) -> None:
        put(self.uart, offset, value)

    @rule(offset=st.integers(0, 7))
    def guest_reads(self, offset: int) -> None:
        published = self.window.data.get(offset)
        value = get(self.uart, offset)
        assert 0 <= value <= 0xFF
        assert published in (None, bytes((value,)))

    @rule(data=st.binary(max_size=40))
    def guest_posts(self, data: bytes) -> None:
        if THR in self.window.posting:
            self.uart.posted(THR, data)

    @rule(data=st.binary(min_size=1, max_size=40))
    def host_sends(self, data: bytes) -> None:
        before = self.backend.resumed
        taken = self.uart.receive(data)
        assert 0 <= taken <= min(len(data), 16)
        self.waiting_since = before

    @rule(unsent=st.sampled_from([0, 1, 65536, 65537, 2 << 20]))
    def host_takes_more_or_less(self, unsent: int) -> None:
        self.backend.unsent = unsent
        self.uart.drained()

    @invariant()
    def state_is_bounded_and_the_line_is_right(self) -> None:
        assert len(self.uart._received) <= 16
        pending = self.uart._interrupt() != spec.IIR_NONE
        looped = self.uart.read(MCR, 1) & 0x10
        assert self.line.level == (pending and not looped)


TestHammer = Hammer.TestCase
TestHammer.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


# ---- break (§8.4) ----


def test_a_break_is_a_zero_whose_status_says_so_once(uart: Serial, line: FakeLine) -> None:
    fifo_on(uart)
    put(uart, IER, 0x05)
    assert uart.receive(b"a") == 1
    uart.send_break(b"h")
    assert get(uart, LSR) == 0xE1  # among those received is one
    assert get(uart, RBR) == ord("a")
    assert get(uart, IIR) == 0xC6
    assert get(uart, LSR) == 0xF1
    assert get(uart, LSR) == 0x61
    assert get(uart, IIR) == 0xC4
    assert (get(uart, RBR), get(uart, RBR)) == (0, ord("h"))
    assert not line.level


def test_a_break_that_nobody_asks_about_is_a_zero(uart: Serial) -> None:
    uart.send_break()
    assert get(uart, RBR) == 0
    assert get(uart, LSR) == 0x60


def test_a_break_needs_room(uart: Serial) -> None:
    with pytest.raises(UsageError, match="must read COM1 before"):
        uart.send_break(b"h")
    put(uart, MCR, 0x10)
    with pytest.raises(UsageError, match="must read COM1 before"):
        uart.send_break()
    put(uart, MCR, 0)
    assert get(uart, LSR) == 0x60


def test_the_status_is_not_published_while_it_tells_of_a_break(uart: Serial) -> None:
    window = FakeWindow()
    uart.window = window
    uart.send_break()
    assert LSR not in window.data
    get(uart, LSR)
    assert window.data[LSR] == b"\x61"
