"""Who answers which address of a board, in the order of addresses. Any thread."""

from __future__ import annotations

from pyvmm import layout
from pyvmm.bus import Bus
from pyvmm.inspection import places_spec as spec
from pyvmm.pci.root import MEMORY_WINDOW
from pyvmm.typed import TYPE_CHECKING
from pyvmm.value import Value

if TYPE_CHECKING:
    from pyvmm.board import Board

KVM = "KVM"  # who answers what no device of ours does


class Place(Value):
    """`size` ports or bytes from `base`: what they are, and who answers."""

    base: int
    size: int
    what: str
    by: str

    @property
    def last(self) -> int:
        """Its last address."""
        return self.base + self.size - 1


def ports(board: Board) -> list[Place]:
    """All port numbers that somebody answers, and the window of PCI's ports."""
    window = Place(layout.PCI_IO_WINDOW, layout.PCI_IO_WINDOW_SIZE, "PCI I/O window", "")
    return _ordered([window, *_claims(board.pio), *_kvms(spec.PORTS)])


def memory(board: Board) -> list[Place]:
    """All guest-physical addresses that somebody answers, and the windows of PCI's memory."""
    ram = [Place(region.base, region.size, "RAM", "") for region in board.memory.regions]
    base64, size64 = board.pci_window64
    windows = [
        Place(MEMORY_WINDOW.start, len(MEMORY_WINDOW), "PCI window, 32 bits", ""),
        Place(base64, size64, "PCI window, 64 bits", ""),
    ]
    return _ordered([*ram, *windows, *_claims(board.mmio), *_kvms(spec.MEMORY)])


def holes(places: list[Place], end: int) -> list[Place]:
    """What of the addresses below `end` nobody answers."""
    found, at = [], 0
    for place in [*places, Place(end, 0, "", "")]:
        if place.base > at:
            found.append(Place(at, place.base - at, "nothing", ""))
        at = max(at, place.base + place.size)
    return found


def name_at(bus: Bus, address: int) -> str | None:
    """The device that answers an address of a bus."""
    for claim in bus.claims:
        if claim.base <= address < claim.end:
            return claim.device.name
    return None


def _claims(bus: Bus) -> list[Place]:
    return [
        Place(claim.base, claim.end - claim.base, claim.device.name, type(claim.device).__name__)
        for claim in bus.claims
    ]


def _kvms(table: tuple[tuple[int, int, str], ...]) -> list[Place]:
    return [Place(base, size, what, KVM) for base, size, what in table]


def _ordered(places: list[Place]) -> list[Place]:
    """By address, and what lies in a window after it."""
    return sorted(places, key=lambda place: (place.base, -place.size))
