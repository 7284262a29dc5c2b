"""The authority's connection to the broker: publishes plans and roster, receives and stores totals.

    connected   publish status/authority (retained, with a last will), plan/<id>, plan/current and
                roster/current (retained), so that a broker that lost them has them again
    total       check encoding, topic == header, aggregator enrolled, signature, size; drop a total that
                fails one, and count it by reason
    verdict     note that a total was opened or refused, for the next receipt
    commit      (1) store the totals of the last 0.1 s in one transaction of the inbox, on the disk; (2) send
                each aggregator a receipt: verdicts, those of totals that arrived again, and its dropped
                totals with the reason

A total that waits gets no receipt, so the aggregator keeps it. After a crash before a receipt, or if one is
lost, the aggregator sends its totals again; the inbox stores none of them twice, and those with a verdict get
their receipt again. Nothing is decrypted here.
"""

import hashlib
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from gridhe import __version__
from gridhe.broker.client.loop import EventLoop
from gridhe.broker.client.session import Message, Session
from gridhe.broker.server.mosquitto_config import AUTHORITY_USER
from gridhe.config.settings import BrokerSettings
from gridhe.errors import BrokerError, EnvelopeError
from gridhe.keyring.release.inbox import Inbox
from gridhe.wire import topics
from gridhe.wire.bundle import Bundle
from gridhe.wire.receipt import TotalReceipt
from gridhe.wire.status import Status
from gridhe.wire.total import TOTAL_HEADER_BYTES_MAX, Total, TotalKey, open_total

__all__ = ["Receiver"]

_log = logging.getLogger(__name__)
_COMMIT_S = 0.1  # one fsync for all totals of this long; aggregators wait seconds before they repeat
_BUFFER_BYTES = 64 << 20  # commit at once above this
_RECEIPT_TOTALS = 1_000  # a receipt names at most this many, well within its size cap
_SPARE_BYTES = 4_096  # msgpack framing and signature around header and ciphertext


class Receiver:
    """A session of the authority. `counts`: the number of dropped totals by reason."""

    def __init__(
        self,
        loop: EventLoop,
        *,
        settings: BrokerSettings,
        password: str,
        inbox: Inbox,
        bundles: Sequence[tuple[Bundle, bytes]],
        roster: bytes,
        aggregators: Mapping[str, bytes],
        ingest_key: Callable[[str], bytes],
        now: Callable[[], str],
        alarms: Callable[[], tuple[int, int]] = lambda: (0, 0),
        on_connect: Callable[[bool], None] = lambda session_present: None,
    ) -> None:
        """Add a session to `loop`; it connects when the loop runs.

        `bundles`: (bundle, signed bytes), the current plan last. `aggregators`: verify keys by id.
        `ingest_key(name)` derives a key; `now()` returns the ISO time; `alarms()` the counts `failed` and
        `stopped` of the status. `on_connect(session_present)` is
        called after each connection, when plans and roster have been sent.
        """
        self._loop, self._inbox, self._now, self._after_connect = loop, inbox, now, on_connect
        self._ingest_key, self._alarms = ingest_key, alarms
        self._incarnation = secrets.token_hex(8)
        self._buffer: list[tuple[Total, bytes]] = []
        self._buffered_bytes = 0
        # For the next receipts, by aggregator and total: the reason of a refusal, "" if opened.
        self._dropped: dict[tuple[str, TotalKey], str] = {}
        self._verdicts: dict[tuple[str, TotalKey], str] = {}
        self.receipts = 0  # sent so far
        self.counts: Counter[str] = Counter()
        self.stored = 0
        self.last_arrival_s = loop.clock()
        self._learn(bundles, roster, aggregators)
        self.session = Session(
            settings=settings,
            client_id=AUTHORITY_USER,
            username=AUTHORITY_USER,
            password=password,
            will=self._status(online=False),
            on_message=self._on_message,
            on_connect=self._on_connect,
            subscriptions=(f"{topics.PREFIX}/total/#",),
        )
        loop.add(self.session)
        self._timer = loop.every(_COMMIT_S, self.commit)

    def _learn(
        self, bundles: Sequence[tuple[Bundle, bytes]], roster: bytes, aggregators: Mapping[str, bytes]
    ) -> None:
        self._bundles, self._roster, self._aggregators = list(bundles), roster, dict(aggregators)
        rings = {bundle.plan.plan_id: bundle.plan.parameters.wire_bytes for bundle, _ in bundles}
        self._sizes = rings
        self._largest = max(rings.values()) + TOTAL_HEADER_BYTES_MAX + _SPARE_BYTES

    def update(
        self, bundles: Sequence[tuple[Bundle, bytes]], roster: bytes, aggregators: Mapping[str, bytes]
    ) -> None:
        """Publish these plans and this roster, and accept totals of these aggregators."""
        self._learn(bundles, roster, aggregators)
        self._publish_all()

    def _status(self, *, online: bool) -> Message:
        failed, stopped = self._alarms()
        status = Status(
            online=online,
            version=__version__,
            incarnation=self._incarnation,
            failed=failed,
            stopped=stopped,
        )
        return Message(topic=topics.STATUS_AUTHORITY, payload=status.encode(), retain=True)

    def publish_status(self) -> None:
        """Publish the status again, because its counts changed."""
        self.session.publish(self._status(online=True))

    def _on_connect(self, session_present: bool) -> None:
        self.wait_again()  # for redelivered totals
        self._publish_all()
        self._after_connect(session_present)

    def _publish_all(self) -> None:
        messages = [
            Message(topic=topics.plan(bundle.plan.plan_id), payload=data, retain=True)
            for bundle, data in self._bundles
        ]
        messages.append(Message(topic=topics.PLAN_CURRENT, payload=self._bundles[-1][1], retain=True))
        messages.append(Message(topic=topics.ROSTER_CURRENT, payload=self._roster, retain=True))
        # The status last: at "online" an aggregator resends totals without a receipt, and needs the roster.
        messages.append(self._status(online=True))
        for message in messages:
            self.session.publish(message)

    def _on_message(self, topic: str, payload: bytes) -> None:
        total: Total | None = None
        try:
            total = self._open(topic, payload)
            self._check(total)
        except EnvelopeError as error:
            self.counts[error.reason] += 1
            _log.warning("total dropped", extra={"reason": error.reason, "detail": str(error)[:200]})
            if total is not None and len(self._dropped) < _RECEIPT_TOTALS:
                self._dropped[total.header.aggregator, _key_of(total)] = error.reason
            return
        self._buffer.append((total, payload))
        self._buffered_bytes += len(payload)
        if self._buffered_bytes > _BUFFER_BYTES:
            self.commit()

    def _open(self, topic: str, payload: bytes) -> Total:
        """The total of an enrolled aggregator. Raises EnvelopeError; no receipt can name such a total."""
        group = topics.parse_total(topic)
        total = open_total(payload, self._largest)
        header = total.header
        if header.group != group:
            raise EnvelopeError("topic", f"a total of {header.group} arrived on the topic of {group}")
        if header.aggregator not in self._aggregators:
            raise EnvelopeError("not_enrolled", f"aggregator {header.aggregator} is not enrolled")
        return total

    def _check(self, total: Total) -> None:
        """Raise EnvelopeError unless the total can be stored; the receipt names it with the reason."""
        header = total.header
        total.check_signature(self._aggregators[header.aggregator])
        size = self._sizes.get(header.plan)
        if size is not None and len(total.ciphertext) != size:
            raise EnvelopeError("size", f"a ciphertext of {len(total.ciphertext)} bytes; the plan has {size}")

    def verdict(self, aggregator: str, total: TotalKey, rule: str) -> None:
        """Send a receipt at the next commit: the total was opened, or refused by `rule`."""
        if aggregator in self._aggregators:
            self._verdicts[aggregator, total] = rule

    def commit(self) -> int:
        """Store the buffered totals, then send receipts; return how many are new. Raises StateError."""
        if not self._buffer and not self._dropped and not self._verdicts:
            return 0
        batch, self._buffer, self._buffered_bytes = self._buffer, [], 0
        dropped, self._dropped = self._dropped, {}
        new = 0
        if batch:
            new = self._inbox.store([(total.header, payload) for total, payload in batch], self._now())
            for total, payload in batch:
                state, rule = self._inbox.verdict(hashlib.sha256(payload).digest())
                if state != "waiting":
                    self.verdict(total.header.aggregator, _key_of(total), rule)
        if new:
            self.wait_again()
        self.stored += new
        verdicts, self._verdicts = self._verdicts, {}
        self._send_receipts({**dropped, **verdicts})
        return new

    def _send_receipts(self, verdicts: Mapping[tuple[str, TotalKey], str]) -> None:
        by_aggregator: dict[str, list[tuple[TotalKey, str]]] = {}
        for (aggregator, total), reason in verdicts.items():
            by_aggregator.setdefault(aggregator, []).append((total, reason))
        for aggregator, named in by_aggregator.items():
            for start in range(0, len(named), _RECEIPT_TOTALS):
                some = named[start : start + _RECEIPT_TOTALS]
                receipt = TotalReceipt(
                    aggregator=aggregator,
                    stored=tuple(total for total, reason in some if not reason),
                    refused=tuple((*total, reason) for total, reason in some if reason),
                )
                payload = receipt.encode(self._ingest_key(f"aggregator/{aggregator}"))
                # Offline, the receipt is lost; the aggregator sends the total again and gets a receipt then.
                self.session.publish(Message(topic=topics.receipt(aggregator), payload=payload))
                self.receipts += 1

    def connect(self, timeout_s: float) -> None:
        """Run the loop until connected. Raises BrokerError if that takes longer than `timeout_s`."""
        if not self._loop.run_until(lambda: self.session.connected, timeout_s):
            reason = self.session.last_error or f"no answer within {timeout_s:g} s"
            raise BrokerError(f"{reason}; is the broker at {self.session.url} running?")

    def wait_again(self) -> None:
        """Start the idle time anew."""
        self.last_arrival_s = self._loop.clock()

    def idle_for_s(self) -> float:
        """Seconds since the last connection or arrival of a new total; 0 while totals are not committed.

        Totals that arrive again do not count: aggregators repeat each one until its receipt.
        """
        return 0.0 if self._buffer else self._loop.clock() - self.last_arrival_s

    def flush(self, timeout_s: float) -> bool:
        """Commit, and run until the broker has acknowledged all messages; return whether it has."""
        self.commit()
        return self._loop.run_until(lambda: self.session.in_flight == 0, timeout_s)

    def close(self) -> None:
        """Commit, publish the status "offline", and disconnect."""
        self._timer.cancel()
        self.commit()
        self.session.publish(self._status(online=False))
        self.session.close()
        self._loop.remove(self.session)


def _key_of(total: Total) -> TotalKey:
    header = total.header
    return TotalKey(header.plan, header.group, header.window, header.part)
