"""A plan with what folding needs of it, worked out once."""

from dataclasses import dataclass

from gridhe.plan.plan import Plan
from gridhe.plan.succession import Period
from gridhe.wire.planes import Planes

__all__ = ["ActivePlan"]


@dataclass(frozen=True, slots=True)
class ActivePlan:
    """A plan with its identity and its planes worked out once, and when it holds."""

    plan: Plan
    plan_id: str
    planes: Planes
    period: Period
    retired: bool = False  # its key is gone: nothing of it can ever be released
