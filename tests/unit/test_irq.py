"""Interrupt lines that devices share, and the routes that KVM makes by itself."""

from __future__ import annotations

from pyvmm.irq import SharedLine
from pyvmm.msi import irqchip_routes
from tests.fakes.lines import FakeLine


def test_a_shared_line_is_high_while_anybody_drives_it() -> None:
    line = FakeLine()
    shared = SharedLine(line)
    one, other = shared.share(), shared.share()
    one.set(True)
    other.set(True)
    other.set(True)
    one.set(False)
    assert line.level
    other.set(False)
    assert not line.level
    assert line.edges == 1


def test_the_fixed_routes_are_those_of_both_pics_and_the_ioapic() -> None:
    routes = {(route.gsi, route.chip): route.pin for route in irqchip_routes()}
    assert len(routes) == 16 + 24
    assert routes[3, "PIC_MASTER"] == 3
    assert routes[8, "PIC_SLAVE"] == 0
    assert routes[15, "PIC_SLAVE"] == 7
    assert all(routes[gsi, "IOAPIC"] == gsi for gsi in range(24))
