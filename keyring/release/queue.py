"""The release queue: goes through the inbox, releases what is asked for and may be, says what may not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gridhe.base.failpoints import failpoint
from gridhe.base.timings import timed
from gridhe.config.settings import ReleaseSettings
from gridhe.errors import ReleaseRefused
from gridhe.keyring.release.inbox import Inbox, StoredTotal
from gridhe.keyring.release.releaser import Releaser, claim_of
from gridhe.keyring.release.report import record_of
from gridhe.plan.plan import Plan
from gridhe.wire.total import TotalKey

__all__ = ["ReleaseOutcome", "ReleaseQueue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseOutcome:
    """What became of one total: a record to give out with its plan, or the rule that refused it."""

    letter: StoredTotal
    plan: Plan | None = None
    record: dict[str, Any] | None = None
    rule: str = ""
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record, or the refusal in the same shape without `intervals`."""
        if self.record is not None:
            return self.record
        letter = self.letter
        return {
            "plan": letter.plan,
            "group": letter.group,
            "window": letter.window,
            "part": letter.part,
            "meters": letter.meters,
            "refused": self.rule,
            "message": self.message,
        }


class ReleaseQueue:
    """Releases letters of the inbox in its order."""

    def __init__(
        self,
        inbox: Inbox,
        releaser: Releaser,
        settings: ReleaseSettings,
        *,
        wanted: Callable[[TotalKey], bool] = lambda total: True,
    ) -> None:
        self._inbox, self._releaser, self._wanted = inbox, releaser, wanted
        self._release = timed("release", releaser.release)
        self._probabilities = settings.quantile_probabilities

    def work(self, *, states: Sequence[str], give: Callable[[ReleaseOutcome], None]) -> list[ReleaseOutcome]:
        """Try every wanted letter in one of these states, and give each outcome. Raises StateError.

        The inbox notes an outcome once it is given. So if `give` raises, or a crash comes first, the total is
        tried again at the next start, and gets the same answer. `released` among the states: first every
        answered total is given again.
        """
        letters = [
            letter
            for letter in self._inbox.letters(states=tuple(set(states) - {"released"}))
            if self._wanted(letter.total)
        ]
        outcomes = []
        if "released" in states:
            anew = {letter.total for letter in letters if letter.state == "waiting"}
            for total in self._releaser.answered_totals():
                if self._wanted(total) and total not in anew and (again := self.again(total)) is not None:
                    give(again)
                    outcomes.append(again)
        for letter in letters:
            outcome = self._try(letter)
            give(outcome)
            state = "refused" if outcome.record is None else "released"
            head = self._releaser.ledger.head
            self._inbox.mark(letter.digest, state, head, rule=outcome.rule, message=outcome.message)
            failpoint("release.9.settled")
            outcomes.append(outcome)
        return outcomes

    def again(self, total: TotalKey) -> ReleaseOutcome | None:
        """The stored answer of a total, None if it was refused after decryption. Raises StateError."""
        plan, claim, answer = self._releaser.again(total)
        if answer.refused:
            return None
        letter = StoredTotal(
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
            letter=letter, plan=plan, record=record_of(plan, claim, answer, self._probabilities)
        )

    def _try(self, letter: StoredTotal) -> ReleaseOutcome:
        total = self._inbox.total(letter.digest)
        try:
            plan, answer = self._release(total)
        except ReleaseRefused as refused:
            return ReleaseOutcome(letter=letter, rule=refused.rule, message=str(refused))
        return ReleaseOutcome(
            letter=letter,
            plan=plan,
            record=record_of(plan, claim_of(total, plan), answer, self._probabilities),
        )
