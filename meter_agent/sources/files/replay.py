"""Replays a file's readings: maps them to the windows of a plan.

If the file has times, a row's time gives its interval (shifted so that the first row is at `start_s`, if that
is given). Finer intervals are added up to the plan's, if all parts are there; gaps are missing readings.
Otherwise row 0 is the interval at `start_s`, and each row is the next interval.

The last window is over when the file has readings up to its end: a file that grows has no end.
"""

import bisect
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, TEXT, PolicyCounts, ReadingPolicy
from gridhe.meter_agent.sources.files.table import Samples, Table, round_wh
from gridhe.plan.plan import Plan

__all__ = ["ReplaySource", "last_start_s"]

_PATIENCE = (
    1.5  # intervals between two samples of a register around a boundary, as in gridhe.meter_agent.windows
)


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
        partial: bool = False,
    ) -> None:
        """`columns` maps a meter to its column (default: the same name).

        `start_s` must be the start of a window; None keeps the file's own time stamps. `quantity` is the
        plan's quantity that takes the file's import, or its net value (default: the one named after it, else
        the first one); an export goes to the quantity named after it; others are missing. `partial`: the
        last window is over at the file's end. Raises SourceError.
        """
        self._table, self._plan, self._loop, self._partial = table, plan, loop, partial
        self._parts = _parts_of(table, plan, quantity)
        self._column = {name: at for at, name in enumerate(table.columns)}
        self._columns = columns
        if start_s is None and table.times_s is None:
            raise SourceError(f"{table.path} has labels, no time stamps: give the start of its first window")
        if start_s is not None and start_s % plan.window_s:
            raise SourceError(
                f"start {start_s} is not the start of a {plan.window_s} s window; "
                f"use {start_s // plan.window_s * plan.window_s}"
            )
        # Ascending intervals (of the epoch), the first row of each, and the readings of each quantity.
        self._intervals, self._rows, self._raw = self._lay(start_s)

    def _lay(
        self, start_s: int | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, NDArray[np.int64]]]:
        table, interval_s = self._table, self._plan.interval_s
        count = len(table.raw)
        if table.times_s is None:
            assert start_s is not None  # noqa: S101 - checked by the constructor
            return start_s // interval_s + np.arange(count), np.arange(count), self._added(None)
        times = table.times_s
        if start_s is not None:
            times = times - times[0] + start_s
        if table.samples:
            return self._between(int(times[0] - table.times_s[0]))
        step_s = table.step_s or interval_s
        if interval_s % step_s:
            raise SourceError(
                f"{table.path} has a row every {step_s} s, the plan an interval every "
                f"{interval_s} s: resample the file, or make a plan with that interval_s"
            )
        if (times % step_s).any():
            raise SourceError(
                f"{table.path} has intervals that begin {int(times[0] % step_s)} s after a whole {step_s} "
                "s: they "
                "do not fit the plan's intervals; give --start TIME to move them"
            )
        intervals = times // interval_s
        if self._loop and not np.all(np.diff(times) == step_s):
            raise SourceError(f"{table.path} has gaps in its time stamps: it cannot be looped")
        if step_s == interval_s:
            return intervals, np.arange(count), self._added(None)
        starts = np.flatnonzero(np.diff(intervals, prepend=intervals[0] - 1))
        return intervals[starts], starts, self._added((starts, interval_s // step_s))

    def _added(self, groups: tuple[NDArray[np.int64], int] | None) -> dict[str, NDArray[np.int64]]:
        """Whole Wh (or mean W) of each plan quantity: int64[intervals][columns].

        `groups`: the first row of each interval, and how many rows it needs. Fractions of a Wh are added
        before they are rounded. An interval with a part that is missing is missing.
        """
        table = self._table
        found = {}
        for quantity, names in self._parts.items():
            layers = [table.values[name] for name in names]
            if groups is None and len(layers) == 1 and table.per_wh == 1:
                raw = layers[0]
            else:
                raw = _sum_exactly(layers, groups, table.per_wh)
            found[quantity] = self._as_power(raw) if self._is_power(quantity) else raw
        return found

    def _is_power(self, name: str) -> bool:
        described = self._table.format != "gridhe"
        return described and next(q.unit for q in self._plan.quantities if q.name == name) == "W"

    def _as_power(self, raw: NDArray[np.int64]) -> NDArray[np.int64]:
        """The mean power in whole W of an interval's Wh."""
        watts = round_wh(np.where(raw <= TEXT, 0, raw) * 3600, self._plan.interval_s)
        return np.where(raw <= TEXT, raw, watts)

    def _between(
        self, shift_s: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, NDArray[np.int64]]]:
        """Differences of registers that were read at irregular times, interpolated at intervals' ends."""
        table, interval_s = self._table, self._plan.interval_s
        first = min(int(each.times_s[0]) for each in table.samples.values()) + shift_s
        last = max(int(each.times_s[-1]) for each in table.samples.values()) + shift_s
        if (last - first) // interval_s > 1 << 24:
            raise SourceError(f"{table.path} spans too many intervals of {interval_s} s: cut it into pieces")
        intervals = np.arange(first // interval_s, max(last // interval_s, first // interval_s + 1))
        boundaries = np.append(intervals, intervals[-1] + 1) * interval_s - shift_s
        found = {}
        for quantity, names in self._parts.items():
            raw = np.full((len(intervals), len(table.columns)), ABSENT, np.int64)
            for at, meter in enumerate(table.columns):
                layers = [table.samples[name, meter] for name in names if (name, meter) in table.samples]
                if len(layers) == len(names):
                    column = _differences(layers, boundaries, _PATIENCE * interval_s)
                    raw[:, at] = self._as_power(column) if self._is_power(quantity) else column
            found[quantity] = raw
        assert table.times_s is not None  # noqa: S101 - samples have times
        rows = np.clip(np.searchsorted(table.times_s, boundaries[:-1]), 0, len(table.times_s) - 1)
        return intervals, rows, found

    @property
    def windows(self) -> tuple[int, int | None]:
        """The first window with a row, and one past the last that is over (None when looping)."""
        per_window = self._plan.intervals
        first = int(self._intervals[0]) // per_window
        if self._loop:
            return first, None
        if self._partial:
            return first, int(self._intervals[-1]) // per_window + 1
        filled = np.zeros(len(self._intervals), np.bool_)
        for raw in self._raw.values():
            filled |= (raw != ABSENT).any(axis=1)
        if not filled.any():
            return first, first
        last = int(self._intervals[int(np.flatnonzero(filled)[-1])])
        return first, max(first, (last + 1) // per_window)

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
        """Raw readings int64[intervals] of the file's quantities, ABSENT without a row.

        Raises SourceError.
        """
        column, count = self._at(meter), self._plan.intervals
        first = window * count
        found = {}
        for quantity, readings in self._raw.items():
            raw = np.full(count, ABSENT, np.int64)
            if self._loop:
                start, rows = int(self._intervals[0]), len(self._intervals)
                wanted = np.arange(max(first, start), first + count)
                if wanted.size:
                    raw[wanted[0] - first :] = readings[(wanted - start) % rows, column]
            else:
                low, high = np.searchsorted(self._intervals, (first, first + count))
                raw[self._intervals[low:high] - first] = readings[low:high, column]
            found[quantity] = raw
        return found

    def where(self, meter: str, window: int, interval: int) -> str:
        """File, line and column of a reading."""
        row = self._row(window * self._plan.intervals + interval)
        if row is None:
            return f"{self._table.path}, meter {meter!r}"
        return self._table.where(row, self._at(meter))

    def check(self, policy: ReadingPolicy, meters: list[str]) -> None:
        """Check all readings before sealing. Raises SourceError for one that the policy refuses."""
        largest = {q.name: q.largest for q in self._plan.quantities}
        for meter in meters:
            column = self._at(meter)
            for quantity, readings in self._raw.items():
                policy.apply(
                    readings[:, column],
                    largest[quantity],
                    lambda at, column=column: self._table.where(int(self._rows[at]), column),  # type: ignore[misc]
                    PolicyCounts(),
                )


def _parts_of(table: Table, plan: Plan, quantity: str | None) -> dict[str, Sequence[str]]:
    """The file's quantities that each of the plan's quantities is the sum of."""
    names = [q.name for q in plan.quantities]
    if quantity is not None and quantity not in names:
        raise SourceError(f"the plan has no quantity {quantity!r}; it has {', '.join(names)}")
    have = list(table.values)
    sides = {
        side: [name for name in have if name.split("_")[0] == side] for side in ("import", "export", "net")
    }
    main = next((side for side in ("import", "net") if sides[side]), None)
    if main is None and quantity is None and not any(name.split("_")[0] in have for name in names):
        raise SourceError(
            f"{table.path} holds {', '.join(have)} only; --quantity NAME says what it is in the plan"
        )
    parts: dict[str, Sequence[str]] = {}
    if main is not None:
        parts[quantity or next((name for name in names if name.split("_")[0] == "import"), names[0])] = sides[
            main
        ]
    elif quantity is not None:
        parts[quantity] = sides["export"] or have[:1]
    for name in names:
        side = name.split("_")[0]
        if (
            name not in parts
            and side in ("export", "generation")
            and (found := [n for n in have if n.split("_")[0] == side])
        ):
            parts[name] = found
    return parts


def _sum_exactly(
    layers: Sequence[NDArray[np.int64]], groups: tuple[NDArray[np.int64], int] | None, per_wh: int
) -> NDArray[np.int64]:
    """The sum of layers and of groups of rows, rounded once to whole Wh; ABSENT or TEXT where a part is."""
    absent = np.logical_or.reduce([layer == ABSENT for layer in layers])
    text = np.logical_or.reduce([layer == TEXT for layer in layers])
    whole = np.zeros(layers[0].shape, np.int64)
    rest = np.zeros(layers[0].shape, np.int64)
    for layer in layers:
        quotient, remainder = np.divmod(np.where(layer <= TEXT, 0, layer), per_wh)
        whole, rest = whole + quotient, rest + remainder
    text |= np.abs(whole) >= 2**52  # cannot be added without loss, and no meter counts so far
    whole = np.where(text, 0, whole)
    if groups is not None:
        starts, need = groups
        count = np.diff(np.append(starts, len(absent)))
        whole, rest = np.add.reduceat(whole, starts), np.add.reduceat(rest, starts)
        absent = np.logical_or.reduceat(absent, starts) | (count != need)[:, np.newaxis]
        text = np.logical_or.reduceat(text, starts)
    carried, rest = np.divmod(rest, per_wh)
    whole = whole + carried
    whole = whole + ((2 * rest > per_wh) | ((2 * rest == per_wh) & (whole % 2 == 1)))
    return np.where(absent, ABSENT, np.where(text, TEXT, whole))


def _differences(
    layers: Sequence[Samples], boundaries: NDArray[np.int64], patience_s: float
) -> NDArray[np.int64]:
    """Wh between consecutive boundaries; ABSENT if a register is not known at one, or was exchanged."""
    total = np.zeros(len(boundaries) - 1, np.int64)
    known = np.ones(len(boundaries) - 1, np.bool_)
    for each in layers:
        times, wh = each.times_s, each.wh
        after = np.searchsorted(times, boundaries)
        exact = (after < len(times)) & (times[np.minimum(after, len(times) - 1)] == boundaries)
        inside = (after > 0) & (after < len(times))
        right = (
            np.clip(after, 1, max(1, len(times) - 1)) if len(times) > 1 else np.zeros(len(after), np.int64)
        )
        left = np.maximum(right - 1, 0)
        apart = times[right] - times[left]
        inside &= (apart <= patience_s) & ~each.breaks[right]
        span = np.maximum(apart, 1)
        between = wh[left] + (wh[right] - wh[left]) * np.clip(boundaries - times[left], 0, None) // span
        value = np.where(exact, wh[np.minimum(after, len(times) - 1)], between)
        exchanged = np.cumsum(each.breaks)[np.clip(after - (~exact).astype(np.int64), 0, len(times) - 1)]
        fine = exact | inside
        known &= fine[:-1] & fine[1:] & (exchanged[:-1] == exchanged[1:])
        total += np.where(fine[1:] & fine[:-1], np.diff(value), 0)
    return np.where(known, total, ABSENT)
