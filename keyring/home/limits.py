"""The largest numbers of meters that the plans sum, which enrolments and new plans are checked against.

A plan limits the meters of one group (`largest_group`) and of every roll-up, up to `grid`
(`largest_rollup`). Plans that have ended are ignored. Each plan is checked with the meters that
count before its end.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gridhe.config.settings import PlanSettings
from gridhe.plan.names import ancestors
from gridhe.plan.plan import Plan
from gridhe.plan.succession import Succession

__all__ = ["Excess", "Limit", "limits_in_force"]

_GROUP, _ROLLUP = "plan.largest_group", "plan.largest_rollup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A group with more meters than a plan sums."""

    group: str
    meters: int
    limit: int
    settings: tuple[str, ...]  # the settings that are too small, first the one that limits this group

    @property
    def flags(self) -> str:
        """The command-line options that make a plan large enough for these meters."""
        return " ".join(f"--set {setting}={self.meters}" for setting in self.settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The limits of one plan, and when it ends (UTC epoch seconds)."""

    plan: str
    largest_group: int
    largest_rollup: int
    end_s: float = math.inf

    @classmethod
    def of_settings(cls, settings: PlanSettings) -> "Limit":
        """The limits of a plan that is not made yet."""
        return cls(
            plan="the new plan",
            largest_group=settings.largest_group,
            largest_rollup=settings.largest_rollup,
        )

    def excess(
        self, meters: Iterable[tuple[str, int]], before: Iterable[tuple[str, int]] = ()
    ) -> Excess | None:
        """The first group that has too many of these meters (group, from_s), narrow groups first; else None.

        A group that had as many meters `before` is accepted, so that it can be made smaller step by step.
        """
        counts, earlier = self._counts(meters), self._counts(before)
        for (group, setting), count in sorted(counts.items(), key=lambda item: -len(ancestors(item[0][0]))):
            limit = self.largest_group if setting == _GROUP else self.largest_rollup
            if count > limit and count > earlier[group, setting]:
                larger = (
                    (setting,) if count <= self.largest_rollup else tuple(dict.fromkeys((setting, _ROLLUP)))
                )
                return Excess(group=group, meters=count, limit=limit, settings=larger)
        return None

    def _counts(self, meters: Iterable[tuple[str, int]]) -> Counter[tuple[str, str]]:
        """Meters by (group, the setting that limits it)."""
        leaves = Counter(group for group, from_s in meters if from_s < self.end_s)
        counts: Counter[tuple[str, str]] = Counter()
        for leaf, count in leaves.items():
            counts[leaf, _GROUP] += count
            for wider in ancestors(leaf):
                counts[wider, _ROLLUP] += count
        return counts


def limits_in_force(plans: Mapping[str, Plan], now_s: float) -> list[Limit]:
    """The limits of all plans that have not ended at `now_s` (UTC epoch seconds)."""
    return [
        Limit(
            plan=f"plan {period.plan_id}",
            largest_group=plans[period.plan_id].largest_group,
            largest_rollup=plans[period.plan_id].largest_rollup,
            end_s=period.end_s,
        )
        for period in Succession.of(plans.values()).from_moment(now_s)
    ]
