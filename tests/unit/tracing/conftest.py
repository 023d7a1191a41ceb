"""What the tests of tracing share: a tracer without a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyvmm import events
from pyvmm.tracing.tracer import Tracer


class Machine:
    """What a tracer needs of a machine: its board, which tests fill, and its events."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[events.Event], object]] = []
        self.board: Any = SimpleNamespace(vcpus=[], virtio={}, vm=SimpleNamespace(on_irq_line=None))

    def listen(self, listener: Callable[[events.Event], object]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def tracer(machine: Machine) -> Iterator[Tracer]:
    tracer = Tracer(machine)  # type: ignore[arg-type]
    yield tracer
    tracer.close()
