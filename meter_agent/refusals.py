"""Logs refused batches: each reason at most once in ten minutes, with a count and what to do."""

import logging
from collections.abc import Callable

__all__ = ["Refusals"]

_LOG = logging.getLogger(__name__)
_AGAIN_S = 600.0  # a reason that continues is logged again after this time
_REASONS_MAX = 32  # distinct reasons; an aggregator may send any text
_HINTS = {
    "after_plan": "the plan has ended; this meter needs the next plan: publish it",
    "before_plan": "the window is before the plan's start; check this meter's clock",
    "capacity": "the group's open part is full; the aggregator opens another one after its next commit",
    "clock": "the aggregator does not believe its own clock; set that clock",
    "damaged": "the stored batch fails its checksum; check the disk",
    "early": "the aggregator's clock is behind this meter's; check both",
    "expired": "the aggregator no longer knows which meters it counted for such an old window",
    "group": "this meter was in another group in that window; check its enrolment",
    "key": "the plan uses another key",
    "late": "it is older than the plan's horizon, or the aggregator's clock is ahead",
    "not_enrolled": "this meter is not enrolled for that window",
    "plan_ended": "the plan had ended when it was sealed, and the readings are lost",
    "plan": "the aggregator does not know the plan yet; is the bundle published?",
    "rate": "the aggregator takes 16 batches of a meter between two commits; it takes the others later",
    "retired": "the plan's key was retired, so the batch cannot be decrypted",
}
_UNKNOWN = "see docs/operations.md, or the aggregator's --quarantine"


class Refusals:
    """Counts refusals and limits the rate at which they are logged."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._unlogged: dict[tuple[str, bool], int] = {}
        self._next_log_s: dict[tuple[str, bool], float] = {}

    def add(self, meter: str, plan: str, window: int, reason: str, *, final: bool) -> None:
        """Count a refused batch; `final`: permanently, else temporarily."""
        reason = reason[:40] if reason.isprintable() else ascii(reason)[:40]
        key = (reason, final)
        if key not in self._next_log_s and len(self._next_log_s) >= _REASONS_MAX:
            key = ("other", final)
        self._unlogged[key] = self._unlogged.get(key, 0) + 1
        now_s = self._clock()
        if now_s < self._next_log_s.get(key, now_s):
            return
        self._next_log_s[key] = now_s + _AGAIN_S
        count = self._unlogged.pop(key)
        _LOG.warning(
            "%d %s refused as %s, the last of %s for window %s of plan %s: %s; %s",
            count,
            "batch is" if count == 1 else "batches are",
            reason,
            meter,
            window,
            plan,
            _HINTS.get(reason, _UNKNOWN),
            "set aside, not sent again" if final else "sent again later",
        )
