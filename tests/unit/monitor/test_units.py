from __future__ import annotations

import pytest

from pyvmm.monitor.units import size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (16 << 20, "16 MiB"),
        ((512 << 20) + 1, "512 MiB"),
        (3 << 62, "12 EiB"),
    ],
)
def test_a_size_has_the_largest_unit_that_fits(size, text):
    assert size_text(size) == text
