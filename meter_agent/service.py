"""The work of one process of meters: seal what is over, publish what is due, settle what is receipted.

Everything runs in the loop's thread, in slices of a few milliseconds, so that sealing never starves
the network. A window goes through these steps, and no later one starts before the earlier is done:

1. the journal of what was read is committed (devices only);
2. its readings pass the policy and are sealed, in memory;
3. envelope, watermark and journal are committed together, in groups of up to `_GROUP`;
4. only then is the envelope published; its receipt is committed in a group too.

A full disk stops steps 1 to 3 and nothing else: what is in memory stays there, what is on the disk
goes on being published, and the commit is tried again until there is room.

So does a clock that cannot be believed (`gridhe.base.clock`). After a step of it everything is begun as
at a start, from what is committed.
"""

import functools
import heapq
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gridhe.base.failpoints import failpoint
from gridhe.base.sqlite import DatabaseFull
from gridhe.errors import EnvelopeError
from gridhe.meter_agent.outbox import SealedBatch, Settled
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

__all__ = ["MeterService", "ServiceCounts"]

_LOG = logging.getLogger(__name__)
_TICK_S = 0.05
_SEAL_SLICE_S = 0.015
_GROUP = 32  # sealed batches a transaction: about 3 MB of the default plan's
_COMMIT_S = 0.2  # nothing sealed or settled waits longer for its commit
_SETTLE_S = 0.25  # after the first connect, the retained plan comes before anything is sealed
_OFFLINE_S = 3.0  # without a broker, sealing starts with the cached plans after this
_DISK_RETRY_S = 2.0
_STATUS_S = 30.0
_PLAN_ENDED = "plan_ended"  # why a batch is set aside whose plan had ended before it was sealed


@dataclass(slots=True)
class ServiceCounts:
    """What this process did."""

    sealed: int = 0
    repeated: int = 0  # windows that were sealed before, by an earlier run
    dropped: int = 0
    resealed: int = 0  # windows, for the group that the meter has moved to or the plan they belong to
    junk: int = 0  # messages that were no status and no receipt for a meter here


class MeterService:
    """Give it to a loop with `start`; it stops the loop when it is done, if it is to stop at all."""

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
        """`begin(plan, now_s)` gives every unit its feeder and the pace: once the first plan is known and the
        clock is believed, and again when the clock has stepped.

        `hold_back`: seal no further ahead of the receipts than twice `unreceipted_max` per meter.
        """
        self._loop, self._outbox, self._book, self._sealer = loop, outbox, book, sealer
        self._publisher = publisher
        self.units = list(units)
        self._by_meter = {unit.meter: unit for unit in self.units}
        self._begin = begin
        self._held_back_at = 2 * settings.unreceipted_max if hold_back else None
        self._seals_moved_anew = settings.moved == "reseal"
        self._clock, self._clock_steps, self._clock_s = clock, 0, clock.now()
        self._refusals = Refusals(loop.clock)
        self._misplaced: list[Settled] = []  # of a group or a plan that is not theirs: to be sealed anew
        self._plans_changed = True  # whether sealed windows may belong to another plan now
        self._stop_when_receipted = stop_when_receipted
        self.counts = ServiceCounts()
        self.pace: Pace | None = None
        self._queue: list[tuple[float, int]] = []  # (simulated time to ask the feeder, unit)
        self._blocked: set[int] = set()  # units held back
        self._place = {unit.meter: at for at, unit in enumerate(self.units)}
        self._sealed: list[SealedBatch] = []
        self._settled: list[Settled] = []
        self._journals: dict[str, bytes] = {}
        self._oldest_s: float | None = None  # since when something waits for a commit
        self._disk_full_until_s = 0.0
        self._soon = False
        self._started_s = loop.clock()
        self._online_s: float | None = None

    # -- from the network ----------------------------------------------------------------------

    def on_connect(self, unit: "MeterUnit") -> None:
        """The unit's session is connected (again)."""
        if self._online_s is None:
            self._online_s = self._loop.clock()
        self._publisher.on_connect(unit)

    def on_message(self, topic: str, payload: bytes) -> None:
        """A message for any of the units. Junk is counted and survived."""
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
        for word in unit.agent.on_receipt(payload, self._loop.clock()):
            if word.reason == MOVED and self._seals_moved_anew:
                self._misplaced.append(word)
            else:
                self._settle(word)
        for deferred in unit.agent.news:
            self._refusals.add(unit.meter, deferred.plan, deferred.window, deferred.reason, final=False)
        if unit.agent.news:
            unit.agent.news.clear()
            self._unblock({unit.meter})

    def _settle(self, word: Settled) -> None:
        """Take an aggregator's last word on a batch; it is committed with the next group."""
        if word.reason is not None:
            self._refusals.add(word.meter, word.plan, word.window, word.reason, final=True)
        self._settled.append(word)
        self._since()

    def _on_aggregator(self, aggregator: str, payload: bytes) -> None:
        try:
            status = Status.decode(payload)
        except EnvelopeError:
            self.counts.junk += 1
            return
        if status.online:
            news = [unit.agent.on_aggregator(aggregator, status.incarnation) for unit in self.units]
            if any(news):
                _LOG.info("aggregator %s is there, incarnation %s", aggregator, status.incarnation)

    # -- the loop ------------------------------------------------------------------------------

    def start(self) -> None:
        """Work from now on, whenever the loop turns."""
        self._loop.every(_TICK_S, self._work)
        self._loop.every(_STATUS_S, self._publisher.tell_backlogs)

    def _work_soon(self) -> None:
        self._soon = False
        self._work()

    def _work(self) -> None:
        now_s = self._loop.clock()
        self._look_at_clock()
        more = self._may_seal(now_s) and self._seal(now_s)
        waited = self._oldest_s is not None and now_s - self._oldest_s >= _COMMIT_S
        if waited or (self._sealed and not more):
            self._commit(now_s)
        more = self._publisher.publish(now_s) or more
        if self._publisher.damaged:
            for word in self._publisher.damaged:
                self._settle(word)
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
        return begun and not (
            self._queue or self._blocked or self._sealed or self._settled or self._misplaced
        )

    @property
    def done(self) -> bool:
        """Whether nothing more will be sealed, and nothing waits for a receipt but what is refused as late.

        That waits for an aggregator whose clock is set, which may never come: a later run sends it again.
        """
        return self.sealing_done and all(
            self._outbox.backlog(unit.meter) == unit.agent.late for unit in self.units
        )

    # -- sealing -------------------------------------------------------------------------------

    def _look_at_clock(self) -> None:
        """Ask whether the clock is believed; after a step, begin anew from what is committed."""
        self._clock_s = self._clock.now()
        news = self._clock.news()
        if news is not None:
            _LOG.warning("%s", news if self._clock_s is not None else f"{news}; nothing is sealed until then")
        if self._clock_s is not None and self._clock_steps != self._clock.steps:
            if self._sealed and not self._commit(self._loop.clock()):
                return
            self._clock_steps = self._clock.steps
            self.pace, self._queue = None, []
            self._blocked.clear()

    def _may_seal(self, now_s: float) -> bool:
        if now_s < self._disk_full_until_s or not len(self._book) or self._clock_s is None:
            return False
        online = self._online_s is not None and now_s >= self._online_s + _SETTLE_S
        if not online and now_s < self._started_s + _OFFLINE_S:
            return False
        if self.pace is None:
            plan = self._book.at(self._clock_s) or self._book.latest
            if plan is None:
                return False
            self.pace = self._begin(plan, self._clock_s)
            self._queue = [(0.0, at) for at in range(len(self.units))]
        return True

    def _seal(self, now_s: float) -> bool:
        """Seal for one slice; whether more is ready."""
        if self.pace is None:
            return False
        until_s = now_s + _SEAL_SLICE_S
        if self._plans_changed and not self._find_misplaced(now_s):
            return False
        while self._misplaced:
            self._seal_anew(self._misplaced.pop())
            if self._loop.clock() >= until_s:
                return True
        while self._queue:
            simulated_s = self.pace.now_s()
            if self._queue[0][0] > simulated_s:
                return False
            _, at = heapq.heappop(self._queue)
            self._seal_next(at, simulated_s)
            if self._disk_full_until_s > now_s:
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
            self._journals[unit.meter] = journal
            if not self._commit(self._loop.clock()):
                heapq.heappush(self._queue, (simulated_s, at))
                return
        upcoming = feeder.next(simulated_s)
        if upcoming is not None:
            self._seal_window(unit, feeder, *upcoming)
        ready_s = feeder.ready_s()
        if ready_s is not None:
            # A device is always worth asking: again at once after a window, else in a tick.
            wait_s = 0.0 if upcoming is not None or journal is not None else _TICK_S
            heapq.heappush(self._queue, (max(ready_s, simulated_s + wait_s), at))

    def _find_misplaced(self, now_s: float) -> bool:
        """Look for waiting batches whose windows belong to a later plan; False when the disk is full."""
        if self._sealed and not self._commit(now_s):
            return False
        self._plans_changed = False
        for plan_id, window in self._book.ended():
            for meter, batch in self._outbox.waiting_from(plan_id, window):
                if meter in self._by_meter:
                    self._by_meter[meter].agent.forget(batch.id)
                    word = Settled(meter=meter, plan=plan_id, window=batch.window, reason=_PLAN_ENDED)
                    self._misplaced.append(word)
        return True

    def _seal_anew(self, word: Settled) -> None:
        """Seal a window for the group or the plan that it belongs to by now, or set it aside."""
        unit, ended = self._by_meter[word.meter], word.reason == _PLAN_ENDED
        plan, feeder = self._book.known(word.plan), unit.feeder
        places = [] if plan is None else [(plan, word.window)]
        places = self._book.instead_of(word.plan, word.window) if ended else places
        batches = self._sealer.seal_anew(unit.credential, feeder, places)
        if not batches:
            unit.agent.counts.refused += ended
            self._settle(word)
            return
        if ended:
            self._settled.append(replace(word, reason=None))  # its batch goes with the same commit
        unit.agent.counts.refused -= not ended
        self._sealed += batches
        self._since()
        self.counts.resealed += 1

    def _seal_window(self, unit: "MeterUnit", feeder: "Feeder", plan: "Plan", closed: "ClosedWindow") -> None:
        self._sealed.append(self._sealer.seal(unit.credential, feeder, plan, closed))
        journal = feeder.done(closed.window)
        if journal is not None:
            self._journals[unit.meter] = journal
        self._since()
        if len(self._sealed) >= _GROUP:
            self._commit(self._loop.clock())

    # -- committing ----------------------------------------------------------------------------

    def _since(self) -> None:
        if self._oldest_s is None:
            self._oldest_s = self._loop.clock()

    def _commit(self, now_s: float) -> bool:
        """Commit what waits; False when the disk is full and it has to wait longer."""
        if now_s < self._disk_full_until_s:
            return False
        failpoint("meter.3.before")
        try:
            result = self._outbox.commit(
                sealed=self._sealed, settled=self._settled, journals=self._journals, clock_s=self._clock_s
            )
        except DatabaseFull as error:
            if self._disk_full_until_s == 0.0:
                _LOG.error("%s; readings wait in memory until then", error)
            self._disk_full_until_s = now_s + _DISK_RETRY_S
            return False
        failpoint("meter.3.after")
        if self._disk_full_until_s:
            _LOG.info("the disk has room again")
            self._disk_full_until_s = 0.0
        self.counts.sealed += len(self._sealed) - result.repeated
        self.counts.repeated += result.repeated
        self.counts.dropped += len(result.dropped)
        for meter, id_ in result.dropped:
            if meter in self._by_meter:
                self._by_meter[meter].agent.forget(id_)
        for meter, _ in result.stored:
            self._by_meter[meter].agent.sealed()
        self._unblock({word.meter for word in self._settled} | {meter for meter, _ in result.dropped})
        self._sealed, self._settled, self._journals, self._oldest_s = [], [], {}, None
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
        """The samples of all devices, and what was odd about them."""
        each = (unit.feeder.counts() for unit in self.units if unit.feeder is not None)
        return functools.reduce(WindowCounts.plus, each, WindowCounts())

    def flush(self) -> None:
        """Commit everything that waits, at a clean end. Raises DatabaseFull when the disk has no room."""
        self._disk_full_until_s = 0.0
        if self._sealed or self._settled or self._journals:
            self._outbox.commit(
                sealed=self._sealed, settled=self._settled, journals=self._journals, clock_s=self._clock_s
            )
            self.counts.sealed += len(self._sealed)
            self._sealed, self._settled, self._journals = [], [], {}
