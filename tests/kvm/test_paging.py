"""Walks of random page tables agree with KVM's own."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pyvmm import Machine
from pyvmm.errors import KvmError
from pyvmm.inspection import paging_spec as spec
from pyvmm.inspection.views import virtual_memory

TABLES = range(0x10_0000, 0x10_8000, 0x1000)
LONG = spec.EFER_LMA | 1 << 8
CR0_PE = 1
ADDRESSES = 400
MODES = {
    "real": (0, 0, 0),
    "protected": (CR0_PE, 0, 0),
    "32-bit": (CR0_PE | spec.CR0_PG, 0, 0),
    "32-bit-PSE": (CR0_PE | spec.CR0_PG, spec.CR4_PSE, 0),
    "PAE": (CR0_PE | spec.CR0_PG, spec.CR4_PAE, 0),
    "4-level": (CR0_PE | spec.CR0_PG, spec.CR4_PAE, LONG | spec.EFER_NXE),
    "5-level": (CR0_PE | spec.CR0_PG, spec.CR4_PAE | spec.CR4_LA57, LONG | spec.EFER_NXE),
}


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(memory="16M", no_reboot=True) as machine:
        yield machine


def entry(dice: random.Random, size: int) -> int:
    """One that points to a table or a page, mostly; large, absent or wrong at times."""
    value = dice.choice(TABLES) | 0x7
    for chance, bits in ((0.15, spec.LARGE), (0.1, spec.LARGE | 0x20_0000), (0.05, 1 << 13)):
        if dice.random() < chance:
            value |= bits
    if dice.random() < 0.1:
        value &= ~spec.PRESENT
    if size == 8 and dice.random() < 0.05:
        value |= 1 << dice.choice((36, 51, 62, 63))
    return value


def fill(machine: Machine, dice: random.Random, size: int, first: int) -> None:
    for table in TABLES:
        data = b"".join(entry(dice, size).to_bytes(size, "little") for _ in range(4096 // size))
        machine.memory.write(table, data)
    # What a CPU loads at once in PAE mode must be sound; it also makes most walks go on.
    for index in range(first):
        pointer = TABLES[1 + index] | spec.PRESENT
        machine.memory.write(TABLES[0] + index * size, pointer.to_bytes(size, "little"))


@pytest.mark.parametrize("mode", MODES)
def test_a_walk_agrees_with_KVM_in_every_mode(machine: Machine, mode: str) -> None:
    cr0, cr4, efer = MODES[mode]
    dice = random.Random(mode)
    fill(machine, dice, 8 if cr4 & spec.CR4_PAE else 4, 4)
    vcpu = machine.vcpus[0]
    sregs = vcpu.sregs
    sregs.cr3, sregs.cr4, sregs.efer = TABLES[0], cr4, efer
    sregs.cr0 = cr0 | 1 << 4
    sregs.cs.l, sregs.cs.db = (1, 0) if efer else (0, sregs.cs.db)
    try:
        vcpu.sregs = sregs
    except KvmError as error:
        pytest.skip(f"this KVM has no {mode} mode: {error}")
    if (vcpu.sregs.cr0 ^ cr0) & spec.CR0_PG:
        pytest.skip(f"this KVM has no {mode} paging")
    memory = virtual_memory(machine, 0)
    outcomes = set()
    for _ in range(ADDRESSES):
        bits = memory.mode.bits
        address = dice.getrandbits(min(bits, 34))
        if bits > 32 and dice.random() < 0.5:
            address |= -1 << bits - 1 & (1 << 64) - 1
        elif bits == 32:
            address &= 0xFFFF_FFFF
        walk = memory.walk(address)
        assert walk.physical == vcpu.translate(address), walk
        outcomes.add((len(walk.steps), walk.physical is None))
    assert not cr0 & spec.CR0_PG or len(outcomes) > 2
