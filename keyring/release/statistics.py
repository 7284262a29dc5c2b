"""From released integer blocks to statistics, per quantity and interval.

n is the number of present meters, S the sum of readings, Q the sum of squares of x >> s (s the plan's square
shift, a = 2^s) and h_b the number of meters in bin b, which is [edge_b, edge_(b+1) - 1]:

    mean      S / n
    variance  (population) X / n - (S / n)^2, with X the sum of squares of x:
              X = Q                                            for s = 0, exact
              X = a^2 Q + (a - 1) S - n (a - 1)(a - 2) / 6     for s > 0
              The second assumes that the s dropped bits are uniform over 0..a-1; the variance is then wrong
              by at most (a - 1) * mean + (a - 1)(a - 2) / 6, and is at least 0.
    min, max  the lowest and highest bin that is not empty
    quantile  for p: the bin of the k-th smallest reading, k = ceil(p n) (at least 1)

Bins are given as (lowest, highest) possible reading, both included.

An interval whose numbers contradict each other is not released (`inconsistent`), because a meter that does
not follow the plan is in it, and its numbers could be a message about others. Its flags:

    sum_out_of_range    S is not in 0..n * largest
    bin_out_of_range    a bin's count is not in 0..n
    bins_do_not_add_up  the bins' counts do not add up to n
    sum_outside_bins    S is not between the sum of the lower and of the upper edges of the filled bins
    squares_impossible  no n readings have both this S and this Q: with y = x >> s, the sum Y of y lies in
                        (S - n (a - 1)) / a .. S / a, and Y^2 <= n Q (Cauchy-Schwarz), Q <= (largest >> s) Y
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity

__all__ = ["FLAGS", "Bin", "IntervalStatistics", "inconsistent", "statistics_of"]

FLAGS = (
    "sum_out_of_range",
    "bin_out_of_range",
    "bins_do_not_add_up",
    "sum_outside_bins",
    "squares_impossible",
)

Bin = tuple[int, int]  # lowest and highest reading, both included


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalStatistics:
    """One quantity in one interval. None: not in the plan, without meaning or withheld (see `flags`)."""

    sum: int | None
    present: int | None
    mean: float | None = None
    variance: float | None = None
    min: Bin | None = None
    max: Bin | None = None
    quantiles: Mapping[str, Bin] | None = None
    flags: tuple[str, ...] = ()

    def record(self, quantity: Quantity) -> dict[str, Any]:
        """The statistics that the plan asks for, ready for JSON."""
        wanted: dict[str, Any] = {"sum": self.sum, "present": self.present}
        for name in ("mean", "variance", "min", "max"):
            if name in quantity.statistics:
                value = getattr(self, name)
                wanted[name] = list(value) if isinstance(value, tuple) else value
        if "quantiles" in quantity.statistics:
            bins = self.quantiles
            wanted["quantiles"] = None if bins is None else {p: list(bin_) for p, bin_ in bins.items()}
        return {**wanted, "flags": list(self.flags)}


def inconsistent(plan: Plan, blocks: Mapping[str, Mapping[str, NDArray[np.int64]]]) -> dict[str, list[bool]]:
    """For each quantity the intervals with any of FLAGS. Blocks are int64[intervals]."""
    return {
        name: [bool(each.flags) for each in intervals]
        for name, intervals in statistics_of(plan, blocks).items()
    }


def statistics_of(
    plan: Plan,
    blocks: Mapping[str, Mapping[str, Sequence[int] | NDArray[np.int64]]],
    *,
    probabilities: Sequence[float] = (),
    withheld: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list[IntervalStatistics]]:
    """The statistics of each quantity, one record per interval.

    `blocks[quantity][kind]` has one integer per interval (`SlotLayout.kinds`). If `withheld[quantity]` has a
    reason for an interval, its integers are ignored and the reason becomes its flag.
    """
    exact = [Fraction(str(p)) for p in probabilities]  # "0.95", not the double next to it: ceil must be right
    return {
        quantity.name: [
            _interval(
                quantity, {kind: int(values[i]) for kind, values in blocks[quantity.name].items()}, exact
            )
            if not (withheld and withheld[quantity.name][i])
            else IntervalStatistics(sum=None, present=None, flags=(withheld[quantity.name][i],))
            for i in range(plan.intervals)
        ]
        for quantity in plan.quantities
    }


def _interval(
    quantity: Quantity, values: Mapping[str, int], probabilities: Sequence[Fraction]
) -> IntervalStatistics:
    total, present = int(values["reading"]), int(values["present"])
    squares = int(values["square"]) if quantity.squares else None
    bins = [int(values[f"bin:{i}"]) for i in range(quantity.bins)]
    flags = _flags(quantity, total, present, squares, bins)
    computed: dict[str, Any] = {}
    if present > 0:
        computed["mean"] = float(Fraction(total, present))
        if squares is not None and "squares_impossible" not in flags:
            computed["variance"] = _variance(quantity, total, present, squares)
        if bins and "bin_out_of_range" not in flags and "bins_do_not_add_up" not in flags:
            edges = _edges(quantity)
            filled = [i for i, count in enumerate(bins) if count]
            computed["min"], computed["max"] = edges[filled[0]], edges[filled[-1]]
            computed["quantiles"] = {str(float(p)): edges[_bin_of(p, present, bins)] for p in probabilities}
    return IntervalStatistics(sum=total, present=present, flags=flags, **computed)


def _edges(quantity: Quantity) -> list[Bin]:
    return [(low, high - 1) for low, high in zip(quantity.bin_edges, quantity.bin_edges[1:], strict=False)]


def _bin_of(p: Fraction, present: int, bins: Sequence[int]) -> int:
    """The bin of the k-th smallest reading, k = ceil(p * present)."""
    k = max(1, -(-p.numerator * present // p.denominator))
    seen = 0
    for i, count in enumerate(bins):
        seen += count
        if seen >= k:
            return i
    raise AssertionError("the bins add up to present, and k is at most that")


def _variance(quantity: Quantity, total: int, present: int, squares: int) -> float:
    a = 1 << quantity.square_shift
    sum_of_squares = a * a * squares + (a - 1) * total - Fraction(present * (a - 1) * (a - 2), 6)
    return float(max(Fraction(0), sum_of_squares / present - Fraction(total, present) ** 2))


def _flags(
    quantity: Quantity, total: int, present: int, squares: int | None, bins: Sequence[int]
) -> tuple[str, ...]:
    flags = []
    if not 0 <= total <= present * quantity.largest:
        flags.append("sum_out_of_range")
    if bins:
        if any(not 0 <= count <= present for count in bins):
            flags.append("bin_out_of_range")
        if sum(bins) != present:
            flags.append("bins_do_not_add_up")
        edges = _edges(quantity)
        minimum = sum(count * low for count, (low, _) in zip(bins, edges, strict=True))
        maximum = sum(count * high for count, (_, high) in zip(bins, edges, strict=True))
        if not minimum <= total <= maximum:
            flags.append("sum_outside_bins")
    if squares is not None:
        a = 1 << quantity.square_shift
        minimum_y = max(0, -((present * (a - 1) - total) // a))  # ceil((S - n (a - 1)) / a)
        maximum_y = total // a
        if not (
            minimum_y**2 <= present * squares
            and squares <= (quantity.largest >> quantity.square_shift) * maximum_y
        ):
            flags.append("squares_impossible")
    return tuple(flags)
