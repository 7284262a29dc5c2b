"""Simulated time: passes at the speed of the wall clock or faster, but is never ahead of it.

Aggregators refuse a window that ends in the future (`early`), so a simulation that has reached the present
continues in real time.
"""

import math
from collections.abc import Callable

__all__ = ["Pace"]


class Pace:
    """Simulated time."""

    def __init__(
        self,
        *,
        wall: Callable[[], float | None],
        monotonic: Callable[[], float],
        speed: float | None = None,
        from_s: float | None = None,
    ) -> None:
        """`speed` times as fast as real time, starting at `from_s` (UTC epoch s); None: the wall clock.

        `wall` returns None while the clock is not believed; then `now_s` is -inf, so nothing is due.
        """
        self._wall, self._monotonic = wall, monotonic
        self._speed, self._from_s = speed, from_s
        self._begun_s = monotonic()

    def now_s(self) -> float:
        """Simulated UTC epoch seconds."""
        wall_s = self._wall()
        if wall_s is None:
            return -math.inf
        if self._speed is None or self._from_s is None:
            return wall_s
        return min(wall_s, self._from_s + (self._monotonic() - self._begun_s) * self._speed)
