"""A little of what `make fuzz` does to the registers at length."""

from __future__ import annotations

import pytest

from tests.fuzz.registers import run


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_a_guest_writes_to_registers_breaks_anything(seed: int) -> None:
    run(seed, steps=3000)
