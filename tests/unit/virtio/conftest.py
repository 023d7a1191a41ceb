from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pyvmm.virtio.device import VirtioDevice
from tests.fakes.driver import Guest

MakeGuest = Callable[[VirtioDevice], Guest]


@pytest.fixture
def make_guest() -> Iterator[MakeGuest]:
    """Guests that are closed at the end."""
    guests: list[Guest] = []

    def make(device: VirtioDevice) -> Guest:
        guests.append(Guest(device))
        return guests[-1]

    yield make
    for guest in guests:
        guest.close()
