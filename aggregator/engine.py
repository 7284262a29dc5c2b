"""The engine: folds envelopes and commits totals. No socket and no clock.

A batch is decrypted, checked, folded in memory and recorded among its part's members. Every commit then
does, in this order:

 1. one transaction: the authority's verdicts take effect, due parts close (deepest groups first), and the
    changed totals, the new members and the newest rejects are written. A crash before
    it is durable leaves the state before it and no receipt, so the meters send the batches again.
 2. receipts for the transaction's batches, and the newly closed totals, are returned for publishing. A
    crash here causes repeats only: a repeated batch is a duplicate, which is receipted and not folded; a
    total is published again until the authority's receipt.
"""

import logging
import time

from gridhe.aggregator.admission import Admission
from gridhe.aggregator.answers import Answers
from gridhe.aggregator.counters import Counters, Snapshot
from gridhe.aggregator.delivery import Delivery, Outgoing
from gridhe.aggregator.fold.closing import Closing
from gridhe.aggregator.fold.groups import GroupTree
from gridhe.aggregator.fold.parts import OpenParts
from gridhe.aggregator.fold.rows import TotalRow, largest_leaf
from gridhe.aggregator.fold.verdicts import Verdicts
from gridhe.aggregator.state.database import Database
from gridhe.aggregator.state.enrolment import RosterTable
from gridhe.aggregator.state.lists import MemberLists
from gridhe.aggregator.state.members import Members
from gridhe.aggregator.state.quarantine import Quarantine, Quarantined
from gridhe.aggregator.state.strands import Strands
from gridhe.aggregator.state.totals import Totals
from gridhe.base.failpoints import failpoint
from gridhe.base.timings import timed
from gridhe.config.settings import AggregatorSettings
from gridhe.errors import BundleError, EnvelopeError
from gridhe.wire import topics
from gridhe.wire.bundle import Bundle
from gridhe.wire.credential import AggregatorCredential
from gridhe.wire.envelope import Header
from gridhe.wire.receipt import RATE, TotalReceipt
from gridhe.wire.roster import RosterReader
from gridhe.wire.signing import SigningKey
from gridhe.wire.strands import strand_key
from gridhe.wire.total import TotalKey

__all__ = ["Engine", "Outgoing"]

_log = logging.getLogger(__name__)

# The pause after a commit is at least this many times its duration, up to the maximum setting. So commits
# take at most a ninth of the time.
_COMMIT_SHARE = 8
# Batches of one meter between two commits; more are refused temporarily. A meter has 8 batches without a
# receipt (`meter.unreceipted_max`). Each old window of a flood opens a part, which costs the commit 100 KB.
_METER_SHARE = 16
_PRUNE_INTERVAL_S = 3_600.0


class Engine:
    """Folds, commits and closes. Raises StateError for faults of its state, never for invalid input."""

    def __init__(
        self, *, database: Database, credential: AggregatorCredential, settings: AggregatorSettings
    ) -> None:
        self._db = database
        self._settings = settings
        self._credential = credential
        self._enrolment = RosterTable(database)
        self._strands = Strands(database, strand_key(credential.ingest_secret))
        self._totals = Totals(database, self._strands)
        self._members = Members(database)
        self._quarantine = Quarantine(
            database, maximum=settings.quarantine_max, maximum_bytes=settings.quarantine_max_mb << 20
        )
        self._admission = Admission(
            credential.ingest_secret,
            self._enrolment,
            filters=settings.filters,
            pruned_before=self._totals.pruned_before,
        )
        for plan in database.plans():
            self._admission.add_plan(plan)
        self.counters = Counters()
        self._parts = OpenParts(
            self._totals, self._strands, self._admission.plans, settings.open_totals_mb << 20
        )
        self._fold = timed("fold", self._parts.fold)
        self._closing = Closing(
            parts=self._parts,
            store=self._totals,
            strands=self._strands,
            plans=self._admission.plans,
            counters=self.counters,
        )
        lists = MemberLists(self._members, self._enrolment, self._strands)
        self._verdicts = Verdicts(
            closing=self._closing,
            store=self._totals,
            strands=self._strands,
            members=lists,
            plans=self._admission.plans,
            counters=self.counters,
        )
        self._delivery = Delivery(
            self._totals,
            self._admission.plans,
            lists,
            aggregator=credential.aggregator,
            key=SigningKey.from_private_bytes(credential.signing_key),
            counters=self.counters,
        )
        self._meters = 0
        self._load_tree()
        self._answers = Answers()
        self._by_meter: dict[str, int] = {}  # batches since the last commit
        self._uncommitted = 0
        self._commit_s = 0.0
        self._pruned_at = 0.0

    def _load_tree(self) -> None:
        enrolled = self._enrolment.enrolled_since()
        self._closing.tree = GroupTree(enrolled, self._settings.filters)
        self._meters = sum(meters for since in enrolled.values() for _, meters in since)

    # from the authority

    def take_bundle(self, payload: bytes) -> None:
        """Add a plan from its signed bundle."""
        try:
            plan = Bundle.decode(payload, self._credential.authority_key).plan
        except BundleError as error:
            self._count_reject("bundle", error)
            return
        if plan.plan_id not in self._admission.plans:
            with self._db.transaction():
                self._db.add_plan(plan)
            self._admission.add_plan(plan)
            _log.info("plan added", extra={"plan": plan.plan_id, "first_window": plan.first_window})

    def take_roster(self, payload: bytes, now: float) -> None:
        """Take a signed roster; one that is not newer than the present one is ignored."""
        try:
            roster = RosterReader(payload, self._credential.authority_key)
            if roster.version <= self._enrolment.version:
                return
            with self._db.large_cache(), self._db.transaction():
                self._enrolment.replace(roster.version, roster.entries(), now, roster.plans, roster.former())
        except BundleError as error:
            self._count_reject("roster", error)
            return
        self._load_tree()
        self._admission.update_periods()
        _log.info("roster updated", extra={"version": roster.version, "meters": self._meters})

    def take_total_receipt(self, payload: bytes) -> int:
        """Take the authority's receipt for the next commit. Returns the count of stored totals."""
        name = self._credential.aggregator
        try:
            receipt = TotalReceipt.decode(payload, self._admission.key_of(f"aggregator/{name}"))
            if receipt.aggregator != name:
                raise EnvelopeError("receipt", f"a receipt for {receipt.aggregator}")
        except EnvelopeError as error:
            self._count_reject("receipt", error)
            return 0
        return self._delivery.take_receipt(receipt)

    def _count_reject(self, reason: str, error: Exception) -> None:
        self.counters.rejected[reason] += 1
        _log.warning("rejected", extra={"reason": reason, "why": str(error)})

    @property
    def ready(self) -> bool:
        """Whether a plan and the roster are known. Batches can be counted only with both."""
        return bool(self._admission.plans) and self._enrolment.version >= 0

    # batches

    def receive(self, topic: str, payload: bytes, now: float | None) -> None:
        """Take the bytes of a batch topic at `now` (UTC epoch seconds): fold the batch, or count the reason.

        While the clock is not believed (`now` None), batches are refused temporarily (`clock`).
        """
        self.counters.received += 1
        self.counters.bytes += len(payload)
        header: Header | None = None
        try:
            header, ciphertext = self._admission.authenticate(topic, payload)
            self._take_turn(header.meter)
            active = self._admission.known(header)
            try:
                place = self._admission.place(active, header, now)
            except EnvelopeError:
                # A counted batch whose receipt was lost: a move or the time that has passed refuses it now.
                if self._counted(header):
                    self._answer_duplicate(header)
                    return
                raise
            assert now is not None  # noqa: S101 - for the type checker: `place` refuses None
            node = header.plan, header.group, header.window
            if self._members.counted(node).has(place.number) or (
                self._enrolment.has_moved(header.meter) and self._counted(header)
            ):
                self._answer_duplicate(header)
                return
            part = self._parts.get(node)
            if part is not None and part.meters >= largest_leaf(active.plan):
                # The next commit closes this part; sent again, the batch counts in the group's next part.
                raise EnvelopeError("capacity", f"the open part of {header.group} has {part.meters} meters")
            planes = active.planes.views(ciphertext)
            active.planes.check(planes)
        except EnvelopeError as error:
            self._reject(error.reason, topic, payload, header, now)
            return
        if part is None:
            tree, start_s = self._closing.tree, active.plan.window_start_s(header.window)
            expected = min(tree.expected(header.group, start_s), largest_leaf(active.plan))
            part = self._parts.take(node, now, meters=expected, leaves=tree.leaves)
        strand = self._strands.of(header.meter, header.window) if part.stranded else 0
        self._fold(part, planes, strand)
        self._parts.count(part, 1, strand=strand)
        self._members.add(part.key, place.number, header.proof)
        self._answers.committed(header)
        self.counters.folded += 1
        self._uncommitted += 1

    def _take_turn(self, meter: str) -> None:
        """Count a batch of a meter. Raises EnvelopeError `rate` if it has sent its share in this commit."""
        count = self._by_meter.get(meter, 0)
        if count >= _METER_SHARE:
            raise EnvelopeError(RATE, f"{meter} has sent {count} batches since the last commit")
        self._by_meter[meter] = count + 1

    def _answer_duplicate(self, header: Header) -> None:
        self.counters.duplicates += 1
        self._answers.committed(header)

    def _counted(self, header: Header) -> bool:
        """Whether this meter is counted for the window, in any group in which it was enrolled."""
        for place in self._enrolment.places(header.meter):
            node = (header.plan, place.group, header.window)
            if self._members.read(node).has(place.number):
                return True
        return False

    def _reject(
        self, reason: str, topic: str, payload: bytes, header: Header | None, now: float | None
    ) -> None:
        self.counters.rejected[reason] += 1
        if now is not None and reason != RATE:  # (nothing is wrong with the batch)
            self._quarantine.add(Quarantined(at=now, topic=topic, reason=reason, payload=payload))
        if header is not None:
            self._answers.refused(header, reason)

    # commit

    @property
    def commit_interval_s(self) -> float:
        """Seconds from one commit to the next; longer when commits are slow."""
        settings = self._settings
        return min(
            max(settings.commit_interval_s, _COMMIT_SHARE * self._commit_s), settings.commit_interval_max_s
        )

    @property
    def memory_full(self) -> bool:
        """Whether running totals exceed their memory limit; a commit now lets them leave memory."""
        return self._parts.memory_full

    @property
    def known_s(self) -> float | None:
        """The last committed time of a believed clock (UTC epoch seconds)."""
        stored = self._db.meta("clock")
        return None if stored is None else float(stored)

    def clock_set(self, now: float) -> None:
        """Call when the clock becomes believed or has stepped: limits the parts' opening times to `now`."""
        self._parts.opened_by(now)

    def commit(self, now: float | None) -> list[Outgoing]:
        """Commit everything folded. Returns the receipts and totals to publish. Raises StateError.

        While the clock is not believed (`now` None), no part is closed or pruned.
        """
        started = time.perf_counter()
        failpoint("commit.1.before")
        with self._db.transaction():
            published: list[TotalRow] = []
            kept: list[TotalKey] = []
            outdated: dict[str, int] = {}
            verdicts: dict[TotalKey, str] = {}
            if now is None:
                self._closing.note_touched()
            else:
                verdicts = self._delivery.verdicts()
                kept = self._verdicts.apply(verdicts, now)
                failpoint("commit.1.judged")
                published = self._closing.close_due(now)
                outdated = self._outdated(now)
                published += self._closing.close_outdated(outdated, now) if outdated else ()
            failpoint("commit.1.closed")
            self._parts.save()
            self._members.save()
            self._quarantine.save()
            # After closing, because the numbers of the parts deleted here must not be used again.
            for plan_id, before in outdated.items():
                self._totals.prune(plan_id, before)
            if now is not None:
                self._db.set_meta("clock", str(now).encode())
            failpoint("commit.1.written")
        failpoint("commit.1.after")
        self._parts.saved()
        self._members.saved()
        self._by_meter.clear()
        self._delivery.applied(verdicts, kept)
        self._uncommitted = 0
        self.counters.commits += 1
        self._commit_s = time.perf_counter() - started
        outgoing = self._receipts()
        outgoing.extend(self._delivery.send(published))
        return outgoing

    def _receipts(self) -> list[Outgoing]:
        receipts = self._answers.take()
        self.counters.receipts += len(receipts)
        return [
            Outgoing(topics.receipt(each.meter), each.encode(self._admission.key_of(each.meter)))
            for each in receipts
        ]

    def _outdated(self, now: float) -> dict[str, int]:
        """Per plan the window before which the state is deleted, once an hour: those beyond the horizon.

        The horizon is counted back from the clock or, if that is earlier, from the newest window with a
        published total, so that a clock ahead of all meters deletes nothing.
        """
        if abs(now - self._pruned_at) < _PRUNE_INTERVAL_S:
            return {}
        self._pruned_at = now
        plans = [active.plan for active in self._admission.plans.values()]
        newest = [(plan, self._totals.newest_published(plan.plan_id, plan.minimum_meters)) for plan in plans]
        ends_s = [plan.window_start_s(window + 1) for plan, window in newest if window is not None]
        sent_s = min(now, max(ends_s, default=0))
        # One window further back than admission accepts, so that no batch of a deleted window is accepted.
        return {plan.plan_id: plan.window_of(sent_s - plan.horizon_s) - 1 for plan in plans}

    # totals to deliver

    def send_again(self, limit: int = 64) -> list[Outgoing]:
        """The next totals without a receipt, round-robin."""
        return self._delivery.send_again(limit)

    def offer_all(self) -> None:
        """Offer refused totals again: the authority has restarted."""
        self._delivery.offer_all()

    def undelivered(self, limit: int = 64) -> list[TotalKey]:
        """Totals without a verdict, oldest first."""
        return self._delivery.waiting(limit)

    def snapshot(self, now: float) -> Snapshot:
        """The present state and counters."""
        oldest = min((part.first_at for part in self._parts), default=now)
        return Snapshot(
            ready=self.ready,
            plans=len(self._admission.plans),
            missing_plans=self._admission.missing_plans,
            meters=self._meters,
            open_parts=len(self._parts),
            stranded_parts=self._parts.stranded,
            open_windows=len({part.key.window for part in self._parts}),
            resident_bytes=self._parts.resident_bytes,
            uncommitted=self._uncommitted,
            undelivered=self._totals.undelivered_count(),
            refused_totals=len(self._delivery.refused),
            oldest_open_s=max(0.0, now - oldest),
            commit_s=self._commit_s,
            counters=self.counters,
        )
