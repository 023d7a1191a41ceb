"""A guest that reads and writes the registers of virtio devices without sense or with a little.

    python -m tests.fuzz.registers SECONDS [SEED]

Everything between the bus and the device is real: the configuration mechanisms of PCI, a device
behind PCI and one behind MMIO, their workers and queues. What would be KVM's refuses what KVM does.
"""

from __future__ import annotations

import logging
import random
import struct
import sys
import threading
import time
from collections.abc import Callable

from pyvmm import layout
from pyvmm.bus import Bus
from pyvmm.loop import Loop
from pyvmm.memory import GuestMemory
from pyvmm.pci import pci_spec as pci
from pyvmm.pci.function import HostBridge
from pyvmm.pci.root import PciRoot
from pyvmm.virtio import mmio_spec, pci_spec
from pyvmm.virtio import virtio_spec as virtio
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.mmio import MmioTransport
from pyvmm.virtio.pci import PciTransport
from pyvmm.virtio.virtqueue import Virtqueue
from tests.fakes.lines import FakeLine

QUEUES = (64, 1024, 1)
PLACE = 3
FUNCTION = layout.ECAM + (PLACE << 15)
BARS = [layout.PCI_WINDOW, layout.PCI_WINDOW + pci_spec.BAR_SIZE]
CONFIG = bytes(range(1, 13))
STATUSES = [0, 1, 3, 11, 15, 15, 15, 64, 128, 143]
RING_SPAN, DRIVER_AREA, DEVICE_AREA = 0x1_0000, 0x8000, 0xC000
PCI_REGISTERS = {
    "STATUS": pci_spec.DEVICE_STATUS,
    "FEATURES_SEL": pci_spec.DRIVER_FEATURE_SELECT,
    "FEATURES": pci_spec.DRIVER_FEATURE,
    "SELECT": pci_spec.QUEUE_SELECT,
    "SIZE": pci_spec.QUEUE_SIZE,
    "DESC": pci_spec.QUEUE_DESC,
    "DRIVER": pci_spec.QUEUE_DRIVER,
    "DEVICE": pci_spec.QUEUE_DEVICE,
    "ENABLE": pci_spec.QUEUE_ENABLE,
}
MMIO_REGISTERS = {
    "STATUS": mmio_spec.STATUS,
    "FEATURES_SEL": mmio_spec.DRIVER_FEATURES_SEL,
    "FEATURES": mmio_spec.DRIVER_FEATURES,
    "SELECT": mmio_spec.QUEUE_SEL,
    "SIZE": mmio_spec.QUEUE_SIZE,
    "DESC": mmio_spec.QUEUE_DESC,
    "DRIVER": mmio_spec.QUEUE_DRIVER,
    "DEVICE": mmio_spec.QUEUE_DEVICE,
    "ENABLE": mmio_spec.QUEUE_READY,
    "NOTIFY": mmio_spec.QUEUE_NOTIFY,
}
NOTES = 40  # accesses that are told of when something goes wrong


class Echo(VirtioDevice):
    """Answers what it is asked, and has a configuration space of which a byte can be written."""

    ID = virtio.ID_NET

    def __init__(self, name: str) -> None:
        super().__init__(name, QUEUES, packed=True)
        self.config = bytearray(CONFIG)

    def read_config(self) -> bytes:
        return bytes(self.config)

    def write_config(self, offset: int, data: bytes) -> None:
        if offset == 0 and len(data) == 1:
            self.config[0] = data[0]
            self.transport.config_changed()

    def handle(self, queue: Virtqueue, chain: Chain) -> bool:
        chain.write(chain.read(4096))
        return True


class Connections:
    """KVM's ioeventfds, and its irqfds: none of them is there twice, or ends before it began."""

    def __init__(self) -> None:
        self.made: set[object] = set()
        self.lock = threading.Lock()

    def connect(self, *key: object) -> None:
        with self.lock:
            assert key not in self.made, f"{key} is connected twice"
            self.made.add(key)

    def disconnect(self, *key: object) -> None:
        with self.lock:
            assert key in self.made, f"{key} is not connected"
            self.made.remove(key)


class Vector(Connections):
    def route(self, address: int, data: int) -> None:
        assert 0 <= address < 1 << 64
        assert 0 <= data < 1 << 32


class Machine:
    """As much of one as registers need."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.memory = GuestMemory(layout.MIB)
        self.pio, self.mmio = Bus("pio"), Bus("mmio")
        self.doorbells = Connections()
        self.root = PciRoot("PCI", lambda: None)
        self.pci = PciTransport(
            Echo("pci"),
            self.memory,
            self.loop,
            self.doorbells,
            mmio=self.mmio,
            line=FakeLine(),
            vectors=[Vector() for _ in range(len(QUEUES) + 1)],
        )
        self.root.add(0, HostBridge())
        self.root.add(PLACE, self.pci.function)
        self.root.claim(self.pio, self.mmio)
        self.root.reset()
        self.plain = MmioTransport(
            Echo("mmio"),
            self.memory,
            self.loop,
            self.doorbells,
            base=layout.VIRTIO_MMIO,
            line=FakeLine(),
        )
        self.mmio.claim(layout.VIRTIO_MMIO, layout.VIRTIO_MMIO_STRIDE, self.plain, width=4)

    def close(self) -> None:
        self.root.reset()
        self.pci.close()
        self.plain.close()
        assert not self.doorbells.made
        self.loop.close()
        self.memory.close()

    def run_loop(self) -> None:
        """Have the event loop do what is due."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run()


class Guest:
    """What it does next depends on nothing but the seed."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine = machine
        self.random = random.Random(seed)
        self.log: list[tuple[str, int, int, int]] = []
        self.moves: list[Callable[[], None]] = [
            *(self.common,) * 6,
            *(self.mmio,) * 6,
            self.function,
            self.ports,
            self.bar,
            self.vector_table,
            self.set_up,
            *(self.request,) * 4,
            self.scatter,
            self.anywhere,
        ]

    def step(self) -> None:
        self.random.choice(self.moves)()

    # ---- accesses ----

    def access(self, bus: Bus, address: int, size: int, value: int) -> None:
        """Write or read."""
        self.log = [*self.log[-NOTES:], (bus.name, address, size, value)]
        if self.random.random() < 0.8:
            bus.write(address, size, value & (1 << 8 * size) - 1)
        else:
            answer = bus.read(address, size)
            assert 0 <= answer < 1 << 8 * size

    def value(self) -> int:
        small, bits = self.random.randrange(5), self.random.choice([8, 16, 32, 64])
        in_ram = self.random.randrange(layout.MIB) & -self.random.choice([1, 16, 4096])
        return self.random.choice([small, small, in_ram, self.random.getrandbits(bits)])

    def size(self, usual: int) -> int:
        return usual if self.random.random() < 0.9 else self.random.choice([1, 2, 4, 8])

    # ---- with a little sense ----

    def common(self) -> None:
        """The common configuration behind PCI."""
        spec = pci_spec
        at, size, value = self.random.choice(
            [
                (spec.DEVICE_STATUS, 1, self.random.choice(STATUSES)),
                (spec.DEVICE_STATUS, 1, self.random.choice(STATUSES)),
                (spec.DRIVER_FEATURE_SELECT, 4, self.random.randrange(3)),
                (spec.DEVICE_FEATURE_SELECT, 4, self.value()),
                (spec.DRIVER_FEATURE, 4, self.random.choice([1, 1 << 28, 3 << 28, 5, 0])),
                (spec.QUEUE_SELECT, 2, self.random.randrange(4)),
                (spec.QUEUE_SIZE, 2, self.random.choice([1, 2, 8, 64, self.value()])),
                (spec.QUEUE_ENABLE, 2, 1),
                (spec.CONFIG_MSIX_VECTOR, 2, self.random.randrange(6)),
                (spec.QUEUE_MSIX_VECTOR, 2, self.random.randrange(6)),
                (spec.QUEUE_DESC + self.random.choice([0, 4, 8, 12, 16, 20]), 4, self.value()),
                (spec.NOTIFY + 4 * self.random.randrange(4), 2, 0),
                (spec.ISR, 1, 0),
                (spec.DEVICE + self.random.randrange(len(CONFIG) + 4), 1, self.value()),
            ]
        )
        bar = self.machine.pci.function.bars[0].address or BARS[0]
        self.access(self.machine.mmio, bar + at, self.size(size), value)

    def mmio(self) -> None:
        """The registers of the device behind MMIO."""
        spec = mmio_spec
        at, value = self.random.choice(
            [
                (spec.STATUS, self.random.choice(STATUSES)),
                (spec.STATUS, self.random.choice(STATUSES)),
                (spec.DRIVER_FEATURES_SEL, self.random.randrange(3)),
                (spec.DRIVER_FEATURES, self.random.choice([1, 1 << 28, 3 << 28, 5, 0])),
                (spec.QUEUE_SEL, self.random.randrange(4)),
                (spec.QUEUE_SIZE, self.random.choice([1, 2, 8, 64, self.value()])),
                (spec.QUEUE_READY, 1),
                (spec.QUEUE_NOTIFY, self.random.randrange(4)),
                (spec.INTERRUPT_ACK, self.random.randrange(4)),
                (self.random.choice([spec.QUEUE_DESC, spec.QUEUE_DRIVER, spec.QUEUE_DEVICE]), 0),
                (4 * self.random.randrange(0x50), self.value()),
            ]
        )
        self.access(self.machine.mmio, layout.VIRTIO_MMIO + at, self.size(4), value)

    def function(self) -> None:
        """The configuration space, by ECAM."""
        at = self.random.choice([pci.COMMAND, 4 * self.random.randrange(64)])
        value = self.random.choice([7, 7, 6, self.value()])
        self.access(self.machine.mmio, FUNCTION + at, self.size(self.random.choice([2, 4])), value)

    def ports(self) -> None:
        """The configuration space, by ports."""
        register = self.random.randrange(64) << 2
        address = 1 << 31 | self.random.choice([0, PLACE, self.random.randrange(32)]) << 11
        self.access(self.machine.pio, layout.PCI_CONFIG_ADDRESS, 4, address | register)
        at = layout.PCI_CONFIG_DATA + self.random.randrange(4)
        self.access(self.machine.pio, at, self.random.choice([1, 2, 4]), self.value())

    def bar(self) -> None:
        """Put the BAR somewhere and switch the function on."""
        self.machine.mmio.write(FUNCTION + pci.BAR0, 4, self.random.choice(BARS))
        self.machine.mmio.write(FUNCTION + pci.BAR0 + 4, 4, 0)
        self.machine.mmio.write(FUNCTION + pci.COMMAND, 2, 6)

    def vector_table(self) -> None:
        """MSI-X: its switch, the table and the pending bits."""
        bar = self.machine.pci.function.bars[0].address or BARS[0]
        self.access(self.machine.mmio, bar + pci_spec.MSIX_PBA, 8, 0)
        at = pci_spec.MSIX_TABLE + 4 * self.random.randrange(20)
        self.access(
            self.machine.mmio, bar + at, self.size(4), self.random.choice([0, self.value()])
        )
        control = self.machine.pci.msix._at + pci.MSIX_CONTROL
        self.access(self.machine.mmio, FUNCTION + control, 2, self.random.getrandbits(2) << 14)

    def set_up(self) -> None:
        """Do what a driver does, but forget one thing now and then."""
        behind_pci = self.random.random() < 0.5
        if behind_pci:
            self.bar()
        names, base, width = self.registers(behind_pci)
        features = self.random.choice([0, 1 << 28, 3 << 28])
        moves = [("STATUS", 0), ("STATUS", 1), ("STATUS", 3), ("FEATURES_SEL", 0)]
        moves += [("FEATURES", features), ("FEATURES_SEL", 1)]
        moves += [("FEATURES", self.random.choice([1, 1, 5])), ("STATUS", 11)]
        for index in range(len(QUEUES)):
            ring = self.ring(behind_pci, index)
            moves += [("SELECT", index), ("SIZE", self.random.choice([1, 8, 8, 64]))]
            moves += [
                ("DESC", ring),
                ("DRIVER", ring + DRIVER_AREA),
                ("DEVICE", ring + DEVICE_AREA),
            ]
            moves += [("ENABLE", 1)]
        for name, value in [*moves, ("STATUS", 15)]:
            if self.random.random() < 0.99:
                self.machine.mmio.write(base + names[name], width.get(name, 4), value)

    def registers(self, behind_pci: bool) -> tuple[dict[str, int], int, dict[str, int]]:
        """Where a device's registers are, and those that are not of four bytes."""
        if behind_pci:
            bar = self.machine.pci.function.bars[0].address or BARS[0]
            return PCI_REGISTERS, bar, {"STATUS": 1, "SELECT": 2, "SIZE": 2, "ENABLE": 2}
        return MMIO_REGISTERS, layout.VIRTIO_MMIO, {}

    def ring(self, behind_pci: bool, index: int) -> int:
        return RING_SPAN * (1 + index + len(QUEUES) * behind_pci)

    def request(self) -> None:
        """Make a chain available in a split ring, more or less right, and ring."""
        behind_pci, index = self.random.random() < 0.5, self.random.randrange(len(QUEUES))
        ring, memory = self.ring(behind_pci, index), self.machine.memory
        flags = self.random.choice([0, 1, 2, 3, self.random.randrange(8)])
        buffer = self.random.choice([0x1000, 0x2000, self.value() & (1 << 64) - 1])
        descriptor = (buffer, self.random.choice([0, 16, 64]), flags, self.random.randrange(3))
        at = ring + 16 * self.random.randrange(3)
        memory.write(at, struct.pack("<QIHH", *descriptor))
        more = self.random.choice([0, 1, 1, 1, 2])
        available = memory.u16(ring + DRIVER_AREA + 2) + more & 0xFFFF
        memory.write_u16(ring + DRIVER_AREA + 2, available)
        names, base, _ = self.registers(behind_pci)
        if behind_pci:
            self.machine.mmio.write(base + pci_spec.NOTIFY + 4 * index, 2, index)
        else:
            self.machine.mmio.write(base + names["NOTIFY"], 4, index)

    def scatter(self) -> None:
        """Strew bytes over the guest's memory, where rings are."""
        at = self.random.randrange(layout.MIB // 16) << 4
        self.machine.memory.write(at, self.random.randbytes(16))
        ring = self.ring(self.random.random() < 0.5, self.random.randrange(len(QUEUES)))
        self.machine.memory.write(ring, bytes(64))
        self.machine.memory.write(ring + DRIVER_AREA, bytes(64))

    # ---- and with none ----

    def anywhere(self) -> None:
        bus, base, length = self.random.choice(
            [
                (self.machine.pio, layout.PCI_CONFIG_ADDRESS, 8),
                (self.machine.mmio, layout.ECAM, layout.ECAM_SIZE),
                (self.machine.mmio, FUNCTION, 0x1000),
                (self.machine.mmio, layout.VIRTIO_MMIO, layout.VIRTIO_MMIO_STRIDE),
                (self.machine.mmio, BARS[0], pci_spec.BAR_SIZE * 2),
            ]
        )
        size = self.random.choice([1, 2, 4, 8])
        self.access(bus, base + self.random.randrange(length), size, self.value())


def run(seed: int, steps: int) -> None:
    """Take `steps` steps on a new machine. Raises what goes wrong, on any thread."""
    raised: list[object] = []
    hook, threading.excepthook = threading.excepthook, raised.append
    logging.disable()  # of the driver's mistakes there are many
    machine = Machine()
    guest = Guest(machine, seed)
    try:
        for number in range(steps):
            guest.step()
            if number % 50 == 0:
                machine.run_loop()
        machine.close()
        assert not raised, raised
    except BaseException:
        print(f"seed {seed}, the last accesses:", *guest.log, sep="\n", file=sys.stderr)
        raise
    finally:
        threading.excepthook = hook
        logging.disable(logging.NOTSET)


def main(seconds: float, seed: int | None = None) -> None:
    start, rounds, steps = time.monotonic(), 0, 5000
    while time.monotonic() - start < seconds:
        run(random.getrandbits(32) if seed is None else seed, steps)
        rounds += 1
    print(f"register accesses: about {rounds * steps}")


if __name__ == "__main__":
    main(float(sys.argv[1]), *map(int, sys.argv[2:3]))
