"""A ring in some state and what happens to it next, as a small file: the format of
csrc/fuzz/ring_fuzz.c, played here through any Virtqueue."""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyvmm.layout import GIB
from pyvmm.memory import GuestMemory, Region
from pyvmm.native import ffi
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.virtqueue import QueueError, Ring, Virtqueue

REGION = 0x1_0000
HIGH = 4 * GIB  # where the second region is
PUMP = 8  # chains that a PUMPED step takes at most
FEATURES = (spec.F_RING_PACKED, spec.F_EVENT_IDX, spec.F_INDIRECT_DESC)
POP, PUSH, PUBLISH, SUPPRESS, ALLOW, POKE, PUMPED, RESET = range(8)

_HEADER = struct.Struct("<BBHQQQ")
Opener = Callable[[GuestMemory, Ring], Virtqueue]


class SmallMemory(GuestMemory):
    """Two regions of 64 KiB, one at 0 and one at 4 GiB."""

    def __init__(self) -> None:
        self._mappings = [mmap.mmap(-1, REGION) for _ in range(2)]
        self.regions = [
            Region(base, REGION, -1, 0, memoryview(mapping))
            for base, mapping in zip((0, HIGH), self._mappings, strict=True)
        ]
        self.fd = -1
        self.size = 2 * REGION

    def address_of(self, view: memoryview) -> int:
        """The guest-physical address of a view of it."""
        host = int(ffi.cast("uintptr_t", ffi.from_buffer(view)))
        for region in self.regions:
            offset = host - int(ffi.cast("uintptr_t", ffi.from_buffer(region.view)))
            if 0 <= offset < REGION:
                return region.base + offset
        raise AssertionError("a buffer is outside guest memory")


def step(what: int, number: int = 0) -> bytes:
    """One step of a script; `number` is 0 to 31."""
    return bytes([what | number << 3])


def poke(address: int, value: int) -> bytes:
    """The step in which the driver stores a 16-bit value below 64 KiB."""
    return struct.pack("<BHH", POKE, address, value)


@dataclass
class RingCase:
    """See csrc/fuzz/ring_fuzz.c."""

    features: int  # of FEATURES
    size: int
    areas: tuple[int, int, int]
    script: bytes
    image: bytes

    def pack(self) -> bytes:
        bits = sum(1 << bit for bit, flag in enumerate(FEATURES) if self.features & flag)
        return (
            _HEADER.pack(bits, len(self.script), self.size, *self.areas) + self.script + self.image
        )

    @classmethod
    def parse(cls, data: bytes) -> RingCase:
        bits, length, size, *areas = _HEADER.unpack_from(data)
        features = sum(flag for bit, flag in enumerate(FEATURES) if bits >> bit & 1)
        script, image = data[_HEADER.size :][:length], data[_HEADER.size + length :]
        return cls(features, size, (areas[0], areas[1], areas[2]), script, image)

    def play(self, opener: Opener) -> list[object]:
        """All that the device and the driver can see of it, step by step."""
        memory = SmallMemory()
        player = Player(self, memory, opener)
        try:
            memory.write(0, self.image)
            player.play()
        finally:
            player.forget()
            memory.close()
        return player.seen


class Player:
    def __init__(self, case: RingCase, memory: SmallMemory, opener: Opener) -> None:
        self.case = case
        self.memory = memory
        self.opener = opener
        self.seen: list[object] = []
        self.held: list[Chain] = []
        self.queue: Virtqueue

    def play(self) -> None:
        script = self.case.script
        try:
            self.start()
            while script:
                taken = 5 if script[0] & 7 == POKE else 1
                if len(script) < taken:
                    break
                self.step(script[0] & 7, script[0] >> 3, script[1:taken])
                self.seen.append([zlib.crc32(region.view) for region in self.memory.regions])
                script = script[taken:]
        except QueueError as error:
            self.seen.append(str(error))

    def forget(self) -> None:
        """Let go of guest memory."""
        self.held.clear()
        self.__dict__.pop("queue", None)

    def start(self) -> None:
        self.held.clear()
        self.queue = self.opener(
            self.memory, Ring(0, self.case.size, *self.case.areas, self.case.features, -1, -1)
        )

    def step(self, what: int, number: int, poked: bytes) -> None:
        if what == POP:
            self.pop(number)
        elif what == PUSH:
            self.push(number)
        elif what == PUBLISH:
            self.seen.append(("interrupt", self.queue.publish()))
        elif what == SUPPRESS:
            self.queue.suppress()
        elif what == ALLOW:
            self.seen.append(("more", self.queue.allow()))
        elif what == POKE:
            address = int.from_bytes(poked[:2], "little")
            if address <= REGION - 2:
                self.memory.write(address, poked[2:])
        elif what == PUMPED:
            self.pump(number)
        else:
            self.start()

    def pop(self, wanted: int) -> bool:
        chain = self.queue.pop()
        if chain is None:
            self.seen.append("nothing")
            return False
        buffers = self.places(chain.readable), self.places(chain.writable)
        self.seen.append((chain.head, chain.count, *buffers))
        chain.write(b"\xa5" * wanted)
        self.held.append(chain)
        return True

    def places(self, buffers: Sequence[memoryview]) -> list[tuple[int, int]]:
        return [(self.memory.address_of(buffer), len(buffer)) for buffer in buffers]

    def push(self, which: int) -> None:
        if self.held:
            which %= len(self.held)
            self.queue.push(self.held[which])
            self.held[which] = self.held[-1]
            self.held.pop()

    def pump(self, wanted: int) -> None:
        self.queue.suppress()
        for _ in range(PUMP):
            if not self.pop(wanted):
                break
            self.push(len(self.held) - 1)
        self.seen.append(("interrupt", self.queue.publish()))
        self.seen.append(("more", self.queue.allow()))
