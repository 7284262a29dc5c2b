"""Decides how readings that cannot be counted as they are get counted.

Raw readings are int64 with two reserved values, so that a real -1 stays a negative reading: ABSENT
(an empty cell, a gap, a device that was off) and TEXT (a value that is not an integer).

    raw reading            on_... setting      missing     clip            refuse
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
    """Count of readings used unchanged (`good`), and of the others by kind."""

    good: int = 0
    absent: int = 0
    text: int = 0
    negative: int = 0
    too_large: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


class ReadingPolicy:
    """Applies `meter.on_negative`, `meter.on_too_large` and `meter.on_text`, and counts readings by kind."""

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

        `where(i)` names the place of flat index i (file, row, column) in the error message. Counts are added
        to `counts`, else to `self.counts`. Raises SourceError if a setting is `refuse` and applies.
        """
        absent = raw == ABSENT
        text = raw == TEXT
        negative = (raw < 0) & ~absent & ~text
        too_large = raw > largest
        settings = self._settings
        for mask, policy, what in (
            (text, settings.on_text, "is no integer"),
            (negative, settings.on_negative, "is negative"),
            (too_large, settings.on_too_large, f"is above the plan's largest ({largest})"),
        ):
            if policy == "refuse" and mask.any():
                at = int(np.flatnonzero(mask)[0])
                value = "" if what == "is no integer" else f" {int(raw.flat[at])}"
                name = {"is no integer": "on_text", "is negative": "on_negative"}.get(what, "on_too_large")
                raise SourceError(f"{where(at)}: the reading{value} {what}; correct it or set meter.{name}")
        readings = np.where(absent | text, MISSING, raw)
        readings[negative] = 0 if settings.on_negative == "clip" else MISSING
        readings[too_large] = largest if settings.on_too_large == "clip" else MISSING
        totals = self.counts if counts is None else counts
        odd = [int(np.count_nonzero(mask)) for mask in (absent, text, negative, too_large)]
        totals.good += raw.size - sum(odd)
        totals.absent += odd[0]
        totals.text += odd[1]
        totals.negative += odd[2]
        totals.too_large += odd[3]
        return readings
