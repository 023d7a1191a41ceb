from __future__ import annotations

from pyvmm.bus import Bus, Device
from pyvmm.inspection.places import Place, holes, name_at


def test_holes_are_what_lies_between():
    found = [Place(4, 4, "a", ""), Place(5, 1, "inside", ""), Place(10, 2, "b", "")]
    assert [(hole.base, hole.size) for hole in holes(found, 16)] == [(0, 4), (8, 2), (12, 4)]
    assert holes([Place(0, 16, "all", "")], 16) == []


def test_an_address_has_the_name_of_its_claims_device():
    bus = Bus("pio")
    bus.claim(0x10, 4, Device("one"))
    assert (name_at(bus, 0x13), name_at(bus, 0x14)) == ("one", None)
