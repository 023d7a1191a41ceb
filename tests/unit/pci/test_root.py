"""PCI 3.0 configuration space through both access mechanisms."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyvmm import layout
from pyvmm.bus import Bus
from pyvmm.errors import UsageError
from pyvmm.pci import pci_spec as spec
from pyvmm.pci.function import Bar, Function, HostBridge
from pyvmm.pci.root import MEMORY_WINDOW, PciRoot
from tests.fakes.lines import FakeLine, FakeWindow

HIGH_WINDOW = range(1 << 38, 1 << 39)


class Card(Function):
    """A function with a BAR of each kind, which notes what it is told."""

    def __init__(self) -> None:
        super().__init__(0x1AF4, 0x1042, 0x01_0802, revision=1, line=FakeLine())
        self.told: list[tuple[int, int | None]] = []
        self.commands: list[int] = []
        self.memory = self.add_bar(0, 0x4000)
        self.io = self.add_bar(1, 0x20, spec.BAR_IO)
        self.high = self.add_bar(2, 1 << 33, spec.BAR_64 | spec.BAR_PREFETCH)
        self.on_bar = self.note
        self.on_command = self.commands.append

    def note(self, bar: Bar) -> None:
        self.told.append((bar.index, bar.address))


class Board:
    def __init__(self) -> None:
        self.resets = 0
        self.pio, self.mmio = Bus("pio"), Bus("mmio", lambda *claim: FakeWindow())
        self.root = PciRoot("PCI", self.reset, (MEMORY_WINDOW, HIGH_WINDOW))
        self.card = Card()
        self.root.add(0, HostBridge())
        self.root.add(3, self.card)
        self.root.claim(self.pio, self.mmio)
        self.root.reset()

    def reset(self) -> None:
        self.resets += 1

    @property
    def window(self) -> FakeWindow:
        assert isinstance(self.root.window, FakeWindow)
        return self.root.window

    def ecam(self, device: int, register: int) -> int:
        return layout.ECAM + (device << 15 | register)

    def inl(self, device: int, register: int, size: int = 4) -> int:
        self.pio.write(0xCF8, 4, 1 << 31 | device << 11 | register & 0xFC)
        return self.pio.read(0xCFC + (register & 3), size)

    def outl(self, device: int, register: int, value: int, size: int = 4) -> None:
        self.pio.write(0xCF8, 4, 1 << 31 | device << 11 | register & 0xFC)
        self.pio.write(0xCFC + (register & 3), size, value)


@pytest.fixture
def board() -> Board:
    return Board()


def test_linux_finds_mechanism_1_and_a_host_bridge(board: Board) -> None:
    """pci_check_type1 and pci_sanity_check."""
    board.pio.write(0xCFB, 1, 0x01)
    before = board.pio.read(0xCF8, 4)
    board.pio.write(0xCF8, 4, 0x8000_0000)
    assert board.pio.read(0xCF8, 4) == 0x8000_0000
    board.pio.write(0xCF8, 4, before)
    assert board.inl(0, spec.CLASS + 1, 2) == 0x0600


def test_both_mechanisms_show_the_same_bytes_at_every_width(board: Board) -> None:
    for device in (0, 3):
        for register in range(0, 0x100, 4):
            whole = board.mmio.read(board.ecam(device, register), 4)
            assert board.inl(device, register) == whole
            for at in range(4):
                assert board.inl(device, register + at, 1) == whole >> 8 * at & 0xFF
            assert board.inl(device, register + 2, 2) == whole >> 16
            assert board.mmio.read(board.ecam(device, register + 2), 2) == whole >> 16


def test_header_fields(board: Board) -> None:
    assert board.inl(3, spec.VENDOR_ID) == 0x1042_1AF4
    assert board.inl(3, spec.REVISION) == 0x01_0802_01
    assert board.inl(3, spec.SUBSYSTEM_VENDOR_ID) == 0x1100_1AF4
    assert board.inl(3, spec.INTERRUPT_PIN, 1) == 1
    assert board.inl(3, spec.HEADER_TYPE, 1) == 0


def test_absent_functions_read_as_ones(board: Board) -> None:
    assert board.inl(1, 0) == 0xFFFF_FFFF
    assert board.mmio.read(board.ecam(3, 0x1000), 4) == 0xFFFF_FFFF  # function 1
    assert board.mmio.read(layout.ECAM + layout.ECAM_SIZE - 8, 8) == 2**64 - 1
    board.outl(1, 0, 0)


def test_other_buses_are_empty(board: Board) -> None:
    board.pio.write(0xCF8, 4, 1 << 31 | 1 << 16)
    assert board.pio.read(0xCFC, 4) == 0xFFFF_FFFF
    board.pio.write(0xCFC, 4, 0)


def test_data_port_is_dead_while_the_address_is_not_enabled(board: Board) -> None:
    board.pio.write(0xCF8, 4, 3 << 11 | spec.INTERRUPT_LINE)
    assert board.pio.read(0xCFC, 4) == 0xFFFF_FFFF
    board.pio.write(0xCFC, 1, 7)
    assert board.inl(3, spec.INTERRUPT_LINE, 1) == 0


def test_narrow_accesses_leave_the_address_alone(board: Board) -> None:
    board.pio.write(0xCF8, 4, 0x8000_1810)
    for size, port in ((1, 0xCF8), (2, 0xCFA), (1, 0xCFB)):
        board.pio.write(port, size, 0)
        assert board.pio.read(port, size) == (1 << 8 * size) - 1
    assert board.pio.read(0xCF8, 4) == 0x8000_1810


def test_byte_at_cf9_resets_the_machine(board: Board) -> None:
    board.pio.write(0xCF9, 1, 0x02)
    assert board.resets == 0
    assert board.pio.read(0xCF9, 1) == 0x02
    board.pio.write(0xCF9, 1, 0x06)
    assert board.resets == 1
    board.pio.write(0xCF8, 4, 0x0000_0600)
    assert board.resets == 1


def test_bar_sizing(board: Board) -> None:
    for register, mask in ((0x10, 0xFFFF_C000), (0x14, 0xFFFF_FFE1), (0x18, 0x0000_000C),
                           (0x1C, 0xFFFF_FFFE), (0x20, 0), (0x24, 0)):  # fmt: skip
        board.outl(3, register, 0xFFFF_FFFF)
        assert board.inl(3, register) == mask
    assert board.card.told == []


def test_bars_are_told_when_decoding_starts_moves_and_stops(board: Board) -> None:
    board.outl(3, 0x10, 0xC000_0000)
    board.outl(3, 0x14, 0xC040)
    board.outl(3, 0x18, 0)
    board.outl(3, 0x1C, 1 << 38 - 32)
    assert board.card.told == []
    board.outl(3, spec.COMMAND, spec.COMMAND_MEMORY, 2)
    assert board.card.told == [(0, 0xC000_0000), (2, 1 << 38)]
    board.outl(3, spec.COMMAND, spec.COMMAND_MEMORY | spec.COMMAND_IO, 2)
    assert board.card.told[2:] == [(1, 0xC040)]
    board.outl(3, 0x10, 0xD000_0000)
    assert board.card.told[3:] == [(0, 0xD000_0000)]
    board.outl(3, spec.COMMAND, 0, 2)
    assert board.card.told[4:] == [(0, None), (1, None), (2, None)]
    assert board.card.commands == [2, 3, 0]


def test_bars_that_go_are_told_before_those_that_come(board: Board) -> None:
    board.outl(3, 0x10, 0xC000_0000)
    board.outl(3, 0x14, 0xC040)
    board.outl(3, spec.COMMAND, spec.COMMAND_IO, 2)
    board.outl(3, spec.COMMAND, spec.COMMAND_MEMORY, 2)
    assert board.card.told == [(1, 0xC040), (1, None), (0, 0xC000_0000)]


@pytest.mark.parametrize("address", [0x0000_0000, 0xFEE0_0000, 0xBFFF_C000, 0xE000_0000])
def test_a_bar_outside_the_windows_is_not_decoded(board: Board, address: int) -> None:
    board.outl(3, spec.COMMAND, spec.COMMAND_MEMORY, 2)
    board.outl(3, 0x10, address)
    assert board.card.memory.address is None


def test_command_keeps_only_bits_that_exist(board: Board) -> None:
    board.outl(3, spec.COMMAND, 0xFFFF_FFFF)
    assert board.inl(3, spec.COMMAND) & 0xFFFF == 0x0407


def test_read_only_registers_stay(board: Board) -> None:
    before = board.mmio.read(board.ecam(0, 0), 8)
    board.mmio.write(board.ecam(0, 0), 8, 0xFFFF_0000_FFFF_FFFF)
    assert board.mmio.read(board.ecam(0, 0), 8) == before


def test_capabilities_form_a_list(board: Board) -> None:
    config = board.card.config
    first = config.add_capability(0x09, bytes(11))
    second = config.add_capability(0x11, b"\x01\x02\x03", writable=b"\x00\xf0")
    assert board.inl(3, spec.STATUS, 2) & 0x10
    assert board.inl(3, spec.CAPABILITIES, 1) == first == 0x40
    assert board.inl(3, first, 2) == second << 8 | 0x09
    assert board.inl(3, second) == 0x0201_0011
    board.outl(3, second, 0xFFFF_FFFF)
    assert board.inl(3, second) == 0xF201_0011
    with pytest.raises(UsageError, match="192 bytes"):
        config.add_capability(0x09, bytes(200))


def test_write_one_to_clear(board: Board) -> None:
    config = board.card.config
    config.data[spec.STATUS + 1] = 0xF0
    config.clearable[spec.STATUS + 1] = 0xC0
    board.outl(3, spec.STATUS, 0x4000, 2)
    assert config.data[spec.STATUS + 1] == 0xB0


def test_reset_forgets_what_the_guest_has_set(board: Board) -> None:
    board.outl(3, 0x10, 0xC000_0000)
    board.outl(3, spec.COMMAND, spec.COMMAND_MEMORY, 2)
    board.outl(3, spec.INTERRUPT_LINE, 11, 1)
    board.root.reset()
    assert board.card.told[-1] == (0, None)
    assert board.pio.read(0xCF8, 4) == 0
    assert board.inl(3, 0x10) == board.inl(3, spec.INTERRUPT_LINE, 1) == 0
    assert board.inl(3, spec.COMMAND, 2) == 0
    assert board.inl(3, 0x14) == 1


def test_published_bytes_are_those_that_a_read_gives(board: Board) -> None:
    board.outl(3, 0x10, 0xC000_0000)
    for place in (0, 3 << 3):
        published = board.window.data[place << 12]
        for at in range(0, 0x1000, 4):
            whole = int.from_bytes(published[at : at + 4], "little")
            assert board.mmio.read(layout.ECAM + (place << 12 | at), 4) == whole


def test_present_and_absent_functions_cover_the_bus_once(board: Board) -> None:
    spans = [(at, len(data)) for at, data in board.window.data.items()] + board.window.ones
    end = 0
    for at, size in sorted(spans):
        assert at == end
        end += size
    assert end == layout.ECAM_SIZE


def test_further_functions_make_a_device_multifunction(board: Board) -> None:
    board.root.add(3, Card(), 2)
    assert board.inl(3, spec.HEADER_TYPE, 1) == 0x80
    for place in ((3, 2), (32, 0), (4, 1), (3, 8)):
        with pytest.raises(UsageError):
            board.root.add(place[0], Card(), place[1])


@pytest.mark.parametrize(
    ("index", "size", "flags"),
    [
        (4, 0x30, 0),
        (4, 8, 0),
        (4, 2, spec.BAR_IO),
        (4, 1 << 32, 0),
        (3, 0x1000, 0),  # the upper half of BAR 2
        (5, 0x1000, spec.BAR_64),
        (6, 0x1000, 0),
    ],
)
def test_a_bar_that_pci_has_not_is_refused(index: int, size: int, flags: int) -> None:
    with pytest.raises(UsageError):
        Card().add_bar(index, size, flags)


class Hammer(RuleBasedStateMachine):
    """Any access in any order through both mechanisms."""

    def __init__(self) -> None:
        super().__init__()
        self.board = Board()
        self.identity = self.board.inl(3, 0)

    @rule(port=st.integers(0xCF8, 0xCFF), size=st.sampled_from([1, 2, 4]),
          value=st.integers(0, 2**32 - 1) | st.just(0x8000_1810))  # fmt: skip
    def ports(self, port: int, size: int, value: int) -> None:
        self.board.pio.write(port, size, value & (1 << 8 * size) - 1)
        assert 0 <= self.board.pio.read(port, size) < 1 << 8 * size

    @rule(device=st.sampled_from([0, 3, 4]), register=st.integers(0, 0x44) | st.integers(0, 0xFFF),
          size=st.sampled_from([1, 2, 4, 8]), value=st.integers(0, 2**64 - 1))  # fmt: skip
    def memory(self, device: int, register: int, size: int, value: int) -> None:
        address = self.board.ecam(device, register)
        self.board.mmio.write(address, size, value & (1 << 8 * size) - 1)
        assert 0 <= self.board.mmio.read(address, size) < 1 << 8 * size

    @invariant()
    def bars_lie_in_their_windows_and_the_identity_stays(self) -> None:
        card = self.board.card
        assert int.from_bytes(card.config.data[:4], "little") == self.identity
        assert len(card.config.data) == spec.CONFIG_SIZE
        assert self.board.window.data[3 << 15] == card.config.data
        for bar in card.bars:
            if bar.address is not None:
                assert bar.address % bar.size == 0
                low, high = (0xC000, 0x10000) if bar.is_io else (layout.PCI_WINDOW, 1 << 39)
                assert low <= bar.address <= high - bar.size


TestHammer = Hammer.TestCase
TestHammer.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
