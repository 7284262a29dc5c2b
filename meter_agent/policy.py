"""What becomes of readings that cannot be counted as they are: the one place that decides.

Raw readings are int64 with two marks of their own, so that a real -1 stays a negative reading:
ABSENT (an empty cell, a gap, a device that was off) and TEXT (something that is no integer).

    what came              on_... setting      missing     clip            refuse
    ABSENT                 (none)              missing     missing         missing
    TEXT                   on_text             missing     -               SourceError
    below 0                on_negative         missing     0               SourceError
    above the plan's       on_too_large        missing     largest         SourceError
    largest
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from gridhe.config.settings import MeterSettings
from gridhe.errors import SourceError
from gridhe.plan.slots import MISSING

__all__ = ["ABSENT", "TEXT", "PolicyCounts", "ReadingPolicy"]

ABSENT = -(2**63)
TEXT = -(2**63) + 1


@dataclass(slots=True)
class PolicyCounts:
    """How many readings were counted as they came, and how many were not, by what was wrong."""

    good: int = 0
    absent: int = 0
    text: int = 0
    negative: int = 0
    too_large: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


class ReadingPolicy:
    """Applies `meter.on_negative`, `meter.on_too_large` and `meter.on_text`, and counts."""

    def __init__(self, settings: MeterSettings) -> None:
        self._settings = settings
        self.counts = PolicyCounts()

    def apply(
        self,
        raw: NDArray[np.int64],
        largest: int,
        where: Callable[[int], str],
        counts: PolicyCounts | None = None,
    ) -> NDArray[np.int64]:
        """Readings int64 of raw's shape, each 0..largest or MISSING.

        `where(i)` names the place of flat index i (file, row, column) for the SourceError that `refuse`
        raises. Counts go to `counts`, else to the policy's own.
        """
        absent = raw == ABSENT
        text = raw == TEXT
        negative = (raw < 0) & ~absent & ~text
        too_large = raw > largest
        settings = self._settings
        for found, policy, what in (
            (text, settings.on_text, "is no integer"),
            (negative, settings.on_negative, "is negative"),
            (too_large, settings.on_too_large, f"is above the plan's largest ({largest})"),
        ):
            if policy == "refuse" and found.any():
                at = int(np.flatnonzero(found)[0])
                value = "" if what == "is no integer" else f" {int(raw.flat[at])}"
                name = {"is no integer": "on_text", "is negative": "on_negative"}.get(what, "on_too_large")
                raise SourceError(f"{where(at)}: the reading{value} {what}; mend it or set meter.{name}")
        readings = np.where(absent | text, MISSING, raw)
        readings[negative] = 0 if settings.on_negative == "clip" else MISSING
        readings[too_large] = largest if settings.on_too_large == "clip" else MISSING
        kept = self.counts if counts is None else counts
        odd = [int(np.count_nonzero(found)) for found in (absent, text, negative, too_large)]
        kept.good += raw.size - sum(odd)
        kept.absent += odd[0]
        kept.text += odd[1]
        kept.negative += odd[2]
        kept.too_large += odd[3]
        return readings
