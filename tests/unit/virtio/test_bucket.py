"""The token bucket, on a clock that is set by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.virtio.bucket import TokenBucket


def test_a_burst_passes_at_once_and_what_follows_at_the_rate() -> None:
    bucket = TokenBucket(rate=100, burst=50)
    assert bucket.take(50, 0.0) == 0.0
    assert bucket.take(10, 0.0) == pytest.approx(0.1)
    assert bucket.take(10, 0.0) == pytest.approx(0.2)


def test_more_than_a_burst_passes_in_its_time() -> None:
    bucket = TokenBucket(rate=100, burst=50)
    assert bucket.take(250, 0.0) == pytest.approx(2.0)


def test_a_pause_earns_no_more_than_a_burst() -> None:
    bucket = TokenBucket(rate=100, burst=50)
    bucket.take(50, 0.0)
    assert bucket.take(50, 1000.0) == 0.0
    assert bucket.take(1, 1000.0) > 0


@given(
    st.floats(1, 1e9),
    st.floats(1, 1e9),
    st.lists(st.tuples(st.floats(0, 10), st.floats(1, 1e6)), min_size=1),
)
def test_never_more_than_the_rate_and_a_burst_pass(
    rate: float, burst: float, requests: list[tuple[float, float]]
) -> None:
    bucket, now, passed = TokenBucket(rate, burst), 0.0, 0.0
    for pause, count in requests:
        now += pause
        end = now + bucket.take(count, now)
        passed += count
        assert passed <= (end * rate + burst) * (1 + 1e-6)
