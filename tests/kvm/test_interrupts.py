"""Interrupts into a bare guest, and doorbells out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from conftest import Bare

from pyvmm.kvm import exits
from pyvmm.kvm.vm import IrqchipRoute, MsiRoute

VECTOR = 0x40
HANDLER = 0x1800
TOLD = exits.PioWrite(0x80, 1, 0x77)
APIC_0 = 0xFEE00000  # SDM 3A §10.11.1: physical destination 0
SPURIOUS, SOFTWARE_ENABLE = 0xF0, 0x100  # SDM 3A §10.9
LINT0, EXTINT = 0x350, 7 << 8  # SDM 3A §10.5.1: what the PICs ask for


@pytest.fixture
def eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


@pytest.fixture
def sleeper(bare_irqchip: Bare) -> Bare:
    """A guest that sleeps and writes to port 0x80 when it gets VECTOR."""
    guest = bare_irqchip
    guest.memory[4 * VECTOR : 4 * VECTOR + 4] = HANDLER.to_bytes(4, "little")
    guest.load("b077 e680 cf", HANDLER)  # mov al, 0x77; out 0x80, al; iret
    guest.load("fb f4 ebfc")  # sti; hlt; jmp back
    guest.set_lapic(SPURIOUS, SOFTWARE_ENABLE | 0xFF)
    return guest


def test_signal_msi_wakes_a_sleeping_guest(sleeper: Bare) -> None:
    assert sleeper.vm.signal_msi(APIC_0, VECTOR)
    assert sleeper.run() == TOLD


def test_an_irqfd_delivers_what_its_route_says(sleeper: Bare, eventfd: int) -> None:
    sleeper.vm.set_gsi_routing([IrqchipRoute(4, "IOAPIC", 4), MsiRoute(24, APIC_0, VECTOR)])
    sleeper.vm.irqfd(eventfd, 24)
    os.eventfd_write(eventfd, 1)
    assert sleeper.run() == TOLD


def test_a_deassigned_irqfd_delivers_nothing(sleeper: Bare, eventfd: int) -> None:
    sleeper.vm.set_gsi_routing([MsiRoute(24, APIC_0, VECTOR)])
    sleeper.vm.irqfd(eventfd, 24)
    sleeper.vm.irqfd(eventfd, 24, deassign=True)
    os.eventfd_write(eventfd, 1)
    sleeper.vcpu.kick()
    assert sleeper.run() == exits.Interrupted()
    assert os.eventfd_read(eventfd) == 1


def test_an_irq_line_goes_through_the_pics(bare_irqchip: Bare) -> None:
    guest = bare_irqchip
    guest.memory[4 * 0x0C : 4 * 0x0C + 4] = HANDLER.to_bytes(4, "little")
    guest.load("b077 e680 cf", HANDLER)
    # ICW1, ICW2 = 8, ICW3, ICW4 and a mask of none at the first PIC; out 0x80, al; sti; hlt
    guest.load("b011e620 b008e621 b004e621 b001e621 b000e621 e680 fb f4 ebfc")
    guest.set_lapic(SPURIOUS, SOFTWARE_ENABLE | 0xFF)
    guest.set_lapic(LINT0, EXTINT)
    assert guest.run() == exits.PioWrite(0x80, 1, 0)
    guest.vm.irq_line(4, True)
    assert guest.run() == TOLD


def test_a_write_to_an_ioeventfd_is_no_exit(bare: Bare, eventfd: int) -> None:
    bare.vm.ioeventfd(eventfd, 0x300, 2, pio=True)
    bare.load("ba0003 ef ef ee f4")  # out dx, ax twice; out dx, al
    assert bare.run() == exits.PioWrite(0x300, 1, 0)
    assert os.eventfd_read(eventfd) == 2
    bare.vm.ioeventfd(eventfd, 0x300, 2, pio=True, deassign=True)
    bare.load("ba0003 ef f4")
    assert bare.run() == exits.PioWrite(0x300, 2, 0)


def test_an_ioeventfd_with_a_value_takes_only_that(bare: Bare, eventfd: int) -> None:
    bare.vm.ioeventfd(eventfd, 0x300, 2, datamatch=7, pio=True)
    bare.load("ba0003 b80700 ef 40 ef f4")  # 7, then 8
    assert bare.run() == exits.PioWrite(0x300, 2, 8)
    assert os.eventfd_read(eventfd) == 1
