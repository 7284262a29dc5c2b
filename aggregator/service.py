"""The process behind `gridhe-aggregate`: the engine on an MQTT session, one thread, one loop.

The batch filters are subscribed only once a plan and the roster are known; until then the broker queues the
batches. The session acknowledges MQTT messages before they are committed: only a receipt, sent after the
commit, confirms a batch.
"""

import logging
import secrets
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from gridhe import __version__
from gridhe.aggregator.counters import Snapshot
from gridhe.aggregator.engine import Engine
from gridhe.aggregator.state.database import Database
from gridhe.base.clock import PlausibleClock
from gridhe.base.failpoints import failpoint
from gridhe.base.timings import timed
from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.config.settings import Settings
from gridhe.errors import EnvelopeError
from gridhe.plan.names import aggregator_user
from gridhe.wire import topics
from gridhe.wire.credential import AggregatorCredential
from gridhe.wire.status import Status

__all__ = ["AggregatorService"]

_log = logging.getLogger(__name__)

_BATCH = topics.batch("", "").rstrip("/") + "/"
_PLAN = topics.plan("")
_CATCH_UP_S = 1.0  # between two rounds of redelivery while the authority keeps receipting
_FLUSH_S = 5.0  # for the acknowledgement of the last receipts at a clean stop


class AggregatorService:
    """One aggregator. Raises StateError, BrokerError or ConfigError from `__init__` and `run`."""

    def __init__(
        self,
        *,
        settings: Settings,
        credential: AggregatorCredential,
        state_dir: Path,
        trust_clock: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`trust_clock`: believe the clock at this start, however long after the last commit."""
        for one in settings.aggregator.filters:
            topics.check_filter(one)
        self._settings = settings
        self._wall = now
        self._database = Database(state_dir, authority=credential.authority, aggregator=credential.aggregator)
        self._engine = Engine(database=self._database, credential=credential, settings=settings.aggregator)
        self._clock = PlausibleClock(known_s=None if trust_clock else self._engine.known_s, wall=now)
        self._clock_steps = -1  # clock steps that the engine has handled
        self._roster: bytes | None = None  # applied once the clock is believed
        self._commit_engine = timed("commit", self._engine.commit)
        self._loop = EventLoop()
        self._incarnation = secrets.token_hex(8)
        self._status_topic = topics.status_aggregator(credential.aggregator)
        self._receipt_topic = topics.receipt(credential.aggregator)
        self._authority_incarnation: str | None = None
        self._redelivered_at = 0.0
        user = aggregator_user(credential.aggregator)
        self._session = Session(
            settings=settings.broker,
            client_id=user,
            username=user,
            password=credential.password,
            will=self._status(online=False),
            on_message=self._on_message,
            on_connect=self._on_connect,
            subscriptions=[
                topics.plan("+"),
                topics.ROSTER_CURRENT,
                self._receipt_topic,
                topics.STATUS_AUTHORITY,
                *(settings.aggregator.filters if self._engine.ready else ()),
            ],
        )

    def snapshot(self) -> Snapshot:
        """The present state and counters."""
        return self._engine.snapshot(self._wall())

    @property
    def connected(self) -> bool:
        """Whether the session is connected."""
        return self._session.connected

    def run(self, watch: Callable[["AggregatorService"], None] | None = None, watch_s: float = 10.0) -> None:
        """Run until SIGTERM or SIGINT, then commit, send the receipts and return.

        `watch` is called with this service every `watch_s` seconds, and once more at the end.
        """
        try:
            with self._loop.on_signals((signal.SIGTERM, signal.SIGINT), self._loop.stop):
                self._loop.add(self._session)
                self._loop.call_later(self._engine.commit_interval_s, self._commit_and_rearm)
                self._loop.every(self._settings.aggregator.redeliver_s, self._redeliver)
                if watch is not None:
                    self._loop.every(watch_s, lambda: watch(self))
                self._loop.run()
                _log.info("stopping")
                self._commit()
                self._publish([self._status(online=False)])
                self._loop.run_until(lambda: not self._session.in_flight, _FLUSH_S)
                self._session.close()
                if watch is not None:
                    watch(self)
        finally:
            self._loop.close()
            self._database.close()

    # receiving

    def _on_connect(self, session_present: bool) -> None:
        if not session_present:
            # A broker that lost the session also lost batches queued for it: at a new incarnation meters send
            # again at once, and not only after their back-off.
            self._incarnation = secrets.token_hex(8)
        self._go_online()
        self._redeliver()

    def _on_message(self, topic: str, payload: bytes) -> None:
        if topic.startswith(_BATCH):
            self._engine.receive(topic, payload, self._now())
            if self._engine.memory_full:
                self._commit()
        elif topic == self._receipt_topic:
            delivered = self._engine.take_total_receipt(payload)
            if delivered and time.monotonic() - self._redelivered_at > _CATCH_UP_S:
                self._redeliver()
        elif topic.startswith(_PLAN):
            self._apply(lambda: self._engine.take_bundle(payload))
        elif topic == topics.ROSTER_CURRENT:
            self._roster = payload
            self._take_roster(self._now())
        elif topic == topics.STATUS_AUTHORITY:
            self._on_authority(payload)

    def _now(self) -> float | None:
        """The time (UTC epoch seconds), or None while the clock is not believed."""
        now = self._clock.now()
        news = self._clock.news()
        if news is not None:
            _log.warning("clock", extra={"why": news})
        if now is not None and self._clock_steps != self._clock.steps:
            self._clock_steps = self._clock.steps
            self._engine.clock_set(now)
        return now

    def _take_roster(self, now: float | None) -> None:
        # A meter that moves counts in its new group from the time at which the roster is applied.
        roster = self._roster
        if roster is not None and now is not None:
            self._roster = None
            self._apply(lambda: self._engine.take_roster(roster, now))

    def _apply(self, take: Callable[[], None]) -> None:
        was_ready = self._engine.ready
        take()
        if not was_ready:
            self._go_online()

    def _go_online(self) -> None:
        """Subscribe to batches before publishing "online", because meters send again when they receive it."""
        if self._engine.ready:
            self._session.subscribe(*self._settings.aggregator.filters)
            self._publish([self._status(online=True)])

    def _on_authority(self, payload: bytes) -> None:
        try:
            status = Status.decode(payload)
        except EnvelopeError as error:
            _log.warning("the authority's status is unreadable", extra={"why": str(error)})
            return
        if status.online and status.incarnation != self._authority_incarnation:
            self._authority_incarnation = status.incarnation
            self._engine.offer_all()
            self._redeliver()

    # sending

    def _status(self, *, online: bool) -> Message:
        status = Status(online=online, version=__version__, incarnation=self._incarnation)
        return Message(topic=self._status_topic, payload=status.encode(), retain=True)

    def _commit_and_rearm(self) -> None:
        self._commit()
        self._loop.call_later(self._engine.commit_interval_s, self._commit_and_rearm)

    def _commit(self) -> None:
        now = self._now()
        self._take_roster(now)
        outgoing = self._commit_engine(now)
        failpoint("commit.2.before")
        for one in outgoing:
            self._session.publish(Message(topic=one.topic, payload=one.payload))
            failpoint("commit.2.each")
        failpoint("commit.2.after")

    def _redeliver(self) -> None:
        self._redelivered_at = time.monotonic()
        self._publish(Message(topic=one.topic, payload=one.payload) for one in self._engine.send_again())

    def _publish(self, messages: Iterable[Message]) -> None:
        # A message that cannot be sent now is not lost: without a receipt meters send batches again, and
        # totals are sent again until the authority's receipt.
        for message in messages:
            self._session.publish(message)
