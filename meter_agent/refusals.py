"""What the log says of refused batches: each reason once in a while, with the way out and a count."""

import logging
from collections.abc import Callable

__all__ = ["Refusals"]

_LOG = logging.getLogger(__name__)
_AGAIN_S = 600.0  # a reason that goes on is said again after this long
_REASONS_MAX = 32  # an aggregator may name any
_HINTS = {
    "after_plan": "the plan has ended; this meter has to learn of the next one",
    "before_plan": "the plan was not in force yet; check this meter's clock",
    "capacity": "the open part of its group is full, and closes with the next commit",
    "clock": "the aggregator does not believe its own clock",
    "damaged": "the disk did not give it back as it was written; check the disk",
    "early": "the aggregator's clock is behind this meter's; check both",
    "expired": "it is older than the aggregator remembers; whether it was counted is not known",
    "group": "this meter was in another group by then; check who is enrolled where",
    "key": "the plan has another key",
    "late": "it is older than the plan's horizon, or the aggregator's clock is ahead",
    "not_enrolled": "this meter is not enrolled for that window",
    "plan_ended": "its plan had ended when it was sealed, and its readings are gone: they are lost",
    "plan": "the aggregator does not know the plan yet; is the bundle published?",
    "retired": "the plan's key is retired: nobody can read it",
}
_UNKNOWN = "see docs/operations.md, or the aggregator's --quarantine"


class Refusals:
    """Counts refusals, and says them without flooding the log."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._unsaid: dict[tuple[str, bool], int] = {}
        self._said_s: dict[tuple[str, bool], float] = {}

    def add(self, meter: str, plan: str, window: int, reason: str, *, final: bool) -> None:
        """A batch was refused, for good or for now."""
        reason = reason[:40] if reason.isprintable() else ascii(reason)[:40]
        key = (reason, final)
        if key not in self._said_s and len(self._said_s) >= _REASONS_MAX:
            key = ("other", final)
        self._unsaid[key] = self._unsaid.get(key, 0) + 1
        now_s = self._clock()
        if now_s < self._said_s.get(key, now_s):
            return
        self._said_s[key] = now_s + _AGAIN_S
        count = self._unsaid.pop(key)
        _LOG.warning(
            "%d %s refused as %s, the last of %s for window %s of plan %s: %s; %s",
            count,
            "batch is" if count == 1 else "batches are",
            reason,
            meter,
            window,
            plan,
            _HINTS.get(reason, _UNKNOWN),
            "set aside for good" if final else "sent again later",
        )
