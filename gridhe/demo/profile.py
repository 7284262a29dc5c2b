"""A group's load over a whole run, from released integers only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.plan.quantity import Quantity

__all__ = ["GroupProfile"]

_HOUR_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupProfile:
    """Released numbers of one group and quantity: int64[T], one per interval, all windows in sequence."""

    group: str
    meters: int
    windows: int
    quantity: Quantity
    start_s: int
    interval_s: int
    sums: NDArray[np.int64]
    present: NDArray[np.int64]
    squares: NDArray[np.int64] | None  # of readings >> square_shift
    bins: NDArray[np.int64] | None  # [bins][T]

    @property
    def kw_per_unit(self) -> float:
        """kW per unit of the quantity in one interval."""
        return 1e-3 if self.quantity.unit == "W" else 1e-3 * _HOUR_S / self.interval_s

    @property
    def load_kw(self) -> NDArray[np.float64]:
        """The group's load: float64[T], kW."""
        return np.asarray(self.sums * self.kw_per_unit, np.float64)

    @property
    def energy_kwh(self) -> float:
        """All energy of the run, kWh."""
        return float(self.sums.sum() * self.kw_per_unit * self.interval_s / _HOUR_S)

    @property
    def times(self) -> list[datetime]:
        """The start of each interval, UTC."""
        starts = range(self.start_s, self.start_s + self.interval_s * self.sums.size, self.interval_s)
        return [datetime.fromtimestamp(start, UTC) for start in starts]

    @property
    def peak(self) -> tuple[datetime, float]:
        """The start (UTC) of the first interval with the highest load, and that load in kW."""
        at = int(self.sums.argmax())
        return self.times[at], float(self.load_kw[at])

    @property
    def mean(self) -> float:
        """Mean reading, in the quantity's unit; nan without readings."""
        count = int(self.present.sum())
        return int(self.sums.sum()) / count if count else float("nan")

    @property
    def spread(self) -> float | None:
        """Standard deviation of readings over meters and time; None without squares."""
        count = int(self.present.sum())
        if self.squares is None or not count:
            return None
        squares = self._of_readings(float(self.squares.sum()), float(self.sums.sum()), count)
        return math.sqrt(max(0.0, squares / count - self.mean**2))

    @property
    def mean_per_interval(self) -> NDArray[np.float64]:
        """Mean reading of each interval: float64[T], nan without readings."""
        return self._per_meter(self.sums.astype(np.float64))

    @property
    def spread_per_interval(self) -> NDArray[np.float64] | None:
        """Standard deviation over meters in each interval: float64[T]; None without squares."""
        if self.squares is None:
            return None
        squares = self._of_readings(self.squares.astype(np.float64), self.sums, self.present)
        variance = self._per_meter(squares) - self.mean_per_interval**2
        return np.asarray(np.sqrt(np.maximum(0.0, variance)), np.float64)

    def _of_readings(self, squares: Any, sums: Any, present: Any) -> Any:
        """The sum of squares of readings, estimated from the squares of readings >> square_shift.

        The low bits are assumed uniform (see `gridhe.keyring.release.statistics`). Exact for a shift of 0.
        """
        a = 1 << self.quantity.square_shift
        return a * a * squares + (a - 1) * sums - present * ((a - 1) * (a - 2) / 6)

    def _per_meter(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        means = np.full(values.size, np.nan)
        np.divide(values, self.present, out=means, where=self.present > 0)
        return means

    def extremes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Lower edge of the lowest and upper edge of the highest filled bin of each interval.

        float64[T] each, nan without readings; None without a histogram.
        """
        if self.bins is None:
            return None
        filled = self.bins > 0
        some = filled.any(axis=0)
        edges = np.array(self.quantity.bin_edges, np.float64)
        low = np.where(some, edges[filled.argmax(axis=0)], np.nan)
        high = np.where(some, edges[len(filled) - filled[::-1].argmax(axis=0)] - 1, np.nan)
        return low, high

    @property
    def lowest_bin(self) -> tuple[int, int] | None:
        """The lowest bin with a reading in any interval, as (smallest, largest) value."""
        return self._bin(0)

    @property
    def highest_bin(self) -> tuple[int, int] | None:
        """The highest bin with a reading in any interval, as (smallest, largest) value."""
        return self._bin(-1)

    def _bin(self, which: int) -> tuple[int, int] | None:
        if self.bins is None:
            return None
        filled: Sequence[int] = np.flatnonzero(self.bins.sum(axis=1)).tolist()
        if not filled:
            return None
        edges = self.quantity.bin_edges
        return edges[filled[which]], edges[filled[which] + 1] - 1
