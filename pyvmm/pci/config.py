"""A PCI function's configuration space."""

from __future__ import annotations

from pyvmm.errors import UsageError
from pyvmm.pci import pci_spec as spec


class ConfigSpace:
    """A function's 4096 bytes, with what the guest may change of them.

    `writable` has a bit set where a write stores it, `clearable` where writing one clears it.
    """

    def __init__(self) -> None:
        self.data = bytearray(spec.CONFIG_SIZE)
        self.writable = bytearray(spec.CONFIG_SIZE)
        self.clearable = bytearray(spec.CONFIG_SIZE)
        self._free = spec.HEADER_SIZE
        self._link = spec.CAPABILITIES  # the byte that is to point to the next capability

    def get(self, offset: int, size: int) -> int:
        """The little-endian number of `size` bytes at `offset`."""
        return int.from_bytes(self.data[offset : offset + size], "little")

    def set(self, offset: int, size: int, value: int, *, writable: int = 0) -> None:
        """Store a number; `writable` are the bits of it that the guest may change."""
        self.set_data(offset, size, value)
        self.writable[offset : offset + size] = writable.to_bytes(size, "little")

    def set_data(self, offset: int, size: int, value: int) -> None:
        """Store a number, of which the guest may change what it could before."""
        self.data[offset : offset + size] = value.to_bytes(size, "little")

    def guest_write(self, offset: int, size: int, value: int) -> None:
        """Change what a guest's write may change.

        Other bytes are not touched: another thread may be changing them.
        """
        for at, byte in enumerate(value.to_bytes(size, "little"), offset):
            writable, cleared = self.writable[at], self.clearable[at] & byte
            if writable or cleared:
                self.data[at] = (self.data[at] & ~writable | byte & writable) & ~cleared

    def add_capability(self, identity: int, body: bytes, writable: bytes = b"") -> int:
        """Append a capability of `body`, the bytes after its two-byte header; give its offset.

        `writable` masks the body's first bytes. Raises UsageError if there is no room.
        """
        offset = self._free
        end = offset + spec.CAPABILITY_HEADER + len(body)
        if end > spec.LEGACY_SIZE:
            raise UsageError("Capabilities must fit into 192 bytes")
        start = offset + spec.CAPABILITY_HEADER
        self.data[offset + spec.CAPABILITY_ID] = identity
        self.data[start:end] = body
        self.writable[start : start + len(writable)] = writable
        self.data[self._link] = offset
        self._link = offset + spec.CAPABILITY_NEXT
        self._free = -(-end // spec.CAPABILITY_ALIGN) * spec.CAPABILITY_ALIGN
        self.data[spec.STATUS] |= spec.STATUS_CAPABILITIES
        return offset
