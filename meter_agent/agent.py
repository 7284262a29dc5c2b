"""What one meter publishes when, and what receipts do. No socket, no clock, no disk of its own.

    sealed --(a place among the unreceipted)--> published --receipt--> settled
                                                   |  ^
                                                   '--'  no receipt: again after a jittered back-off
                                                         that doubles from resend_s to resend_max_s

Everything outstanding is due at once after a connect, when an aggregator shows a new incarnation, and
when a new plan is published (whoever refused for want of it can now take the batch).

A batch that is refused for now is deferred: it gives up its place, so that later ones are not held up, and is
sent again. However many are deferred, about `unreceipted_max` of them are sent in the time after which one
batch alone would come again; once one is committed, the others follow.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gridhe.errors import EnvelopeError
from gridhe.meter_agent.outbox import Settled, Waiting
from gridhe.wire.receipt import LATE, MOVED, TRANSIENT_REASONS, Receipt

if TYPE_CHECKING:
    import random

    from gridhe.config.settings import MeterSettings

__all__ = ["Agent", "AgentCounts", "Deferred"]

_NEVER = float("inf")


@dataclass(slots=True)
class AgentCounts:
    """What went out and what came back."""

    published: int = 0  # batches published for the first time by this process
    resent: int = 0
    receipted: int = 0
    refused: int = 0  # for good; set aside
    deferred: int = 0  # refused for a reason that time mends; sent again
    junk_receipts: int = 0


@dataclass(frozen=True, slots=True)
class Deferred:
    """A batch that an aggregator refuses for now."""

    plan: str
    window: int
    reason: str


@dataclass(slots=True)
class _Outstanding:
    batch: Waiting
    attempts: int = 0
    due_s: float = 0.0
    reason: str | None = None  # why it was refused for now, if it was
    deferred: bool = False  # refused for now, and not published since: it takes no place


class Agent:
    """One meter's outbox, seen from the wire."""

    def __init__(
        self,
        meter: str,
        ingest_key: bytes,
        settings: "MeterSettings",
        *,
        refill: Callable[[int, int], list[Waiting]],
        rng: "random.Random",
        counts: AgentCounts | None = None,
        moved: Callable[[str, int], bool] = lambda plan, window: True,
    ) -> None:
        """`refill(after_id, limit)` gives the next waiting batches from the outbox, oldest first.

        `moved(plan, window)`: whether a batch was sealed for another group than the meter's present one.
        """
        self.meter = meter
        self._ingest_key = ingest_key
        self._settings = settings
        self._refill = refill
        self._rng = rng
        self._moved = moved
        self.counts = counts if counts is not None else AgentCounts()
        self._outstanding: dict[tuple[str, int], _Outstanding] = {}  # (plan, window), in order of sealing
        self._deferred = 0  # how many of them are deferred
        self.news: list[Deferred] = []  # refusals for now, until somebody takes them away
        self._last_id = 0  # the newest batch that was ever outstanding
        self._more = True  # whether the outbox may hold later ones
        self._due_s = 0.0  # no publication is due before this
        self._incarnations: dict[str, str] = {}

    @property
    def outstanding(self) -> int:
        """Batches that wait for a receipt, those that are not due yet included."""
        return len(self._outstanding)

    @property
    def _places(self) -> int:
        """How many have a place among the unreceipted."""
        return len(self._outstanding) - self._deferred

    @property
    def late(self) -> int:
        """Batches that an aggregator calls late: they wait for its clock, which may be right."""
        return sum(entry.reason == LATE for entry in self._outstanding.values())

    @property
    def deferred(self) -> int:
        """Batches that are refused for now, and were not sent again since."""
        return self._deferred

    # -- going out -----------------------------------------------------------------------------

    def sealed(self) -> None:
        """The outbox holds a new batch of this meter."""
        self._more = True
        if self._places < self._settings.unreceipted_max:
            self._due_s = 0.0

    def due(self, now_s: float) -> list[Waiting]:
        """The batches to publish now, oldest first. Whatever is published is told with `published`."""
        if now_s < self._due_s:
            return []
        self._fill()
        room = self._settings.unreceipted_max - self._places
        ready = []
        for entry in self._outstanding.values():
            if entry.due_s <= now_s and (not entry.deferred or room > 0):
                room -= entry.deferred
                ready.append(entry.batch)
        if not ready:
            self._due_s = min((entry.due_s for entry in self._outstanding.values()), default=_NEVER)
        return ready

    def _fill(self) -> None:
        room = self._settings.unreceipted_max - self._places
        if room > 0 and self._more:
            found = self._refill(self._last_id, room)
            self._more = len(found) == room
            for batch in found:
                self._last_id = batch.id
                self._outstanding[batch.plan, batch.window] = _Outstanding(batch)

    def published(self, batch: Waiting, now_s: float) -> None:
        """`batch` went out."""
        entry = self._outstanding.get((batch.plan, batch.window))
        if entry is None:
            return
        if entry.attempts == 0:
            self.counts.published += 1
        else:
            self.counts.resent += 1
        self._deferred -= entry.deferred
        entry.deferred = False
        entry.due_s = now_s + self._back_off(entry.attempts)
        entry.attempts += 1

    def _back_off(self, attempts: int) -> float:
        settings = self._settings
        wait_s: float = min(settings.resend_s * 2.0 ** min(attempts, 40), settings.resend_max_s)
        # Never sooner than asked for; spread, so that a fleet that lost its broker is no herd.
        return wait_s * self._rng.uniform(1.0, 1.5)

    def forget(self, id_: int) -> None:
        """The outbox dropped a batch."""
        for key, entry in self._outstanding.items():
            if entry.batch.id == id_:
                self._drop(key)
                self._due_s = 0.0
                return

    def _drop(self, key: tuple[str, int]) -> _Outstanding | None:
        entry = self._outstanding.pop(key, None)
        if entry is not None:
            self._deferred -= entry.deferred
        return entry

    def set_aside(self, batch: Waiting, reason: str) -> Settled:
        """Give a batch up; to be committed to the outbox."""
        return self._settle(batch.plan, batch.window, reason)

    # -- coming in -----------------------------------------------------------------------------

    def hurry(self) -> None:
        """Everything outstanding is due now; of what is deferred, as much as has a place."""
        for entry in self._outstanding.values():
            if not entry.deferred:
                entry.due_s = 0.0
        self._hurry_deferred()

    def _hurry_deferred(self) -> None:
        deferred = (entry for entry in self._outstanding.values() if entry.deferred)
        for entry in itertools.islice(deferred, self._settings.unreceipted_max):
            entry.due_s = 0.0
        self._due_s = 0.0

    def on_aggregator(self, aggregator: str, incarnation: str) -> bool:
        """An aggregator's status came; whether it is a new incarnation, and everything therefore due."""
        if self._incarnations.get(aggregator) == incarnation:
            return False
        self._incarnations[aggregator] = incarnation
        self.hurry()
        return True

    def on_receipt(self, payload: bytes, now_s: float) -> list[Settled]:
        """What the receipt settles, to be committed to the outbox. Junk settles nothing and is counted."""
        try:
            receipt = Receipt.decode(payload, self._ingest_key)
        except EnvelopeError:
            self.counts.junk_receipts += 1
            return []
        if receipt.meter != self.meter:
            self.counts.junk_receipts += 1
            return []
        settled = [self._settle(receipt.plan, window, None) for window in receipt.committed]
        for window, reason in receipt.refused:
            # Sealed for our present group, `group` means that the aggregator has to learn of the move yet.
            if reason in TRANSIENT_REASONS or (reason == MOVED and not self._moved(receipt.plan, window)):
                self._defer(receipt.plan, window, reason, now_s)
            else:
                settled.append(self._settle(receipt.plan, window, reason))
        self._due_s = 0.0
        return settled

    def _settle(self, plan: str, window: int, reason: str | None) -> Settled:
        entry = self._drop((plan, window))
        if entry is not None:
            if reason is None:
                self.counts.receipted += 1
                if entry.reason is not None:
                    self._hurry_deferred()
            else:
                self.counts.refused += 1
        return Settled(meter=self.meter, plan=plan, window=window, reason=reason)

    def _defer(self, plan: str, window: int, reason: str, now_s: float) -> None:
        entry = self._outstanding.get((plan, window))
        if entry is not None:
            self.counts.deferred += 1
            self._deferred += not entry.deferred
            entry.deferred, entry.reason = True, reason
            turns = max(1.0, self._deferred / self._settings.unreceipted_max)
            entry.due_s = now_s + turns * self._back_off(max(0, entry.attempts - 1))
            self.news.append(Deferred(plan, window, reason))
