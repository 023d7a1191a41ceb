from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.monitored import FakeMachine, Stopwatch, TestSession


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    machine = FakeMachine()
    yield machine
    machine.close()


@pytest.fixture
def watch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def session(machine: FakeMachine, watch: Stopwatch) -> TestSession:
    return TestSession(machine, watch)
