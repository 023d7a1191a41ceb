from __future__ import annotations

import pytest

from tests.fakes.lines import FakeLine, FakeTimers


@pytest.fixture
def line() -> FakeLine:
    return FakeLine()


@pytest.fixture
def timers() -> FakeTimers:
    return FakeTimers()
