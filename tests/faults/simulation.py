"""The aggregator's engine in this process, with a network and a disk that misbehave by a seed.

Meters are their outboxes only: an envelope stays until a receipt for it has come.
"""

import hashlib
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import msgpack

from faults.oracle import Oracle
from faults.world import World
from gridhe.aggregator.engine import Engine, Outgoing
from gridhe.aggregator.state.database import Database
from gridhe.config.settings import AggregatorSettings
from gridhe.meter_agent.sealing import Sealer
from gridhe.wire import topics
from gridhe.wire.ingest import derive_key
from gridhe.wire.receipt import Receipt, TotalReceipt

__all__ = ["Envelopes", "Simulation"]

Batch = tuple[str, int]  # meter, window


class Envelopes:
    """Every batch of a world, sealed once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sealed: dict[Batch, bytes] = {}
        starts = sorted((key.plan.first_window, plan) for plan, key in world.keys.items())
        for window in world.all_windows:
            plan = max(start for start in starts if start[0] <= window)[1]
            name = world.keys[plan].plan.quantities[0].name
            for meter in world.meters:
                sealer = Sealer(world.keys[plan].encryptor, world.device(meter))
                self.sealed[meter, window] = sealer.seal(window, {name: world.readings(meter, window)})


class Simulation:
    """One engine on one state directory."""

    def __init__(
        self, envelopes: Envelopes, folder: Path, *, seed: int, settings: AggregatorSettings | None = None
    ) -> None:
        self.world, self.envelopes, self.folder = envelopes.world, envelopes, folder
        self.rng = random.Random(seed)
        self.settings = settings or AggregatorSettings()
        self.oracle = Oracle(self.world)
        self.outbox: dict[Batch, bytes] = dict(envelopes.sealed)
        self.refused: dict[str, int] = {}
        self.now = float((self.world.first_window + self.world.windows) * self.world.window_s + 1)
        self.believed = True  # the clock; if False, the engine gets no time
        self.receipted: set[Batch] = set()
        self.drop_receipt: Callable[[Batch], bool] = lambda batch: False
        self._database: Database | None = None
        self.engine: Engine

    def start(self) -> None:
        """A new engine on the directory, with the authority's retained messages."""
        self.crash()
        world = self.world
        credential = world.credential
        self._database = Database(
            self.folder, authority=credential.authority, aggregator=credential.aggregator
        )
        self.engine = Engine(database=self._database, credential=credential, settings=self.settings)
        for topic, payload in world.bundles().items():
            if topic != topics.PLAN_CURRENT:
                self.engine.take_bundle(payload)
        self.engine.take_roster(world.roster(), self.now)
        self.give(self.engine.send_again(10_000))

    def crash(self) -> None:
        """End the process without a commit; uncommitted batches are lost."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def send(self, batches: Iterable[Batch]) -> None:
        """Deliver these batches in this order."""
        for meter, window in batches:
            topic = topics.batch(self.world.group[meter], meter)
            self.engine.receive(topic, self.envelopes.sealed[meter, window], self._time)

    def commit(self) -> None:
        """Commit, and deliver the resulting messages."""
        self.give(self.engine.commit(self._time))

    @property
    def _time(self) -> float | None:
        return self.now if self.believed else None

    def give(self, outgoing: Iterable[Outgoing]) -> None:
        """Deliver receipts to meters, totals to the oracle, and the oracle's receipts back."""
        stored = []
        for one in outgoing:
            kind = one.topic.removeprefix(f"{topics.PREFIX}/").split("/")[0]
            if kind == "total":
                stored.append(self.oracle.take(one.payload))
                continue
            meter = one.topic.rpartition("/")[2]
            receipt = Receipt.decode(one.payload, derive_key(self.world.secret, meter))
            for window in receipt.committed:
                if not self.drop_receipt((meter, window)):
                    self.receipted.add((meter, window))
                    self.outbox.pop((meter, window), None)
            for _, reason in receipt.refused:
                self.refused[reason] = self.refused.get(reason, 0) + 1
        if stored:
            answer = TotalReceipt(aggregator=self.world.aggregator, stored=tuple(stored))
            key = derive_key(self.world.secret, f"aggregator/{self.world.aggregator}")
            self.engine.take_total_receipt(answer.encode(key))

    def drain(self, rounds: int = 50) -> None:
        """Let meters send batches without a receipt until each has one, and totals until no more come."""
        for _ in range(rounds):
            if not self.outbox:
                break
            self.send(list(self.outbox))
            self.commit()
        for _ in range(rounds):  # each level of roll-ups follows the receipt for the one below
            known = len(self.oracle.totals)
            self.commit()
            if len(self.oracle.totals) == known:
                break

    def digest(self) -> str:
        """The state of all counted batches: members of each part, and totals without their first time."""
        database = self._database
        if database is None:
            raise RuntimeError("the simulation is not running")
        state = hashlib.sha256()
        members: dict[tuple[object, ...], list[tuple[int, bytes]]] = {}
        for *part, packed in database.query("SELECT plan, window, grp, part, members FROM members"):
            flat = msgpack.unpackb(packed)
            members.setdefault(tuple(part), []).extend(zip(flat[::2], flat[1::2], strict=True))
        for key, rows in sorted(members.items()):
            state.update(msgpack.packb([*key, sorted(rows)]))
        columns = "plan, window, grp, part, closed, meters, pieces, ciphertext"
        query = f"SELECT {columns} FROM totals ORDER BY 1, 2, 3, 4"  # noqa: S608 - a constant
        for *fields, pieces, ciphertext in database.query(query):
            state.update(msgpack.packb([*fields, sorted(msgpack.unpackb(pieces)), ciphertext]))
        return state.hexdigest()
