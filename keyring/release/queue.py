"""The release desk: goes through the inbox, releases what is asked for and may be, says what may not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gridhe.base.timings import timed
from gridhe.config.settings import ReleaseSettings
from gridhe.errors import ReleaseRefused
from gridhe.keyring.release.inbox import Inbox, StoredTotal
from gridhe.keyring.release.releaser import Releaser, claim_of
from gridhe.keyring.release.report import record_of
from gridhe.plan.plan import Plan

__all__ = ["Outcome", "ReleaseQueue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
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
        wanted: Callable[[StoredTotal], bool] = lambda letter: True,
    ) -> None:
        self._inbox, self._releaser, self._wanted = inbox, releaser, wanted
        self._release = timed("release", releaser.release)
        self._probabilities = settings.quantile_probabilities

    def work(self, *, states: Sequence[str] = ("waiting",)) -> list[Outcome]:
        """Try every wanted letter in one of these states. Raises StateError."""
        letters = [letter for letter in self._inbox.letters(states=tuple(states)) if self._wanted(letter)]
        return [self._try(letter) for letter in letters]

    def _try(self, letter: StoredTotal) -> Outcome:
        if letter.state == "released":
            place = (letter.plan, letter.window, letter.group, letter.part)
            plan, claim, answer = self._releaser.again(place)
            record = record_of(plan, claim, answer, self._probabilities)
            return Outcome(letter=letter, plan=plan, record=record)
        total = self._inbox.total(letter.digest)
        try:
            plan, answer = self._release(total)
        except ReleaseRefused as refused:
            self._inbox.mark(letter.digest, "refused", rule=refused.rule, message=str(refused))
            return Outcome(letter=letter, rule=refused.rule, message=str(refused))
        claim = claim_of(total, plan)
        record = record_of(plan, claim, answer, self._probabilities)
        self._inbox.mark(letter.digest, "released")
        return Outcome(letter=letter, plan=plan, record=record)
