"""The work of one process of meters: seals closed windows, publishes due batches, settles receipted ones.

Everything runs in the loop's thread, in slices of a few milliseconds, so that sealing does not delay the
network. A window passes these steps in order:

1. the journal of its samples is committed (devices only);
2. its readings pass the policy and are sealed, in memory;
3. envelope, watermark and journal are committed together, in groups of up to `_GROUP`;
4. only then is the envelope published; its receipt is committed in a group too.

A full disk stops steps 1 to 3 only: uncommitted batches stay in memory, committed ones are published, and
the commit is retried. A clock that is not believed stops them too (`gridhe.base.clock`). After a step of the
clock sealing begins again from the committed state.
"""

import functools
import heapq
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gridhe.base.failpoints import failpoint
from gridhe.errors import EnvelopeError
from gridhe.meter_agent.commits import Commits, ServiceCounts
from gridhe.meter_agent.outbox import Settled
from gridhe.meter_agent.refusals import Refusals
from gridhe.meter_agent.windows import WindowCounts
from gridhe.wire import topics
from gridhe.wire.receipt import MOVED
from gridhe.wire.status import Status

if TYPE_CHECKING:
    from gridhe.base.clock import PlausibleClock
    from gridhe.broker.client.loop import EventLoop
    from gridhe.config.settings import MeterSettings
    from gridhe.meter_agent.batches import BatchSealer
    from gridhe.meter_agent.feeders import Feeder
    from gridhe.meter_agent.outbox import Outbox
    from gridhe.meter_agent.pace import Pace
    from gridhe.meter_agent.plans import PlanBook
    from gridhe.meter_agent.publisher import MeterUnit, Publisher
    from gridhe.meter_agent.windows import ClosedWindow
    from gridhe.plan.plan import Plan

__all__ = ["MeterService"]

_LOG = logging.getLogger(__name__)
_TICK_S = 0.05
_SEAL_SLICE_S = 0.015
_GROUP = 32  # sealed batches a transaction: about 3 MB of the default plan's
_COMMIT_S = 0.2  # longest time that a sealed or settled batch waits for its commit
_SETTLE_S = 0.25  # after the first connect, wait for the retained plan before sealing
_OFFLINE_S = 3.0  # without a broker, sealing starts with cached plans after this time
_STATUS_S = 30.0
_PLAN_ENDED = "plan_ended"  # reason to set a batch aside: its plan had ended when it was sealed


class MeterService:
    """Call `start` before the loop runs. With `stop_when_receipted` it stops the loop when it is done."""

    def __init__(
        self,
        *,
        loop: "EventLoop",
        outbox: "Outbox",
        book: "PlanBook",
        sealer: "BatchSealer",
        publisher: "Publisher",
        units: "Sequence[MeterUnit]",
        begin: "Callable[[Plan, float], Pace]",
        clock: "PlausibleClock",
        settings: "MeterSettings",
        hold_back: bool,
        stop_when_receipted: bool,
    ) -> None:
        """`begin(plan, now_s)` gives every unit its feeder and returns the pace. It is called once a plan is
        known and the clock is believed, and again after each step of the clock.

        `hold_back`: seal at most twice `unreceipted_max` batches per meter ahead of the receipts.
        """
        self._loop, self._outbox, self._book, self._sealer = loop, outbox, book, sealer
        self._publisher = publisher
        self.units = list(units)
        self._by_meter = {unit.meter: unit for unit in self.units}
        self._begin = begin
        self._held_back_at = 2 * settings.unreceipted_max if hold_back else None
        self._reseals_moved = settings.moved == "reseal"
        self._clock, self._clock_steps = clock, 0
        self._refusals = Refusals(loop.clock)
        self._misplaced: list[Settled] = []  # sealed for the wrong group or plan: to be sealed again
        self._plans_changed = True  # whether sealed windows may now belong to another plan
        self._stop_when_receipted = stop_when_receipted
        self.counts = ServiceCounts()
        self._commits = Commits(outbox, self.counts, clock=loop.clock, clock_s=clock.now())
        self.pace: Pace | None = None
        self._queue: list[tuple[float, int]] = []  # (simulated time of the feeder's next call, unit index)
        self._blocked: set[int] = set()  # indices of units held back
        self._place = {unit.meter: at for at, unit in enumerate(self.units)}
        self._soon = False
        self._started_s = loop.clock()
        self._online_s: float | None = None

    # -- from the network ----------------------------------------------------------------------

    def on_connect(self, unit: "MeterUnit") -> None:
        """The unit's session is connected."""
        if self._online_s is None:
            self._online_s = self._loop.clock()
        self._publisher.on_connect(unit)

    def on_message(self, topic: str, payload: bytes) -> None:
        """A message for any of the units. Invalid ones are counted."""
        kind, _, name = topic.removeprefix(f"{topics.PREFIX}/").partition("/")
        if kind == "receipt" and name in self._by_meter:
            failpoint("meter.receipt.before")
            self._on_receipt(self._by_meter[name], payload)
        elif kind == "plan":
            if self._book.add(payload) is not None:
                self._plans_changed = True
                for unit in self.units:
                    unit.agent.hurry()
        elif kind == "status" and name.startswith("aggregator/"):
            self._on_aggregator(name.removeprefix("aggregator/"), payload)
        else:
            self.counts.junk += 1

    def _on_receipt(self, unit: "MeterUnit", payload: bytes) -> None:
        for settled in unit.agent.on_receipt(payload, self._loop.clock()):
            if settled.reason == MOVED and self._reseals_moved:
                self._misplaced.append(settled)
            else:
                self._settle(settled)
        for deferred in unit.agent.news:
            self._refusals.add(unit.meter, deferred.plan, deferred.window, deferred.reason, final=False)
        if unit.agent.news:
            unit.agent.news.clear()
            self._unblock({unit.meter})

    def _settle(self, batch: Settled) -> None:
        """Take a batch's final result; it is committed with the next group."""
        if batch.reason is not None:
            self._refusals.add(batch.meter, batch.plan, batch.window, batch.reason, final=True)
        self._commits.settle(batch)

    def _on_aggregator(self, aggregator: str, payload: bytes) -> None:
        try:
            status = Status.decode(payload)
        except EnvelopeError:
            self.counts.junk += 1
            return
        if status.online:
            new = [unit.agent.on_aggregator(aggregator, status.incarnation) for unit in self.units]
            if any(new):
                _LOG.info("aggregator %s is online, incarnation %s", aggregator, status.incarnation)

    # -- the loop ------------------------------------------------------------------------------

    def start(self) -> None:
        """Register the periodic work with the loop."""
        self._loop.every(_TICK_S, self._work)
        self._loop.every(_STATUS_S, self._publisher.publish_changes)

    def _work_soon(self) -> None:
        self._soon = False
        self._work()

    def _work(self) -> None:
        now_s = self._loop.clock()
        self._look_at_clock()
        more = self._may_seal(now_s) and self._seal(now_s)
        if self._commits.waited_s(now_s) >= _COMMIT_S or (self._commits.sealed and not more):
            self._commit(now_s)
        more = self._publisher.publish(now_s) or more
        if self._publisher.damaged:
            for damaged in self._publisher.damaged:
                self._settle(damaged)
            self._publisher.damaged.clear()
        if self._stop_when_receipted and self.done:
            self._loop.stop()
        elif more and not self._soon:
            self._soon = True
            self._loop.soon(self._work_soon)

    @property
    def sealing_done(self) -> bool:
        """Whether every source has ended and everything sealed is committed."""
        begun = self.pace is not None
        return begun and not (self._queue or self._blocked or self._commits.waiting or self._misplaced)

    @property
    def done(self) -> bool:
        """Whether sealing is done and only batches refused as `late` wait for a receipt.

        Those count only if the aggregator's clock is set back, so a later run sends them again.
        """
        return self.sealing_done and all(
            self._outbox.backlog(unit.meter) == unit.agent.late for unit in self.units
        )

    # -- sealing -------------------------------------------------------------------------------

    def _look_at_clock(self) -> None:
        """Check whether the clock is believed; after a step, begin again from the committed state."""
        self._commits.clock_s = self._clock.now()
        news = self._clock.news()
        if news is not None:
            _LOG.warning(
                "%s", news if self._commits.clock_s is not None else f"{news}; nothing is sealed until then"
            )
        if self._commits.clock_s is not None and self._clock_steps != self._clock.steps:
            if self._commits.sealed and not self._commit(self._loop.clock()):
                return
            self._clock_steps = self._clock.steps
            self.pace, self._queue = None, []
            self._blocked.clear()

    def _may_seal(self, now_s: float) -> bool:
        if now_s < self._commits.disk_full_until_s or not len(self._book) or self._commits.clock_s is None:
            return False
        online = self._online_s is not None and now_s >= self._online_s + _SETTLE_S
        if not online and now_s < self._started_s + _OFFLINE_S:
            return False
        if self.pace is None:
            plan = self._book.at(self._commits.clock_s) or self._book.latest
            if plan is None:
                return False
            self.pace = self._begin(plan, self._commits.clock_s)
            self._queue = [(0.0, at) for at in range(len(self.units))]
        return True

    def _seal(self, now_s: float) -> bool:
        """Seal for one slice. Returns True if more windows are ready."""
        if self.pace is None:
            return False
        until_s = now_s + _SEAL_SLICE_S
        if self._plans_changed and not self._find_misplaced(now_s):
            return False
        while self._misplaced:
            self._seal_again(self._misplaced.pop())
            if self._loop.clock() >= until_s:
                return True
        while self._queue:
            simulated_s = self.pace.now_s()
            if self._queue[0][0] > simulated_s:
                return False
            _, at = heapq.heappop(self._queue)
            self._seal_next(at, simulated_s)
            if self._commits.disk_full_until_s > now_s:
                return False
            if self._loop.clock() >= until_s:
                return bool(self._queue) and self._queue[0][0] <= simulated_s
        return False

    def _seal_next(self, at: int, simulated_s: float) -> None:
        unit = self.units[at]
        feeder = unit.feeder
        if feeder is None:
            return
        waiting = self._outbox.backlog(unit.meter) - unit.agent.deferred
        if self._held_back_at is not None and waiting >= self._held_back_at:
            self._blocked.add(at)
            return
        failpoint("meter.1.before")
        journal = feeder.poll(simulated_s)
        if journal is not None:
            failpoint("meter.1.read")
            self._commits.journals[unit.meter] = journal
            if not self._commit(self._loop.clock()):
                heapq.heappush(self._queue, (simulated_s, at))
                return
        upcoming = feeder.next(simulated_s)
        if upcoming is not None:
            self._seal_window(unit, feeder, *upcoming)
        ready_s = feeder.ready_s()
        if ready_s is not None:
            # A device is always ready: read it again at once after a window, else after a tick.
            wait_s = 0.0 if upcoming is not None or journal is not None else _TICK_S
            heapq.heappush(self._queue, (max(ready_s, simulated_s + wait_s), at))

    def _find_misplaced(self, now_s: float) -> bool:
        """Find waiting batches whose windows belong to a later plan. Returns False if the disk is full."""
        if self._commits.sealed and not self._commit(now_s):
            return False
        self._plans_changed = False
        for plan_id, window in self._book.ended():
            for meter, batch in self._outbox.waiting_from(plan_id, window):
                if meter in self._by_meter:
                    self._by_meter[meter].agent.remove(batch.id)
                    ended = Settled(meter=meter, plan=plan_id, window=batch.window, reason=_PLAN_ENDED)
                    self._misplaced.append(ended)
        return True

    def _seal_again(self, old: Settled) -> None:
        """Seal a window again for its present group or plan, or set its batch aside."""
        unit, ended = self._by_meter[old.meter], old.reason == _PLAN_ENDED
        plan, feeder = self._book.known(old.plan), unit.feeder
        places = [] if plan is None else [(plan, old.window)]
        places = self._book.instead_of(old.plan, old.window) if ended else places
        batches = self._sealer.seal_again(unit.credential, feeder, places)
        if not batches:
            unit.agent.counts.refused += ended
            self._settle(old)
            return
        if ended:
            self._commits.settle(replace(old, reason=None))  # the same commit deletes the old batch
        unit.agent.counts.refused -= not ended
        self._commits.seal(*batches)
        self.counts.resealed += 1

    def _seal_window(self, unit: "MeterUnit", feeder: "Feeder", plan: "Plan", closed: "ClosedWindow") -> None:
        self._commits.seal(self._sealer.seal(unit.credential, feeder, plan, closed))
        journal = feeder.done(closed.window)
        if journal is not None:
            self._commits.journals[unit.meter] = journal
        if len(self._commits.sealed) >= _GROUP:
            self._commit(self._loop.clock())

    # -- committing ----------------------------------------------------------------------------

    def _commit(self, now_s: float) -> bool:
        """Commit all that waits. Returns False if the disk is full; a later tick tries again."""
        settled = {each.meter for each in self._commits.settled}
        result = self._commits.commit(now_s)
        if result is None:
            return False
        for meter, id_ in result.dropped:
            if meter in self._by_meter:
                self._by_meter[meter].agent.remove(id_)
        for meter, _ in result.stored:
            self._by_meter[meter].agent.sealed()
        self._unblock(settled | {meter for meter, _ in result.dropped})
        return True

    def _unblock(self, meters: set[str]) -> None:
        for meter in meters:
            at = self._place.get(meter)
            if at is not None and at in self._blocked:
                self._blocked.discard(at)
                feeder = self.units[at].feeder
                ready_s = None if feeder is None else feeder.ready_s()
                if ready_s is not None:
                    heapq.heappush(self._queue, (ready_s, at))

    def samples(self) -> WindowCounts:
        """Counts of all devices' samples and their irregularities."""
        each = (unit.feeder.counts() for unit in self.units if unit.feeder is not None)
        return functools.reduce(WindowCounts.plus, each, WindowCounts())

    def flush(self) -> None:
        """Commit everything that waits, at a clean stop. Raises DatabaseFull when the disk has no room."""
        for unit in self.units:
            journal = None if unit.feeder is None else unit.feeder.flush()
            if journal is not None:
                self._commits.journals[unit.meter] = journal
        self._commits.flush()
