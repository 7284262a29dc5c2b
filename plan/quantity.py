"""A quantity: a measured integer per interval, and the statistics that are collected of it."""

import itertools
from dataclasses import dataclass

from gridhe.errors import ConfigError, PlanError
from gridhe.plan.names import check_name

__all__ = ["Quantity"]

_STATISTICS = ("sum", "mean", "variance", "min", "max", "quantiles")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A measured integer 0..largest per interval. Raises PlanError for a field that is not valid."""

    name: str
    unit: str
    largest: int
    statistics: tuple[str, ...]
    bin_edges: tuple[int, ...] = ()  # m + 1 rising edges from 0 to largest + 1; bin i is [edge i, edge i+1)
    square_shift: int = 0  # squares are of reading >> square_shift, so that they fit

    def __post_init__(self) -> None:
        try:
            check_name(self.name, "quantity")
        except ConfigError as error:
            raise PlanError(str(error)) from None
        if not 1 <= self.largest <= 2**32:
            raise PlanError(f"{self.name}: largest {self.largest} must be 1 to 2**32")
        if not 0 <= self.square_shift < 32:
            raise PlanError(f"{self.name}: square_shift {self.square_shift} must be 0 to 31")
        unknown = [name for name in self.statistics if name not in _STATISTICS]
        if unknown:
            raise PlanError(f"{self.name}: unknown statistic {unknown}; use {', '.join(_STATISTICS)}")
        wants_bins = bool({"min", "max", "quantiles"} & set(self.statistics))
        if wants_bins != bool(self.bin_edges):
            raise PlanError(f"{self.name}: min, max and quantiles need bin edges; other statistics have none")
        if self.bin_edges:
            edges = self.bin_edges
            rising = all(low < high for low, high in itertools.pairwise(edges))
            if len(edges) < 3 or not rising or edges[0] != 0 or edges[-1] != self.largest + 1:
                raise PlanError(
                    f"{self.name}: bin edges must rise from 0 to largest + 1 = {self.largest + 1}, "
                    "with two bins or more"
                )

    @property
    def squares(self) -> bool:
        """Whether squares are collected."""
        return "variance" in self.statistics

    @property
    def bins(self) -> int:
        """Number of histogram bins; 0 without a histogram."""
        return max(0, len(self.bin_edges) - 1)

    @property
    def largest_square(self) -> int:
        """The largest number that one meter can have in a `square` slot."""
        return (self.largest >> self.square_shift) ** 2

    @property
    def largest_slot(self) -> int:
        """The largest number that one meter can have in a slot."""
        return max(self.largest, self.largest_square if self.squares else 0)
