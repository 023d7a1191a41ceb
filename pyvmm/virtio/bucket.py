"""A limit on how much is done a second."""

from __future__ import annotations


class TokenBucket:
    """Lets `rate` units pass a second, and up to `burst` at once after a pause.

    Both are above 0. One thread at a time.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst  # below 0: what has been promised and must be waited for
        self._then = 0.0

    def take(self, count: float, now: float) -> float:
        """Seconds from `now` until `count` units may pass; they are accounted for already.

        So whoever asks next waits behind them, and `count` may be more than a burst. `now` is in
        seconds and never goes back.
        """
        earned = self._level + (now - self._then) * self._rate
        self._level = min(earned, self._burst) - count
        self._then = now
        return max(-self._level / self._rate, 0.0)
