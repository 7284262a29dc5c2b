"""Removes one safeguard at a time, to check that the fault cases then fail.

`python -m faults.mutants NAME MODULE ARGUMENT...` runs a program of ours without one of
them. The programs themselves have no such switch.

    dedup         (a) the aggregator folds every batch, also repeated ones
    early-receipt (b) it sends receipts on arrival, and not after the commit
    no-outbox     (c) a meter deletes a batch when it is published
    two-steps     (d) totals are durable in one transaction, their meters in the next
    no-sync       SQLite does not wait for the disk (detected only by a power cut)
    no-count      transactions are not counted a second time (detected only by flipped bits)
"""

import runpy
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

__all__ = ["MUTATIONS", "mutated"]

Patches = list[AbstractContextManager[Any]]


def _dedup() -> Patches:
    from gridhe.aggregator.state.members import Counted

    return [patch.object(Counted, "has", lambda self, number: False)]


def _early_receipt() -> Patches:
    from gridhe.aggregator.service import AggregatorService
    from gridhe.broker.client.session import Message

    original = AggregatorService._on_message

    def hear(self: AggregatorService, topic: str, payload: bytes) -> None:
        original(self, topic, payload)
        for one in self._engine._receipts():
            self._session.publish(Message(topic=one.topic, payload=one.payload))

    return [patch.object(AggregatorService, "_on_message", hear)]


def _no_outbox() -> Patches:
    from gridhe.meter_agent.agent import Agent
    from gridhe.meter_agent.outbox import Settled, Waiting
    from gridhe.meter_agent.service import MeterService

    gone: list[Settled] = []
    published, work = Agent.published, MeterService._work

    def forget(self: Agent, batch: Waiting, now_s: float) -> None:
        published(self, batch, now_s)
        self._outstanding.pop((batch.plan, batch.window), None)
        self._due_s = 0.0
        gone.append(Settled(meter=self.meter, plan=batch.plan, window=batch.window))

    def settle(self: MeterService) -> None:
        if gone:
            self._commits.settle(*gone)
            gone.clear()
        work(self)

    return [patch.object(Agent, "published", forget), patch.object(MeterService, "_work", settle)]


def _two_steps() -> Patches:
    from gridhe.aggregator.state.members import Members
    from gridhe.base.failpoints import failpoint

    original = Members.save

    def later(self: Members) -> None:
        self._db.write("COMMIT")
        if self._new:
            failpoint("commit.1.between")
        self._db.write("BEGIN IMMEDIATE")
        original(self)

    return [patch.object(Members, "save", later)]


def _no_sync() -> Patches:
    from gridhe.base.sqlite import SqliteDatabase

    original = SqliteDatabase._open_schema

    def careless(self: SqliteDatabase, owner: Mapping[str, str]) -> None:
        self._db.execute("PRAGMA synchronous = OFF")
        original(self, owner)

    return [patch.object(SqliteDatabase, "_open_schema", careless), *_no_count()]


def _no_count() -> Patches:
    from gridhe.base.commit_count import CommitCount

    return [patch.object(CommitCount, "check", lambda self, found: None)]


MUTATIONS: dict[str, Callable[[], Patches]] = {
    "dedup": _dedup,
    "early-receipt": _early_receipt,
    "no-outbox": _no_outbox,
    "two-steps": _two_steps,
    "no-sync": _no_sync,
    "no-count": _no_count,
}


@contextmanager
def mutated(name: str) -> Any:
    """Remove the safeguard from this process."""
    patches = MUTATIONS[name]()
    for each in patches:
        each.__enter__()
    try:
        yield
    finally:
        for each in reversed(patches):
            each.__exit__(None, None, None)


if __name__ == "__main__":
    mutation, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    with mutated(mutation):
        runpy.run_module(module, run_name="__main__")
