"""The gate that the vCPUs' threads pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pyvmm.runloop import Gate

CPUS = 3
PATIENCE = 20.0  # seconds; only a lost wake-up takes longer


class Crossing:
    """A thread for each vCPU, which tells when it has come through."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.passed = [threading.Event() for _ in range(CPUS)]
        self.threads = [
            threading.Thread(target=self._cross, args=(cpu,), daemon=True) for cpu in range(CPUS)
        ]
        for thread in self.threads:
            thread.start()

    def _cross(self, cpu: int) -> None:
        if self.gate.enter(cpu):
            self.passed[cpu].set()
            self.gate.leave()

    def wait(self, *cpus: int) -> None:
        for cpu in cpus:
            assert self.passed[cpu].wait(PATIENCE)

    @property
    def through(self) -> set[int]:
        return {cpu for cpu in range(CPUS) if self.passed[cpu].is_set()}


@pytest.fixture
def crossing() -> Iterator[Crossing]:
    crossing = Crossing(Gate(()))
    yield crossing
    crossing.gate.end()
    for thread in crossing.threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_gate_begins_shut_and_opens_for_all(crossing: Crossing) -> None:
    assert crossing.through == set()
    crossing.gate.open()
    crossing.wait(0, 1, 2)


def test_only_those_named_pass(crossing: Crossing) -> None:
    crossing.gate.open({0, 2})
    crossing.wait(0, 2)
    assert crossing.through == {0, 2}
    crossing.gate.open()
    crossing.wait(1)


def test_the_first_one_passes_alone(crossing: Crossing) -> None:
    crossing.gate.put_first(1)
    crossing.gate.open()
    crossing.wait(1)
    assert crossing.through == {1}
    crossing.gate.put_first(None)
    crossing.wait(0, 2)


def test_a_first_one_that_may_not_pass_holds_nobody_up(crossing: Crossing) -> None:
    crossing.gate.put_first(1)
    crossing.gate.open({0})
    crossing.wait(0)
    assert crossing.through == {0}
