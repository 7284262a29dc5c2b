"""Replays recorded readings: maps a CSV's rows to the windows of a plan.

If the first column holds time stamps, a row's stamp gives its interval (shifted so that the first row is at
`start_s`, if that is given). Gaps are missing readings; of two rows for one interval the first counts.
Otherwise row 0 is the interval at `start_s`, and each row is the next interval.
"""

import bisect
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, PolicyCounts, ReadingPolicy
from gridhe.meter_agent.sources.table import Table
from gridhe.plan.plan import Plan

__all__ = ["ReplaySource", "last_start_s"]


def last_start_s(table: Table, plan: Plan, now_s: float, loop: bool = False) -> int:
    """The start with which the last whole window ends before `now_s`; with `loop`, the present window."""
    if table.times_s is not None:
        return int(table.times_s[0] // plan.window_s) * plan.window_s
    windows = 0 if loop else max(1, len(table.raw) // plan.intervals)
    return (int(now_s // plan.window_s) - windows) * plan.window_s


class ReplaySource:
    """A WindowSource of a table's meters."""

    def __init__(
        self,
        table: Table,
        plan: Plan,
        *,
        start_s: int | None,
        quantity: str | None = None,
        columns: Mapping[str, str] | None = None,
        loop: bool = False,
    ) -> None:
        """`columns` maps a meter to its column (default: the same name).

        `start_s` must be the start of a window; None keeps the file's own time stamps. `quantity` is the one
        that the file holds (default: the plan's first); others are missing. Raises SourceError.
        """
        self._table, self._plan, self._loop = table, plan, loop
        names = [q.name for q in plan.quantities]
        self._quantity = quantity or names[0]
        if self._quantity not in names:
            raise SourceError(f"the plan has no quantity {self._quantity!r}; it has {', '.join(names)}")
        self._column = {name: at for at, name in enumerate(table.columns)}
        self._columns = columns
        if start_s is None and table.times_s is None:
            raise SourceError(f"{table.path} has labels, no time stamps: give the start of its first window")
        if start_s is not None and start_s % plan.window_s:
            raise SourceError(
                f"start {start_s} is not the start of a {plan.window_s} s window; "
                f"use {start_s // plan.window_s * plan.window_s}"
            )
        self.duplicates = 0  # rows for an interval that an earlier row already filled
        self._intervals, self._rows = self._lay(start_s)

    def _lay(self, start_s: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The intervals that have a row, ascending, and the index of each row."""
        table, interval_s = self._table, self._plan.interval_s
        count = len(table.raw)
        if table.times_s is None:
            assert start_s is not None  # noqa: S101 - checked by the constructor
            return start_s // interval_s + np.arange(count), np.arange(count)
        times = table.times_s
        if start_s is not None:
            times = times - times[0] + start_s
        steps = np.diff(times)
        if np.any(steps < 0):
            row = int(np.flatnonzero(steps < 0)[0]) + 1
            line = int(table.lines[row])
            raise SourceError(f"{table.path}, line {line}: its time is before the row above; sort the file")
        rising = steps[steps > 0]
        if rising.size and float(np.median(rising)) != interval_s:
            raise SourceError(
                f"{table.path} has a row every {float(np.median(rising)):g} s, the plan an interval every "
                f"{interval_s} s: resample the file, or make a plan with that interval_s"
            )
        if self._loop and not np.all(steps == interval_s):
            raise SourceError(f"{table.path} has gaps in its time stamps: it cannot be looped")
        intervals, rows = np.unique(np.floor_divide(times, interval_s).astype(np.int64), return_index=True)
        self.duplicates = count - len(rows)
        return intervals, rows

    @property
    def windows(self) -> tuple[int, int | None]:
        """The first window with a row, and one past the last (None when looping)."""
        per_window = self._plan.intervals
        first = int(self._intervals[0]) // per_window
        return first, None if self._loop else int(self._intervals[-1]) // per_window + 1

    def _at(self, meter: str) -> int:
        column = meter if self._columns is None else self._columns.get(meter, meter)
        if column not in self._column:
            raise SourceError(f"{self._table.path} has no column {column!r} for meter {meter!r}")
        return self._column[column]

    def _row(self, interval: int) -> int | None:
        if self._loop and interval >= self._intervals[0]:
            return int(self._rows[(interval - int(self._intervals[0])) % len(self._rows)])
        at = bisect.bisect_left(self._intervals, interval)
        if at < len(self._intervals) and self._intervals[at] == interval:
            return int(self._rows[at])
        return None

    def window(self, meter: str, window: int) -> dict[str, NDArray[np.int64]]:
        """Raw readings int64[intervals] of the file's quantity, ABSENT without a row. Raises SourceError."""
        column, count = self._at(meter), self._plan.intervals
        raw = np.full(count, ABSENT, np.int64)
        first = window * count
        if self._loop:
            start, rows = int(self._intervals[0]), len(self._rows)
            wanted = np.arange(max(first, start), first + count)
            if wanted.size:
                raw[wanted[0] - first :] = self._table.raw[self._rows[(wanted - start) % rows], column]
        else:
            low, high = np.searchsorted(self._intervals, (first, first + count))
            raw[self._intervals[low:high] - first] = self._table.raw[self._rows[low:high], column]
        return {self._quantity: raw}

    def where(self, meter: str, window: int, interval: int) -> str:
        """File, line and column of a reading."""
        row = self._row(window * self._plan.intervals + interval)
        if row is None:
            return f"{self._table.path}, meter {meter!r}"
        return self._table.where(row, self._at(meter))

    def check(self, policy: ReadingPolicy, meters: list[str]) -> None:
        """Check all readings before sealing. Raises SourceError for one that the policy refuses."""
        largest = next(q.largest for q in self._plan.quantities if q.name == self._quantity)
        for meter in meters:
            column = self._at(meter)
            policy.apply(
                self._table.raw[:, column],
                largest,
                lambda row, column=column: self._table.where(row, column),  # type: ignore[misc]
                PolicyCounts(),
            )
