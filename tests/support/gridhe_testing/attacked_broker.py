"""A broker, an aggregator, a meter and an authority under attack by a rogue meter."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gridhe.aggregator.service import AggregatorService
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.embedded import EmbeddedBroker
from gridhe.config.settings import AggregatorSettings, BrokerSettings, MeterSettings, Settings
from gridhe.keyring.release.inbox import Inbox
from gridhe.keyring.release.receiver import Receiver
from gridhe.meter_agent.agent import Agent
from gridhe.meter_agent.outbox import Waiting
from gridhe.meter_agent.plans import PlanBook
from gridhe.wire import topics
from gridhe.wire.ingest import derive_key
from gridhe.wire.roster import Roster, RosterEntry
from gridhe.wire.total import Total

ATTEMPTS = 1_000
WINDOW = 480_000  # the grid's first window
ROGUE, VICTIM = "a0", "a1"
USERS = ("a0", "a1", "b0", "c0", "aggregator-main", "authority")


def password(user: str) -> str:
    return f"the password of {user}"


class World:
    """An authority, an aggregator, an honest meter and a rogue one around one broker, on one loop."""

    def __init__(self, grid: Any, broker: EmbeddedBroker, folder: Path) -> None:
        self.grid = grid
        self.settings = BrokerSettings(url=broker.url)
        self.entries = [RosterEntry(meter, grid.group_of(meter)) for meter in grid.meters]
        self.service = AggregatorService(
            settings=Settings(
                broker=self.settings, aggregator=AggregatorSettings(commit_interval_s=0.1, redeliver_s=3_600)
            ),
            credential=grid.credential,
            state_dir=folder / "service",
            now=lambda: grid.now,
        )
        self.loop = self.service._loop
        self.loop.add(self.service._session)
        self.engine = self.service._engine
        self.inbox = Inbox(folder / "inbox.db")
        self.authority = Receiver(
            self.loop,
            settings=self.settings,
            password=password("authority"),
            inbox=self.inbox,
            bundles=[(grid.bundle, grid.bundle.encode(grid.authority))],
            roster=Roster.of(1, self.entries).encode(grid.authority),
            aggregators={"main": grid.aggregator_key.verify_key},
            ingest_key=lambda name: derive_key(grid.secret, name),
            now=lambda: "2026-01-01T00:00:00Z",
        )
        self.book = PlanBook(folder / "plans", grid.authority.verify_key)
        waiting = [Waiting(id=1, plan=grid.plan.plan_id, window=WINDOW)]
        self.agent = Agent(
            VICTIM,
            derive_key(grid.secret, VICTIM),
            MeterSettings(),
            refill=lambda after, limit: [batch for batch in waiting if batch.id > after],
            rng=random.Random(1),
        )
        for batch in self.agent.due(0.0):
            self.agent.published(batch, 0.0)
        self.heard: Counter[str] = Counter()
        self.victim = self.session(VICTIM, self.hear, topics.receipt(VICTIM), f"{topics.PREFIX}/plan/#")
        self.rogue = self.session(ROGUE)
        self.until(lambda: self.engine.ready and self.book.latest is not None)

    def session(self, user: str, hear: Callable[..., None] = lambda *_: None, *filters: str) -> Session:
        session = Session(
            settings=self.settings,
            client_id=user,
            username=user,
            password=password(user),
            on_message=hear,
            subscriptions=filters,
        )
        self.loop.add(session)
        self.until(lambda: session.connected)
        return session

    def hear(self, topic: str, payload: bytes) -> None:
        if topic == topics.receipt(VICTIM):
            self.agent.on_receipt(payload, 0.0)
        else:
            self.book.add(payload)

    def until(self, what: Callable[[], bool], timeout_s: float = 60.0) -> None:
        assert self.loop.run_until(what, timeout_s), (self.engine.counters, self.authority.counts)

    def attempt(self, topic: str, payloads: Iterator[bytes], *, retain: bool = False) -> None:
        """The rogue's thousand messages, each answered by the broker."""
        for _ in range(ATTEMPTS):
            message = Message(topic=topic, payload=next(payloads), retain=retain)
            self.until(lambda: self.rogue.writable)
            assert self.rogue.publish(message)
        self.until(lambda: self.rogue.in_flight == 0)

    def settle(self, *, passed: int) -> None:
        """All that the rogue sent has been dealt with; the honest grid still works and is exact."""
        grid = self.grid
        if passed:
            counters = self.engine.counters
            self.until(lambda: counters.received >= passed)
        self.engine.commit(grid.now)  # each meter has its share of batches again
        for meter in grid.meters:
            user = meter if meter in (VICTIM, ROGUE) else None
            payload = grid.envelope(meter)
            if user == ROGUE:
                self.rogue.publish(Message(topic=topics.batch(grid.group_of(meter), meter), payload=payload))
            else:  # the others' own connections are not what is tested
                self.engine.receive(topics.batch(grid.group_of(meter), meter), payload, grid.now)
        self.until(lambda: self.engine.counters.folded == len(grid.meters))
        totals: dict[tuple[str, int, int], Total] = {}
        while new := grid.totals(self.engine.commit(grid.now)):
            self.engine.take_total_receipt(grid.stored(*new))  # the authority opens every total
            totals |= new
        assert (grid.decrypted(totals["grid", WINDOW, 0]) == grid.expected(grid.meters)).all()

    def close(self) -> None:
        self.loop.close()
        self.service._database.close()
        self.inbox.close()
