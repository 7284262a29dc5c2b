"""Which plan holds when. Every role uses these rules, and none has rules of its own.

1. Plans follow each other in the order of their starts. A plan starts with its first window and ends at the
   moment the next one starts; the newest has no end. (Of two plans with one start the one with the greater id
   holds, and the other is over before it begins: an authority never makes such plans.)
2. A window belongs to a plan if all of it lies between the plan's start and its end. So at every moment at
   most one plan's window is open, whatever the lengths of their windows.
3. A new plan starts at a multiple of both window lengths, its own and that of the plan before it. So the old
   plan's last window ends exactly where the new plan's first one starts, and no reading falls in between.
4. A new plan starts after everything that the plan before it may already count: no window that has begun, or
   that ends within `early_s` of now (an aggregator would take its batches), changes its plan.
5. A plan's key may go once nothing of the plan can still come: its last window is older than `horizon_s`, and
   what closes last has had its `grace_s` and `late_s`.

Times are in seconds since the UTC epoch. Pure: the clock is passed in.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from gridhe.base.times import iso
from gridhe.errors import PlanError
from gridhe.plan.plan import Plan

__all__ = [
    "Period",
    "Succession",
    "check_start",
    "earliest_start_s",
    "last_arrival_s",
    "notice_start_s",
]

# How long before its first window a plan is made, unless the operator says otherwise: clocks that are some
# minutes apart and clients that wait before they reconnect must all know it in time.
_NOTICE_S = 900.0


@dataclass(frozen=True, slots=True)
class Period:
    """From when until when a plan holds; `end_s` is infinite while no successor is known."""

    plan_id: str
    start_s: int
    end_s: float = math.inf

    def holds(self, window: int, window_s: int) -> bool:
        """Whether all of this window of the plan lies within the period."""
        return self.start_s <= window * window_s and (window + 1) * window_s <= self.end_s


class Succession:
    """The periods of the plans that are known, in the order of their starts."""

    def __init__(self, starts: Iterable[tuple[str, int]]) -> None:
        """`starts` are (plan id, start in seconds); a plan may be named twice."""
        ordered = sorted({(start_s, plan_id) for plan_id, start_s in starts})
        ends = [*(float(start_s) for start_s, _ in ordered[1:]), math.inf]
        self.periods = tuple(
            Period(plan_id, start_s, end_s) for (start_s, plan_id), end_s in zip(ordered, ends, strict=False)
        )
        self._starts = [start_s for start_s, _ in ordered]
        self._by_plan = {period.plan_id: period for period in self.periods}

    @classmethod
    def of(cls, plans: Iterable[Plan]) -> "Succession":
        """The succession of whole plans."""
        return cls((plan.plan_id, plan.start_s) for plan in plans)

    def period(self, plan_id: str) -> Period | None:
        """When a plan holds; None for an unknown one."""
        return self._by_plan.get(plan_id)

    def at(self, moment_s: float) -> Period | None:
        """The period that holds at a moment; None before the first plan."""
        place = bisect_right(self._starts, moment_s)
        return self.periods[place - 1] if place else None

    def from_moment(self, moment_s: float) -> tuple[Period, ...]:
        """The periods that hold at a moment or later, earliest first."""
        return self.periods[max(0, bisect_right(self._starts, moment_s) - 1) :]


def earliest_start_s(newest: Plan, window_s: int, *, now_s: float, counted_until_s: float = 0.0) -> int:
    """The earliest moment at which a plan with windows of `window_s` may follow `newest` (rules 3 and 4).

    `counted_until_s` is the end of the latest window of which a total has arrived or been released.
    """
    step_s = math.lcm(newest.window_s, window_s)
    free_s = max(now_s + newest.early_s, counted_until_s, float(newest.start_s + newest.window_s))
    return math.ceil(free_s / step_s) * step_s


def notice_start_s(newest: Plan, window_s: int, *, now_s: float, counted_until_s: float = 0.0) -> int:
    """As `earliest_start_s`, but with time for everybody to hear of the new plan first."""
    return earliest_start_s(newest, window_s, now_s=now_s + _NOTICE_S, counted_until_s=counted_until_s)


def check_start(
    newest: Plan, window_s: int, start_s: int, *, now_s: float, counted_until_s: float = 0.0
) -> None:
    """Raise PlanError, which names the nearest start that will do, unless a plan may start at `start_s`."""
    earliest_s = earliest_start_s(newest, window_s, now_s=now_s, counted_until_s=counted_until_s)
    step_s = math.lcm(newest.window_s, window_s)
    nearest_s = max(earliest_s, math.ceil(start_s / step_s) * step_s)
    if start_s == nearest_s:
        return
    if start_s <= newest.start_s:
        why = f"must be after that of plan {newest.plan_id}, {iso(newest.start_s)}"
    elif start_s < now_s + newest.early_s:
        why = "has begun, is over, or may already be counted under the plan before it"
    elif start_s < counted_until_s:
        why = f"has been counted already: totals of windows until {iso(counted_until_s)} have arrived"
    else:
        why = f"cuts a window of plan {newest.plan_id}: both plans' windows meet every {step_s} s"
    raise PlanError(
        f"first window {start_s // window_s} ({iso(start_s)}) {why}; the nearest that will do is "
        f"--first-window {nearest_s // window_s} ({iso(nearest_s)})"
    )


def last_arrival_s(plan: Plan, end_s: float) -> float:
    """When nothing of a plan that ended at `end_s` can come any more (rule 5)."""
    return end_s + plan.horizon_s + plan.grace_s + plan.late_s
