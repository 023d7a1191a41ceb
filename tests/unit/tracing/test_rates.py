"""What happens in a second."""

from __future__ import annotations

import pytest

from pyvmm.metrics.counters import Family
from pyvmm.tracing import rates as rates_module
from pyvmm.tracing.rates import Rates

SECONDS = 2.0


def families(factor: int) -> list[Family]:
    """Counters that grow with `factor`."""

    def of_device(name: str, device: str, count: int) -> Family:
        return Family(f"device_{name}", "", True, [({"device": device}, count * factor)])

    exits = [({"vcpu": "0", "kind": "pio_read"}, 40.0), ({"vcpu": "0", "kind": "hlt"}, 20.0)]
    return [
        Family("exits", "", True, [(labels, n * factor) for labels, n in exits]),
        Family("exits_answered", "", True, [(exits[0][0], 30.0 * factor)]),
        Family("vcpu_seconds", "", True, [({"vcpu": "0", "mode": "guest"}, 1.0 * factor)]),
        Family("kvm_exits", "", True, [({"vcpu": "0"}, 100.0 * factor)]),
        Family("kvm_irq_injections", "", True, [({"vcpu": "0"}, 8.0 * factor)]),
        of_device("read_operations", "vda", 10),
        of_device("read_bytes", "vda", 10 * 4096),
        of_device("rx_frames", "eth0", 6),
        of_device("rx_dropped", "eth0", 2),
        of_device("tx_dropped", "eth0", 4),
        Family(
            "device_interrupts",
            "",
            True,
            [({"device": name}, 4.0 * factor) for name in ("vda", "eth0", "rng")],
        ),
        Family(
            "interrupt_lines",
            "",
            True,
            [
                ({"gsi": "4", "devices": "COM1"}, 2.0 * factor),
                ({"gsi": "16", "devices": "vda"}, 0.0),
            ],
        ),
    ]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, object]]]:
    """What two seconds give in which every counter grows by what it had."""
    factors = iter([1, 2])
    clock = iter([100.0, 100.0 + SECONDS])
    monkeypatch.setattr(rates_module.time, "monotonic", lambda: next(clock))
    rates = Rates(lambda: families(next(factors)))
    data: dict[str, list[dict[str, object]]] = rates.tables().data
    return data


def test_a_vcpu_has_its_exits_and_what_kvm_has_injected(
    tables: dict[str, list[dict[str, object]]],
) -> None:
    assert tables["vCPUs"] == [
        {
            "vCPU": "0",
            "exits/s": 50,
            "to user space/s": 30,
            "to Python/s": 15,
            "interrupts/s": 4,
            "guest %": 50,
            "host %": 0,
        }
    ]


def test_a_disk_has_its_requests_and_bytes(tables: dict[str, list[dict[str, object]]]) -> None:
    (row,) = tables["Disks"]
    assert (row["disk"], row["reads/s"], row["read KiB/s"]) == ("vda", 5, 20)
    assert row["writes/s"] is None  # nobody counts them here
    assert row["interrupts/s"] == 2


def test_a_network_has_its_frames_and_what_was_dropped(
    tables: dict[str, list[dict[str, object]]],
) -> None:
    (row,) = tables["Networks"]
    assert (row["in/s"], row["dropped/s"], row["interrupts/s"]) == (3, 3, 2)


def test_other_devices_have_their_interrupts(tables: dict[str, list[dict[str, object]]]) -> None:
    assert tables["Interrupts"] == [
        {"device": "rng", "interrupts/s": 2},
        {"device": "GSI 4 (COM1)", "interrupts/s": 1},
    ]
