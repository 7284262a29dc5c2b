"""Decides when a meter publishes each batch and what its receipts change. No socket, no clock, no disk.

    sealed --(a place among the unreceipted)--> published --receipt--> settled
                                                   |  ^
                                                   '--'  no receipt: sent again after a jittered back-off
                                                         that doubles from resend_s to resend_max_s

Everything outstanding is due at once after a connect, when an aggregator shows a new incarnation, and
when a new plan is published (an aggregator that lacked the plan can now accept the batch).

A batch that is refused temporarily is deferred: it gives up its place, so that it does not block later
batches, and is sent again. About `unreceipted_max` deferred batches are sent per back-off of a single batch,
however many there are. Once one is committed, the next `unreceipted_max` are due at once.
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
    """Batches published, and receipts received, since the process started."""

    published: int = 0  # batches published for the first time by this process
    resent: int = 0
    receipted: int = 0
    refused: int = 0  # permanently; set aside
    deferred: int = 0  # refused temporarily; sent again
    junk_receipts: int = 0


@dataclass(frozen=True, slots=True)
class Deferred:
    """A batch that an aggregator refuses temporarily."""

    plan: str
    window: int
    reason: str


@dataclass(slots=True)
class _Outstanding:
    batch: Waiting
    attempts: int = 0
    due_s: float = 0.0
    reason: str | None = None  # of the last temporary refusal, if any
    deferred: bool = False  # refused temporarily and not published since: takes no place


class Agent:
    """The publishing state of one meter's batches."""

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

        `moved(plan, window)`: whether a batch was sealed for a group other than the meter's present one.
        """
        self.meter = meter
        self._ingest_key = ingest_key
        self._settings = settings
        self._refill = refill
        self._rng = rng
        self._moved = moved
        self.counts = counts if counts is not None else AgentCounts()
        self._outstanding: dict[tuple[str, int], _Outstanding] = {}  # (plan, window), in order of sealing
        self._deferred = 0  # count of deferred batches in `_outstanding`
        self.news: list[Deferred] = []  # temporary refusals; the caller logs and clears them
        self._last_id = 0  # id of the newest batch taken from the outbox
        self._more = True  # whether the outbox may hold newer batches
        self._due_s = 0.0  # no publication is due before this
        self._incarnations: dict[str, str] = {}

    @property
    def outstanding(self) -> int:
        """Count of batches that wait for a receipt, including those not due yet."""
        return len(self._outstanding)

    @property
    def _places(self) -> int:
        """Count of batches that hold a place among the unreceipted."""
        return len(self._outstanding) - self._deferred

    @property
    def late(self) -> int:
        """Count of batches last refused as `late`; they stay refused if the aggregator's clock is right."""
        return sum(entry.reason == LATE for entry in self._outstanding.values())

    @property
    def deferred(self) -> int:
        """Count of batches refused temporarily and not sent again since."""
        return self._deferred

    # -- sending --------------------------------------------------------------------------------

    def sealed(self) -> None:
        """The outbox holds a new batch of this meter."""
        self._more = True
        if self._places < self._settings.unreceipted_max:
            self._due_s = 0.0

    def due(self, now_s: float) -> list[Waiting]:
        """The batches to publish now, oldest first. Call `published` for each one sent."""
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
            batches = self._refill(self._last_id, room)
            self._more = len(batches) == room
            for batch in batches:
                self._last_id = batch.id
                self._outstanding[batch.plan, batch.window] = _Outstanding(batch)

    def published(self, batch: Waiting, now_s: float) -> None:
        """Record that `batch` was published."""
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
        # Never earlier than the setting; jittered, so that a fleet does not resend at one moment.
        return wait_s * self._rng.uniform(1.0, 1.5)

    def remove(self, id_: int) -> None:
        """Remove a batch that left the outbox."""
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
        """Give up a batch. Returns the record to commit to the outbox."""
        return self._settle(batch.plan, batch.window, reason)

    # -- receiving ------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Make all outstanding batches due now, and up to `unreceipted_max` deferred ones."""
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
        """Take an aggregator's status. Returns True, and makes all batches due, if its incarnation is new."""
        if self._incarnations.get(aggregator) == incarnation:
            return False
        self._incarnations[aggregator] = incarnation
        self.hurry()
        return True

    def on_receipt(self, payload: bytes, now_s: float) -> list[Settled]:
        """The batches that the receipt settles, to commit to the outbox. Counts invalid receipts."""
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
            # If the batch was sealed for the present group, the aggregator lacks the new roster.
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
