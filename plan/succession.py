"""The period in which each plan is valid. Every role uses these rules and has no others.

1. Plans follow each other in the order of their starts. A plan starts with its first window and ends when
   the next plan starts; the newest plan has no end. (Of two plans with the same start, the one with the
   greater id is valid and the other's period is empty. An authority never makes such plans.)
2. A window belongs to a plan if all of it lies between the plan's start and its end. So at every moment the
   window of at most one plan is open, whatever the lengths of their windows.
3. A new plan starts at a multiple of both window lengths, its own and that of the previous plan. So the old
   plan's last window ends exactly where the new plan's first window starts, and no reading is lost between.
4. A new plan starts after all windows that may already be counted under the previous plan: a window that has
   begun, or that ends within `early_s` of now (an aggregator accepts its batches), keeps its plan.
5. A plan's key may be deleted once nothing of the plan can still arrive: its last window is older than
   `horizon_s`, and `grace_s` and `late_s` have passed for the last part.

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

# By default a plan is made this long before its first window. Every role must have it in time, also with
# clocks that are some minutes apart and with clients that wait before they reconnect.
_NOTICE_S = 900.0


@dataclass(frozen=True, slots=True)
class Period:
    """The time from `start_s` to `end_s` in which a plan is valid; `end_s` is infinite for the newest."""

    plan_id: str
    start_s: int
    end_s: float = math.inf

    def holds(self, window: int, window_s: int) -> bool:
        """Whether all of window `window` (of length `window_s`) lies within the period."""
        return self.start_s <= window * window_s and (window + 1) * window_s <= self.end_s


class Succession:
    """The periods of the known plans, in the order of their starts."""

    def __init__(self, starts: Iterable[tuple[str, int]]) -> None:
        """`starts` are (plan id, start in seconds); a plan may occur twice."""
        ordered = sorted({(start_s, plan_id) for plan_id, start_s in starts})
        ends = [*(float(start_s) for start_s, _ in ordered[1:]), math.inf]
        self.periods = tuple(
            Period(plan_id, start_s, end_s) for (start_s, plan_id), end_s in zip(ordered, ends, strict=False)
        )
        self._starts = [start_s for start_s, _ in ordered]
        self._by_plan = {period.plan_id: period for period in self.periods}

    @classmethod
    def of(cls, plans: Iterable[Plan]) -> "Succession":
        """The succession of these plans."""
        return cls((plan.plan_id, plan.start_s) for plan in plans)

    def period(self, plan_id: str) -> Period | None:
        """The period of a plan; None for an unknown one."""
        return self._by_plan.get(plan_id)

    def at(self, moment_s: float) -> Period | None:
        """The period that contains `moment_s`; None before the first plan."""
        place = bisect_right(self._starts, moment_s)
        return self.periods[place - 1] if place else None

    def from_moment(self, moment_s: float) -> tuple[Period, ...]:
        """The period that contains `moment_s` and all later ones, earliest first."""
        return self.periods[max(0, bisect_right(self._starts, moment_s) - 1) :]


def earliest_start_s(newest: Plan, window_s: int, *, now_s: float, counted_until_s: float = 0.0) -> int:
    """The earliest start of a plan with windows of `window_s` after `newest` (rules 3 and 4).

    `counted_until_s` is the end of the latest window with a total that has arrived or been released.
    """
    step_s = math.lcm(newest.window_s, window_s)
    free_s = max(now_s + newest.early_s, counted_until_s, float(newest.start_s + newest.window_s))
    return math.ceil(free_s / step_s) * step_s


def notice_start_s(newest: Plan, window_s: int, *, now_s: float, counted_until_s: float = 0.0) -> int:
    """As `earliest_start_s`, but 900 s later, so that every role receives the new plan before it starts."""
    return earliest_start_s(newest, window_s, now_s=now_s + _NOTICE_S, counted_until_s=counted_until_s)


def check_start(
    newest: Plan, window_s: int, start_s: int, *, now_s: float, counted_until_s: float = 0.0
) -> None:
    """Raise PlanError, which names the nearest possible start, unless a plan may start at `start_s`."""
    earliest_s = earliest_start_s(newest, window_s, now_s=now_s, counted_until_s=counted_until_s)
    step_s = math.lcm(newest.window_s, window_s)
    nearest_s = max(earliest_s, math.ceil(start_s / step_s) * step_s)
    if start_s == nearest_s:
        return
    if start_s <= newest.start_s:
        why = f"must be after that of plan {newest.plan_id}, {iso(newest.start_s)}"
    elif start_s < now_s + newest.early_s:
        why = "has begun, is over, or may already be counted under the previous plan"
    elif start_s < counted_until_s:
        why = f"is already counted: totals of windows until {iso(counted_until_s)} have arrived"
    else:
        why = f"divides a window of plan {newest.plan_id}: both plans' windows meet every {step_s} s"
    raise PlanError(
        f"first window {start_s // window_s} ({iso(start_s)}) {why}; the nearest possible is "
        f"--first-window {nearest_s // window_s} ({iso(nearest_s)})"
    )


def last_arrival_s(plan: Plan, end_s: float) -> float:
    """The time after which nothing of a plan that ended at `end_s` can arrive (rule 5)."""
    return end_s + plan.horizon_s + plan.grace_s + plan.late_s
