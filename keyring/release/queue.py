"""The release queue: tries the needed totals of the inbox in order and reports each outcome.

Totals are tried from narrow to wide groups (`Inbox.totals`). So a total that names a piece is tried after the
piece's own total, if both wait, and never refused because it came first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gridhe.base.failpoints import failpoint
from gridhe.base.timings import timed
from gridhe.config.settings import ReleaseSettings
from gridhe.errors import ReleaseRefused
from gridhe.keyring.release.inbox import Inbox, StoredTotal
from gridhe.keyring.release.releaser import Releaser
from gridhe.keyring.release.report import record_of
from gridhe.plan.plan import Plan
from gridhe.wire.total import TotalKey

__all__ = ["ReleaseOutcome", "ReleaseQueue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseOutcome:
    """The outcome for one total: a record with its plan if it was released, else the rule that refused it."""

    stored: StoredTotal
    plan: Plan | None = None
    record: dict[str, Any] | None = None
    rule: str = ""
    message: str = ""
    aggregator: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record, or the refusal in the same shape without `intervals`."""
        if self.record is not None:
            return self.record
        stored = self.stored
        return {
            "plan": stored.plan,
            "group": stored.group,
            "window": stored.window,
            "part": stored.part,
            "meters": stored.meters,
            "refused": self.rule,
            "message": self.message,
        }


class ReleaseQueue:
    """Releases the totals of the inbox in its order."""

    def __init__(
        self,
        inbox: Inbox,
        releaser: Releaser,
        settings: ReleaseSettings,
        *,
        wanted: Callable[[TotalKey], bool] = lambda total: True,
        needed: Callable[[TotalKey], bool] = lambda total: True,
        settled: Callable[[ReleaseOutcome], None] = lambda outcome: None,
    ) -> None:
        """`wanted` totals are given, `needed` ones are tried: also the narrower totals inside a wanted one.

        `settled` is called when the inbox has the outcome.
        """
        self._inbox, self._releaser, self._wanted = inbox, releaser, wanted
        self._needed, self._settled = needed, settled
        self._release = timed("release", releaser.release)
        self._probabilities = settings.quantile_probabilities

    def work(self, *, states: Sequence[str], give: Callable[[ReleaseOutcome], None]) -> list[ReleaseOutcome]:
        """Try every needed total in one of these states, and call `give` with the outcome of each wanted one.

        The inbox stores an outcome after `give` returns. So if `give` raises or a crash comes first, the
        total is tried again at the next start and gets the same answer. If `states` has `released`, every
        answered total is given again first. Returns the given outcomes. Raises StateError.
        """
        totals = [
            stored
            for stored in self._inbox.totals(states=tuple(set(states) - {"released"}))
            if self._needed(stored.total)
        ]
        outcomes = []
        if "released" in states:
            waiting = {stored.total for stored in totals if stored.state == "waiting"}
            for total in self._releaser.answered_totals():
                if self._wanted(total) and total not in waiting:
                    again = self.again(total)
                    give(again)
                    outcomes.append(again)
        for stored in totals:
            outcomes += self._settle(self._try(stored), give)
        return outcomes

    def _settle(
        self, outcome: ReleaseOutcome, give: Callable[[ReleaseOutcome], None]
    ) -> list[ReleaseOutcome]:
        """Give an outcome, if it is wanted, and store it."""
        stored, wanted = outcome.stored, self._wanted(outcome.stored.total)
        if wanted:
            give(outcome)
        state = "refused" if outcome.record is None else "released"
        # Without its message a refusal that was not given is given by the next run that wants it.
        message = outcome.message if wanted else ""
        self._inbox.mark(stored.digest, state, self._releaser.ledger.head, rule=outcome.rule, message=message)
        failpoint("release.9.settled")
        self._settled(outcome)
        return [outcome] if wanted else []

    def again(self, total: TotalKey) -> ReleaseOutcome:
        """The stored answer of a total. Raises StateError."""
        plan, claim, answer = self._releaser.again(total)
        stored = StoredTotal(
            digest=b"",
            plan=claim.plan,
            window=claim.window,
            group=claim.group,
            part=claim.part,
            meters=claim.meters,
            state="released",
            rule="",
            message="",
        )
        return ReleaseOutcome(
            stored=stored, plan=plan, record=record_of(plan, claim, answer, self._probabilities)
        )

    def _try(self, stored: StoredTotal) -> ReleaseOutcome:
        total = self._inbox.total(stored.digest)
        try:
            plan, claim, answer = self._release(total)
        except ReleaseRefused as refused:
            return ReleaseOutcome(
                stored=stored, rule=refused.rule, message=str(refused), aggregator=total.header.aggregator
            )
        return ReleaseOutcome(
            stored=stored,
            plan=plan,
            record=record_of(plan, claim, answer, self._probabilities),
            aggregator=total.header.aggregator,
        )
