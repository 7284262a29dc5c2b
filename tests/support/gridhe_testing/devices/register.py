"""The true register of a simulated meter, which stands still around the ends of intervals.

A reading is dated to some milliseconds at best, and on a faulty line good ones come seconds apart. A register
that does not move within two fifths of an interval around each end has one value there, whatever the date.
"""

import random
from dataclasses import dataclass, field

__all__ = ["TrueRegister"]

_RISES = (0.42, 0.58)  # the part of an interval in which the register moves


@dataclass(slots=True)
class TrueRegister:
    """A function of time, from seed and number: `wh(at_s)` in whole Wh."""

    interval_s: int
    start_wh: int
    largest_wh: int  # of one interval
    seed: str
    start_s: int
    _ends: list[int] = field(default_factory=list)  # the register at the ends of the intervals so far

    def energy_wh(self, interval: int) -> int:
        """The energy of an interval, by its number since 1970."""
        return random.Random(f"{self.seed}/{interval}").randint(1, self.largest_wh)

    def at_start_wh(self, interval: int) -> int:
        """The register at the start of an interval."""
        first = self.start_s // self.interval_s
        while len(self._ends) <= interval - first:
            known = len(self._ends)
            self._ends.append(self._ends[-1] + self.energy_wh(first + known - 1) if known else self.start_wh)
        return self._ends[max(0, interval - first)]

    def wh(self, at_s: float) -> int:
        """The register at a moment (UTC epoch seconds)."""
        interval, within_s = divmod(at_s, self.interval_s)
        low, high = _RISES
        part = min(1.0, max(0.0, (within_s / self.interval_s - low) / (high - low)))
        return self.at_start_wh(int(interval)) + int(part * self.energy_wh(int(interval)))
