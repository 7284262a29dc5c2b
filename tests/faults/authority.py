"""Replaces the authority on the broker: publishes plans and roster, receives totals and sends receipts.

It decrypts with plain TenSEAL in this process, so that a run's verdict leans on nothing that is under test.
"""

import secrets
import time
from collections.abc import Callable

from faults.oracle import Oracle
from faults.world import World
from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.config.settings import BrokerSettings
from gridhe.errors import EnvelopeError
from gridhe.wire import topics
from gridhe.wire.ingest import derive_key
from gridhe.wire.receipt import TotalReceipt
from gridhe.wire.status import Status
from gridhe.wire.total import TotalKey

__all__ = ["Authority"]

_RECEIPT_S = 0.1


class Authority:
    """On the cluster's loop."""

    def __init__(
        self,
        world: World,
        oracle: Oracle,
        loop: EventLoop,
        settings: BrokerSettings,
        *,
        listens_to: tuple[str, ...] = (),
        on_message: Callable[[str, bytes], None] | None = None,
        receipts: bool = True,
    ) -> None:
        """`listens_to` are further topic filters; their messages go to `on_message`."""
        self._world, self._oracle, self._loop, self._on_extra = world, oracle, loop, on_message
        self.receipts = receipts
        self.online_at: list[tuple[str, float]] = []  # the aggregator's incarnations, monotonic seconds
        self.last_total_at = time.monotonic()
        self.junk = 0
        self._stored: list[TotalKey] = []
        self.session = Session(
            settings=settings,
            client_id="authority",
            on_message=self._on_message,
            on_connect=lambda present: self.publish(),
            subscriptions=[f"{topics.PREFIX}/total/#", topics.status_aggregator("+"), *listens_to],
        )
        loop.add(self.session)
        loop.every(_RECEIPT_S, self._receipt)

    def publish(self) -> None:
        """Plans and roster, retained; then our own status, which makes the aggregator deliver again."""
        for topic, payload in self._world.bundles().items():
            self.session.publish(Message(topic=topic, payload=payload, retain=True))
        roster = Message(topic=topics.ROSTER_CURRENT, payload=self._world.roster(), retain=True)
        self.session.publish(roster)
        status = Status(online=True, version="0", incarnation=secrets.token_hex(8))
        self.session.publish(Message(topic=topics.STATUS_AUTHORITY, payload=status.encode(), retain=True))

    def _on_message(self, topic: str, payload: bytes) -> None:
        kind = topic.removeprefix(f"{topics.PREFIX}/").split("/")[0]
        if kind == "total":
            self.last_total_at = time.monotonic()
            try:
                self._stored.append(self._oracle.take(payload))
            except EnvelopeError:
                self.junk += 1
        elif kind == "status" and "/aggregator/" in topic:
            status = Status.decode(payload)
            known = {incarnation for incarnation, _ in self.online_at}
            if status.online and status.incarnation not in known:
                self.online_at.append((status.incarnation, time.monotonic()))
        elif self._on_extra is not None:
            self._on_extra(topic, payload)

    def _receipt(self) -> None:
        if not self.receipts or not self._stored:
            return
        stored, self._stored = tuple(self._stored), []
        name = self._world.aggregator
        receipt = TotalReceipt(aggregator=name, stored=stored)
        key = derive_key(self._world.secret, f"aggregator/{name}")
        self.session.publish(Message(topic=topics.receipt(name), payload=receipt.encode(key)))
