"""A bus: which device answers which address, and what happens where none does.

A device sees only accesses that its claim allows: naturally aligned, no wider than `width` bytes.
Wider, misaligned or straddling accesses are split, lowest address first, as an ISA bridge does.
Unclaimed reads give all ones, unclaimed writes go nowhere.

With the fast path on, a claim's `Window` lets its device publish registers that the C exit loop
answers by itself, and have writes posted (csrc/exitloop.c); `Window` here is the do-nothing one.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable

from pyvmm.errors import UsageError
from pyvmm.log import Log

log = Log(__name__)


class Window:
    """A claimed range as its device sees it, for the fast path; here every method does nothing.

    Offsets are the device's. Call with the device's lock held.
    """

    def publish(self, offset: int, data: bytes) -> None:
        """Let reads inside `data`, at `offset`, be answered with it until it is withdrawn."""

    def publish_ones(self, offset: int, size: int) -> None:
        """Let reads inside the `size` bytes at `offset` be answered with all ones."""

    def publish_counter(self, offset: int, size: int, hz: int, bits: int) -> None:
        """Let `size`-byte reads at `offset` give CLOCK_MONOTONIC in ticks of `hz`, mod 2^bits."""

    def withdraw(self, offset: int) -> None:
        """Let reads of what was published at `offset` reach the device again."""

    def post(self, offset: int, enabled: bool) -> None:
        """Queue one-byte writes of `offset` for `Device.posted`, or stop doing so."""

    def drain(self) -> None:
        """Hand the device what is queued; the bus calls it before every other access."""


class Device:
    """A device with registers on a bus.

    `read`, `write` and `posted` are called with `lock` held, on any thread. A device that is
    called back otherwise (a timer, a back end) takes `lock` itself.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()
        self.window = Window()  # replaced by the one of the device's claim, if it uses it

    def reset(self) -> None:
        """Put every register to its power-on value; called while no vCPU runs."""

    def read(self, offset: int, size: int) -> int:
        """Answer a read of `size` bytes at register `offset`; all ones where nothing is."""
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of `size` bytes at register `offset`; ignored where nothing is."""

    def posted(self, offset: int, data: bytes) -> None:
        """Take one-byte writes of `offset` that the exit loop queued, oldest first."""
        for value in data:
            self.write(offset, 1, value)


class Claim:
    """One claimed range: `size` bytes from `base`, answered by `device`."""

    __slots__ = ("base", "device", "end", "offset", "width", "window")

    def __init__(
        self, base: int, size: int, device: Device, offset: int, width: int, window: Window
    ) -> None:
        self.base = base
        self.end = base + size
        self.device = device
        self.offset = offset - base  # added to an address, gives the register's offset
        self.width = width
        self.window = window


class Bus:
    """Ports or memory-mapped registers."""

    def __init__(
        self,
        name: str,
        make_window: Callable[[Bus, int, Device, int], Window] | None = None,
    ) -> None:
        self.name = name
        self._make_window = make_window
        # The bases and their claims, in order: replaced as a whole, as vCPUs read them unlocked.
        self._map: tuple[tuple[int, ...], tuple[Claim, ...]] = ((), ())
        self._changing = threading.Lock()

    @property
    def claims(self) -> tuple[Claim, ...]:
        """All claims, by address."""
        return self._map[1]

    def claim(
        self, base: int, size: int, device: Device, *, offset: int = 0, width: int = 1
    ) -> Window:
        """Give `device` the `size` bytes from `base`; its registers there start at `offset`.

        `width` is the widest access that the device takes: 1, 2, 4 or 8 bytes.
        Raises UsageError if another device has any of it.
        """
        window = Window()
        if self._make_window is not None:
            window = self._make_window(self, base, device, offset)
        self._insert(Claim(base, size, device, offset, width, window))
        return window

    def place(self, base: int, size: int, device: Device, *, width: int = 1) -> None:
        """Claim what may be taken away again, and hence has no window. Any thread.

        Raises UsageError if another device has any of it.
        """
        self._insert(Claim(base, size, device, 0, width, Window()))

    def remove(self, base: int) -> None:
        """Take away what was placed at `base`. Any thread; one that is in the device goes on."""
        with self._changing:
            self._replace(claim for claim in self.claims if claim.base != base)

    def _insert(self, claim: Claim) -> None:
        with self._changing:
            for other in self.claims:
                if claim.base < other.end and other.base < claim.end:
                    raise UsageError(
                        f"{claim.device.name} at {self.name} {claim.base:#x} overlaps "
                        f"{other.device.name} at {other.base:#x}"
                    )
            self._replace((*self.claims, claim))

    def _replace(self, claims: Iterable[Claim]) -> None:
        ordered = tuple(sorted(claims, key=lambda claim: claim.base))
        self._map = tuple(claim.base for claim in ordered), ordered

    # In both, an access is passed on as it is if no bit below its size is set, neither in the
    # register's offset nor in the size itself: what is left of one that was split may be 3 bytes.

    def read(self, address: int, size: int) -> int:
        """Answer a guest's read of `size` bytes at `address`. Any thread."""
        bases, claims = self._map
        at = bisect_right(bases, address) - 1
        if at >= 0:
            claim = claims[at]
            if (
                size <= claim.width
                and address + size <= claim.end
                and not (address + claim.offset | size) & (size - 1)
            ):
                device = claim.device
                with device.lock:
                    claim.window.drain()
                    return device.read(address + claim.offset, size)
            if address < claim.end and size > 1:
                half = self._piece(claim, address, size)
                low = self.read(address, half)
                return low | self.read(address + half, size - half) << 8 * half
        if size > 1:  # the rest may belong to a claim that starts inside this access
            return self.read(address, 1) | self.read(address + 1, size - 1) << 8
        log.debug("Read of unclaimed %s address %#x", self.name, address)
        return 0xFF

    def write(self, address: int, size: int, value: int) -> None:
        """Take a guest's write of `size` bytes at `address`. Any thread."""
        bases, claims = self._map
        at = bisect_right(bases, address) - 1
        if at >= 0:
            claim = claims[at]
            if (
                size <= claim.width
                and address + size <= claim.end
                and not (address + claim.offset | size) & (size - 1)
            ):
                device = claim.device
                with device.lock:
                    claim.window.drain()
                    device.write(address + claim.offset, size, value)
                return
            if address < claim.end and size > 1:
                half = self._piece(claim, address, size)
                self.write(address, half, value & (1 << 8 * half) - 1)
                self.write(address + half, size - half, value >> 8 * half)
                return
        if size > 1:
            self.write(address, 1, value & 0xFF)
            self.write(address + 1, size - 1, value >> 8)
            return
        log.debug("Write of %#x to unclaimed %s address %#x", value, self.name, address)

    @staticmethod
    def _piece(claim: Claim, address: int, size: int) -> int:
        """How many bytes of an access that is split go first: as many as the claim allows."""
        offset = address + claim.offset
        aligned = offset & -offset or 8
        piece = min(claim.width, aligned, claim.end - address, size - 1)
        return 1 << piece.bit_length() - 1
