"""The guest's side of virtio devices: rings built as Linux builds them, and a guest around them.

    guest = Guest(device)                     # memory, a transport, a driver for every queue
    guest.start()                             # DRIVER_OK; features=… for fewer than are offered
    queue = guest.queues[0]
    queue.request([b"header"], [512])         # add, publish, ring, wait, collect: bytes written
    guest.reset(); guest.close()

A driver alone: `make_driver(memory, features, size=8)`, whose `ring` opens a Virtqueue.
"""

from __future__ import annotations

import os
import select
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from pyvmm.layout import KIB, MIB
from pyvmm.memory import GuestMemory
from pyvmm.virtio import virtio_spec as spec
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.virtqueue import Ring

SPLIT = spec.F_VERSION_1 | spec.F_INDIRECT_DESC | spec.F_EVENT_IDX
PACKED = SPLIT | spec.F_RING_PACKED
PATIENCE = 20.0  # seconds until what must happen has failed to

MASK = 0xFFFF
AREA = 32 * KIB  # room for each area of a ring of 1024
ARENA = 256 * KIB  # room for the buffers of one queue
SPAN = 3 * AREA + ARENA  # what one driver takes of the guest's memory


@dataclass
class Used:
    """A request that the device gave back; `data` is what it says it has written."""

    token: int
    length: int
    data: bytes


@dataclass
class Request:
    token: int
    count: int
    descriptors: list[int]
    writable: list[tuple[int, int]]


class Driver:
    """One queue. `add` returns a token by which `collect` names the request again.

    `doorbell` and `call` in `ring` are real eventfds.
    """

    def __init__(
        self, memory: GuestMemory, features: int, size: int, index: int, base: int
    ) -> None:
        self.memory = memory
        self.size = size
        self.event_idx = bool(features & spec.F_EVENT_IDX)
        self.doorbell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.call = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.ring = Ring(
            index, size, base, base + AREA, base + 2 * AREA, features, self.doorbell, self.call
        )
        memory.write(base, bytes(SPAN))
        self._arena = self._free = base + 3 * AREA
        self.requests: dict[int, Request] = {}

    def close(self) -> None:
        os.close(self.doorbell)
        os.close(self.call)

    # ---- requests ----

    def place(self, data: bytes | int) -> tuple[int, int]:
        """Put a buffer into memory; where it is, and how long."""
        length = data if isinstance(data, int) else len(data)
        at, self._free = self._free, self._free + length
        assert self._free <= self._arena + ARENA, "the test's buffers are too large"
        self.memory.write(at, bytes(length) if isinstance(data, int) else data)
        return at, length

    def add(
        self, readable: Sequence[bytes] = (), writable: Sequence[int] = (), indirect: bool = False
    ) -> int:
        """Build a chain; the device sees it after `publish`."""
        if not self.requests:
            self._free = self._arena
        buffers = [(*self.place(data), 0) for data in readable]
        buffers += [(*self.place(length), spec.DESC_F_WRITE) for length in writable]
        kept = [(at, length) for at, length, flags in buffers if flags]
        if indirect:
            self._free += -self._free % spec.DESC_SIZE
            table = b"".join(
                struct.pack("<QIHH", at, length, *self.table_entry(flags, index, len(buffers)))
                for index, (at, length, flags) in enumerate(buffers)
            )
            buffers = [(*self.place(table), spec.DESC_F_INDIRECT)]
        return self.add_descriptors(buffers, kept)

    def table_entry(self, flags: int, index: int, count: int) -> tuple[int, int]:
        """The last two fields of an indirect descriptor."""
        raise NotImplementedError

    def add_descriptors(
        self, descriptors: Sequence[tuple[int, int, int]], writable: Sequence[tuple[int, int]] = ()
    ) -> int:
        """Build a chain of (address, length, flags) as they are; NEXT is added where it must be."""
        raise NotImplementedError

    def publish(self) -> bool:
        """Show the device all that was added; whether it wants to be notified."""
        raise NotImplementedError

    def kick(self) -> None:
        """Publish, and ring if the device wants that."""
        if self.publish():
            os.eventfd_write(self.doorbell, 1)

    def collect(self) -> list[Used]:
        """All that the device has given back."""
        found = []
        while (used := self.take_used()) is not None:
            token, length = used
            request = self.requests.pop(token)
            self.release(request)
            data = b"".join(self.memory.read(*part) for part in request.writable)
            found.append(Used(token, length, data[:length]))
        return found

    def take_used(self) -> tuple[int, int] | None:
        """The next used (token, length)."""
        raise NotImplementedError

    def release(self, request: Request) -> None:
        """Its descriptors are free again."""

    # ---- interrupts ----

    def disable_interrupts(self) -> None:
        raise NotImplementedError

    def enable_interrupts(self) -> None:
        """Ask for one with the next request that is used."""
        raise NotImplementedError

    def interrupted(self, timeout: float = 0.0) -> bool:
        """Whether an interrupt is pending, or comes within `timeout` seconds; it is taken."""
        poll = select.poll()
        poll.register(self.call, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return False
        os.eventfd_read(self.call)
        return True

    def wait(self, count: int = 1) -> list[Used]:
        """Wait for `count` requests, by interrupts as a driver does."""
        found: list[Used] = []
        while True:
            self.enable_interrupts()
            new = self.collect()
            found += new
            if len(found) >= count:
                return found
            if new:
                continue  # the event that was asked for has passed
            assert self.interrupted(PATIENCE), f"only {len(found)} of {count} requests came back"

    def request(self, readable: Sequence[bytes] = (), writable: Sequence[int] = ()) -> bytes:
        """One request and its answer."""
        token = self.add(readable, writable)
        self.kick()
        (used,) = self.wait()
        assert used.token == token
        return used.data


class SplitDriver(Driver):
    """VIRTIO 1.2 §2.7."""

    def __init__(
        self, memory: GuestMemory, features: int, size: int, index: int, base: int
    ) -> None:
        super().__init__(memory, features, size, index, base)
        self.free = list(range(size))
        self.avail_index = self.shown = self.used_index = 0

    def table_entry(self, flags: int, index: int, count: int) -> tuple[int, int]:
        last = index == count - 1
        return flags | (0 if last else spec.DESC_F_NEXT), 0 if last else index + 1

    def add_descriptors(
        self, descriptors: Sequence[tuple[int, int, int]], writable: Sequence[tuple[int, int]] = ()
    ) -> int:
        chain = [self.free.pop(0) for _ in descriptors]
        for number, (at, length, flags) in enumerate(descriptors):
            last = number == len(chain) - 1
            flags |= 0 if last else spec.DESC_F_NEXT
            following = 0 if last else chain[number + 1]
            self.write_descriptor(chain[number], at, length, flags, following)
        self.offer(chain[0])
        self.requests[chain[0]] = Request(chain[0], len(chain), chain, list(writable))
        return chain[0]

    def write_descriptor(
        self, at: int, address: int, length: int, flags: int, following: int
    ) -> None:
        self.memory.write(
            self.ring.descriptor_area + at * spec.DESC_SIZE,
            struct.pack("<QIHH", address, length, flags, following),
        )

    def offer(self, head: int) -> None:
        """Put a head into the available ring."""
        self.memory.write_u16(self.ring.driver_area + 4 + 2 * (self.avail_index % self.size), head)
        self.avail_index = self.avail_index + 1 & MASK

    def publish(self) -> bool:
        old, self.shown = self.shown, self.avail_index
        self.memory.write_u16(self.ring.driver_area + 2, self.shown)
        if not self.event_idx:
            return not self.memory.u16(self.ring.device_area) & spec.USED_F_NO_NOTIFY
        event = self.memory.u16(self.ring.device_area + 4 + 8 * self.size)
        return (self.shown - event - 1 & MASK) < (self.shown - old & MASK)

    def take_used(self) -> tuple[int, int] | None:
        if self.memory.u16(self.ring.device_area + 2) == self.used_index:
            return None
        at = self.ring.device_area + 4 + 8 * (self.used_index % self.size)
        self.used_index = self.used_index + 1 & MASK
        return self.memory.u32(at), self.memory.u32(at + 4)

    def release(self, request: Request) -> None:
        self.free += request.descriptors

    def disable_interrupts(self) -> None:
        if self.event_idx:  # an event that has just passed
            self._set_used_event(self.used_index - 1)
        else:
            self.memory.write_u16(self.ring.driver_area, spec.AVAIL_F_NO_INTERRUPT)

    def enable_interrupts(self) -> None:
        if self.event_idx:
            self._set_used_event(self.used_index)
        else:
            self.memory.write_u16(self.ring.driver_area, 0)

    def _set_used_event(self, index: int) -> None:
        self.memory.write_u16(self.ring.driver_area + 4 + 2 * self.size, index & MASK)


class PackedDriver(Driver):
    """VIRTIO 1.2 §2.8."""

    def __init__(
        self, memory: GuestMemory, features: int, size: int, index: int, base: int
    ) -> None:
        super().__init__(memory, features, size, index, base)
        self.ids = list(range(size))
        self.next_avail, self.avail_wrap = 0, True
        self.next_used, self.used_wrap = 0, True
        self.added = 0  # descriptors since the last publish
        self._first: list[tuple[int, int]] = []  # chains whose first flags are not yet written

    def table_entry(self, flags: int, index: int, count: int) -> tuple[int, int]:
        return 0, flags

    def add_descriptors(
        self, descriptors: Sequence[tuple[int, int, int]], writable: Sequence[tuple[int, int]] = ()
    ) -> int:
        used = sum(request.count for request in self.requests.values())
        assert used + len(descriptors) <= self.size, "the test's ring is full"
        token = self.ids.pop(0)
        for number, (at, length, flags) in enumerate(descriptors):
            flags |= 0 if number == len(descriptors) - 1 else spec.DESC_F_NEXT
            flags |= spec.DESC_F_AVAIL if self.avail_wrap else spec.DESC_F_USED
            address = self.ring.descriptor_area + self.next_avail * spec.DESC_SIZE
            self.memory.write(address, struct.pack("<QIH", at, length, token))
            if number:
                self.memory.write_u16(address + 14, flags)
            else:
                self._first.append((address + 14, flags))
            self.next_avail += 1
            if self.next_avail == self.size:
                self.next_avail, self.avail_wrap = 0, not self.avail_wrap
        self.added += len(descriptors)
        self.requests[token] = Request(token, len(descriptors), [], list(writable))
        return token

    def publish(self) -> bool:
        for address, flags in self._first:
            self.memory.write_u16(address, flags)
        self._first.clear()
        added, self.added = self.added, 0
        where = self.memory.u16(self.ring.device_area)
        wish = self.memory.u16(self.ring.device_area + 2) & 3
        if wish != spec.EVENT_FLAGS_DESC:
            return wish != spec.EVENT_FLAGS_DISABLE
        event = where & ~spec.EVENT_WRAP
        if bool(where & spec.EVENT_WRAP) != self.avail_wrap:
            event -= self.size
        return (self.next_avail - event - 1 & MASK) < added

    def take_used(self) -> tuple[int, int] | None:
        at = self.ring.descriptor_area + self.next_used * spec.DESC_SIZE
        bits = self.memory.u16(at + 14) & (spec.DESC_F_AVAIL | spec.DESC_F_USED)
        if bits != (spec.DESC_F_AVAIL | spec.DESC_F_USED if self.used_wrap else 0):
            return None
        written = bool(self.memory.u16(at + 14) & spec.DESC_F_WRITE)
        token = self.memory.u16(at + 12)
        self.next_used += self.requests[token].count
        if self.next_used >= self.size:
            self.next_used, self.used_wrap = self.next_used - self.size, not self.used_wrap
        return token, self.memory.u32(at + 8) if written else 0

    def release(self, request: Request) -> None:
        self.ids.append(request.token)

    def disable_interrupts(self) -> None:
        self.memory.write_u16(self.ring.driver_area + 2, spec.EVENT_FLAGS_DISABLE)

    def enable_interrupts(self) -> None:
        if self.event_idx:
            where = self.next_used | (spec.EVENT_WRAP if self.used_wrap else 0)
            self.memory.write_u16(self.ring.driver_area, where)
            self.memory.write_u16(self.ring.driver_area + 2, spec.EVENT_FLAGS_DESC)
        else:
            self.memory.write_u16(self.ring.driver_area + 2, spec.EVENT_FLAGS_ENABLE)


def make_driver(
    memory: GuestMemory, features: int = SPLIT, *, size: int = 8, index: int = 0, base: int = MIB
) -> Driver:
    """The driver of one queue, in the format that `features` say, in SPAN bytes from `base` on."""
    kind = PackedDriver if features & spec.F_RING_PACKED else SplitDriver
    return kind(memory, features, size, index, base)


class Guest:
    """A device's guest: memory, transport and drivers. It is the device's Transport too."""

    def __init__(self, device: VirtioDevice, *, memory: int = 8 * MIB) -> None:
        self.device = device
        self.memory = GuestMemory(memory, shared=True)  # with a vhost-user back end
        self.queues: dict[int, Driver] = {}
        self.config_changes = threading.Semaphore(0)
        self.reset_wanted = threading.Event()
        device.attach(self.memory, self)

    def config_changed(self) -> None:
        self.config_changes.release()

    def needs_reset(self) -> None:
        self.reset_wanted.set()

    def start(
        self,
        features: int | None = None,
        *,
        queues: Sequence[int] | None = None,
        size: int | None = None,
    ) -> None:
        """Set DRIVER_OK with these `features` [all offered], `queues` [all] and ring `size`."""
        features = self.device.features if features is None else features
        chosen = range(len(self.device.queue_sizes)) if queues is None else queues
        for place, index in enumerate(chosen):
            self.queues[index] = make_driver(
                self.memory,
                features,
                size=size or min(self.device.queue_sizes[index], 64),
                index=index,
                base=MIB + place * SPAN,
            )
        rings = [driver.ring for driver in self.queues.values()]
        self.device.worker.call(lambda: self.device.activate(features, rings))

    def reset(self) -> None:
        """Write 0 to the device's status."""
        self.device.worker.call(self.device.deactivate)
        for driver in self.queues.values():
            driver.close()
        self.queues.clear()

    def wait_reset_wanted(self) -> None:
        """Wait for DEVICE_NEEDS_RESET."""
        assert self.reset_wanted.wait(PATIENCE), "the device does not say that it needs a reset"

    def wait_config_changed(self) -> None:
        """Wait for one more configuration interrupt."""
        assert self.config_changes.acquire(timeout=PATIENCE), "configuration does not change"

    def close(self) -> None:
        self.device.close()
        for driver in self.queues.values():
            driver.close()
        self.memory.close()
