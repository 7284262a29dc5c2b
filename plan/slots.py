"""The layout of a ciphertext's slots.

Per quantity, blocks of B = window_s / interval_s slots, in this order:

    reading     the integer, 0 where it is missing
    present     1 where the interval has a reading
    square      (reading >> square_shift) ** 2, if the plan has variance
    bin:0 ...   1 in the bin that contains the reading, if the plan has min, max or quantiles

Every slot is summed over meters, so an aggregator only needs addition.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gridhe.errors import PlanError
from gridhe.plan.quantity import Quantity

__all__ = ["MISSING", "SlotLayout"]

MISSING = -1  # marks an interval without a reading


class SlotLayout:
    """The slots of a plan's ciphertexts."""

    def __init__(self, quantities: tuple[Quantity, ...], intervals: int) -> None:
        self.quantities = quantities
        self.intervals = intervals
        self._blocks: dict[tuple[str, str], slice] = {}
        for quantity in quantities:
            for kind in self.kinds(quantity):
                start = len(self._blocks) * intervals
                self._blocks[quantity.name, kind] = slice(start, start + intervals)
        self.used = len(self._blocks) * intervals

    @staticmethod
    def kinds(quantity: Quantity) -> tuple[str, ...]:
        """The blocks of a quantity, in the order of their slots."""
        squares = ("square",) if quantity.squares else ()
        return ("reading", "present", *squares, *(f"bin:{i}" for i in range(quantity.bins)))

    def block(self, quantity: str, kind: str) -> slice:
        """The slots of one block. Raises KeyError when the plan has no such block."""
        return self._blocks[quantity, kind]

    def encode(self, readings: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
        """The slots of one batch: int64[used].

        `readings[name]` is int64[intervals], MISSING (-1) for an interval without a reading. A quantity that
        is not in `readings` is missing in all intervals. Raises ValueError for a wrong dtype or shape, an
        unknown quantity or a reading outside 0..largest: the meter applies its reading policy before.
        """
        unknown = set(readings) - {quantity.name for quantity in self.quantities}
        if unknown:
            raise ValueError(f"the plan has no quantity {sorted(unknown)}")
        slots = np.zeros(self.used, np.int64)
        for quantity in self.quantities:
            given = readings.get(quantity.name)
            if given is None:
                continue
            # numpy would truncate a float to an integer without an error.
            if np.asarray(given).dtype.kind not in "iu":
                raise ValueError(f"{quantity.name}: readings must be integers, not {np.asarray(given).dtype}")
            values = np.asarray(given, np.int64)
            if values.shape != (self.intervals,):
                raise ValueError(
                    f"{quantity.name}: expected {self.intervals} readings, got shape {values.shape}"
                )
            present = values != MISSING
            if np.any((values < 0) & present) or np.any(values > quantity.largest):
                raise ValueError(f"{quantity.name}: a reading is outside 0..{quantity.largest}")
            known = np.where(present, values, 0)
            slots[self.block(quantity.name, "reading")] = known
            slots[self.block(quantity.name, "present")] = present
            if quantity.squares:
                slots[self.block(quantity.name, "square")] = (known >> quantity.square_shift) ** 2
            if quantity.bins:
                # The slots of a bin are adjacent over intervals: bin b of interval i is at first + b * B + i.
                first = self.block(quantity.name, "bin:0").start
                bins = np.searchsorted(np.asarray(quantity.bin_edges), known, side="right") - 1
                at = first + bins * self.intervals + np.arange(self.intervals)
                slots[at[present]] = 1
        return slots

    def split(self, slots: NDArray[np.int64]) -> dict[str, dict[str, NDArray[np.int64]]]:
        """The blocks of int64[used] as {quantity: {kind: int64[intervals]}}. Raises PlanError on size."""
        if slots.shape != (self.used,):
            raise PlanError(f"expected {self.used} slots, got {slots.shape}")
        return {
            quantity.name: {kind: slots[self.block(quantity.name, kind)] for kind in self.kinds(quantity)}
            for quantity in self.quantities
        }
