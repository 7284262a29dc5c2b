"""A plan and the values that folding derives from it, computed once."""

from dataclasses import dataclass

from gridhe.plan.plan import Plan
from gridhe.plan.succession import Period
from gridhe.wire.planes import Planes

__all__ = ["ActivePlan"]


@dataclass(frozen=True, slots=True)
class ActivePlan:
    """A plan with its id, planes and period."""

    plan: Plan
    plan_id: str
    planes: Planes
    period: Period
    retired: bool = False  # its key is deleted, so its batches can never be released
