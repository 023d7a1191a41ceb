"""A token bucket: a rate that is honoured on average, with short bursts."""

from __future__ import annotations


class TokenBucket:
    """`rate` tokens a second flow in, at most `burst` stay. One thread at a time."""

    def __init__(self, rate: float, burst: float) -> None:
        """`rate` is above 0. The bucket starts full."""
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._then = 0.0

    def take(self, count: float, now: float) -> float:
        """Take `count` tokens at `now`, in seconds; the seconds to wait before the next `take`.

        More than there are may be taken: the bucket is in debt then, and the wait pays for it.
        """
        self._tokens = min(self._tokens + (now - self._then) * self._rate, self._burst) - count
        self._then = now
        return max(-self._tokens / self._rate, 0.0)
