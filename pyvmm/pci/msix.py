"""MSI-X: a function's table of interrupt messages, with masks and pending bits (PCI 3.0 §6.8.2).

An interrupt is an eventfd that is signalled. While its vector may send, it is connected, and the
kernel sends the message. While it may not, what is signalled stays in the eventfd: a counter that
is not zero is the pending bit, and the message goes out when the vector is connected again.
"""

from __future__ import annotations

import select
import struct
import threading
from collections.abc import Callable, Sequence

from pyvmm.irq import MsiVector
from pyvmm.pci import pci_spec as spec
from pyvmm.pci.function import Function


class Msix:
    """The MSI-X capability of `function`, with one vector for each of `vectors`.

    Its table lies at `table` and its pending bits at `pba` of BAR `bar`, whose device passes on
    their accesses. `on_enable` is called after `enabled` has changed, with the root's lock held.
    Any thread may call the methods; they take no other locks than those of the vectors.
    """

    def __init__(
        self, function: Function, bar: int, table: int, pba: int, vectors: Sequence[MsiVector]
    ) -> None:
        self._function = function
        self.on_enable: Callable[[], object] = lambda: None
        self._enabled = False
        self._vectors = vectors
        self._lock = threading.Lock()
        self._bound: list[set[int]] = [set() for _ in vectors]  # eventfds, by vector
        self._connected: list[set[int]] = [set() for _ in vectors]
        self._sent: list[tuple[int, int] | None] = [None] * len(vectors)  # as last routed
        self._at = function.config.add_capability(
            spec.CAPABILITY_MSIX,
            struct.pack("<HII", len(vectors) - 1, table | bar, pba | bar),
            struct.pack("<H", spec.MSIX_CONTROL_ENABLE | spec.MSIX_CONTROL_MASK),
        )
        function.msix = self
        self.reset()

    @property
    def count(self) -> int:
        """How many vectors there are."""
        return len(self._vectors)

    @property
    def enabled(self) -> bool:
        """Whether the function sends messages instead of driving its pin."""
        return bool(self._control & spec.MSIX_CONTROL_ENABLE)

    @property
    def messages(self) -> list[tuple[int, int] | None]:
        """Each vector's address and data as KVM was last told them, None for one never used."""
        return list(self._sent)

    @property
    def _control(self) -> int:
        return self._function.config.get(self._at + spec.MSIX_CONTROL, 2)

    def reset(self) -> None:
        """Switch it off, with every vector masked."""
        masked = spec.MSIX_VECTOR_MASKED.to_bytes(4, "little")
        entry = bytes(spec.MSIX_VECTOR_CONTROL) + masked
        self._table = bytearray(entry * len(self._vectors))
        self._function.config.guest_write(self._at + spec.MSIX_CONTROL, 2, 0)
        self.update()

    def bind(self, index: int, eventfd: int) -> None:
        """Send vector `index` whenever `eventfd` is signalled."""
        with self._lock:
            self._bound[index].add(eventfd)
            self._update(index)

    def unbind(self, index: int, eventfd: int) -> None:
        """No longer."""
        with self._lock:
            self._bound[index].discard(eventfd)
            self._update(index)

    def update(self) -> None:
        """Take notice of a change of the function's configuration space."""
        with self._lock:
            for index in range(len(self._vectors)):
                self._update(index)
        if self._enabled != self.enabled:
            self._enabled = self.enabled
            self.on_enable()

    def read_table(self, offset: int, size: int) -> int:
        """Answer a read of the table; zero beyond its end."""
        return int.from_bytes(self._table[offset : offset + size], "little")

    def write_table(self, offset: int, size: int, value: int) -> None:
        """Take a write of the table, of at most an aligned quadword; ignored beyond its end."""
        index, register = divmod(offset, spec.MSIX_ENTRY_SIZE)
        if index >= len(self._vectors):
            return
        data = bytearray(value.to_bytes(size, "little"))
        if register == spec.MSIX_ADDRESS:
            data[0] &= -spec.MSIX_ADDRESS_ALIGN
        elif register >= spec.MSIX_VECTOR_CONTROL:
            masked = value & spec.MSIX_VECTOR_MASKED if register == spec.MSIX_VECTOR_CONTROL else 0
            data[:] = masked.to_bytes(size, "little")
        with self._lock:
            self._table[offset : offset + size] = data
            self._update(index)

    def read_pending(self, offset: int, size: int) -> int:
        """Answer a read of the pending bits."""
        first = 8 * offset
        with self._lock:
            bits = (
                self._pending(index) << index - first
                for index in range(first, min(first + 8 * size, len(self._vectors)))
            )
            return sum(bits)

    def _pending(self, index: int) -> bool:
        poll = select.poll()
        for eventfd in self._bound[index] - self._connected[index]:
            poll.register(eventfd, select.POLLIN)
        return bool(poll.poll(0))

    def _update(self, index: int) -> None:
        """Connect vector `index` if it may send, and disconnect it if not; with the lock held."""
        vector, bound, connected = self._vectors[index], self._bound[index], self._connected[index]
        address, data, control = struct.unpack_from(
            "<QII", self._table, index * spec.MSIX_ENTRY_SIZE
        )
        on = self._control & (spec.MSIX_CONTROL_ENABLE | spec.MSIX_CONTROL_MASK)
        may_send = (
            on == spec.MSIX_CONTROL_ENABLE
            and self._function.bus_master
            and not control & spec.MSIX_VECTOR_MASKED
        )
        wanted = set(bound) if may_send else set()
        for eventfd in connected - wanted:
            vector.disconnect(eventfd)
        if wanted and self._sent[index] != (address, data):
            vector.route(address, data)
            self._sent[index] = (address, data)
        for eventfd in wanted - connected:
            vector.connect(eventfd)
        self._connected[index] = wanted
