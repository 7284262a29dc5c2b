"""Totals on their way to the authority: signed when they are sent, sent again until they are receipted.

A closed total is kept unsigned, so that it can be sent with whatever key the aggregator has by then. The
signature is a function of key and content, so with the same key it is the same bytes every time.

Sending again goes round: each turn takes the next ones in the order of their windows. A total that the
authority refuses is left out of the rounds until the authority, or this process, starts anew; its content is
kept, within a bound. One whose signature was refused stays in the rounds: anybody who may publish totals
could have caused that, and it is over when the authority knows the key.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gridhe.aggregator.counters import Counters
from gridhe.aggregator.fold.plans import ActivePlan
from gridhe.aggregator.fold.rows import TotalRow
from gridhe.aggregator.state.totals import Totals
from gridhe.wire import topics
from gridhe.wire.receipt import TRANSIENT_TOTAL_REASONS, TotalReceipt
from gridhe.wire.signing import SigningKey
from gridhe.wire.total import TotalKey, seal_total

__all__ = ["Delivery", "Outgoing"]

_log = logging.getLogger(__name__)

_REFUSED_MAX = 256  # refused totals whose content is kept: 100 KB each with a ring of 4096


class Outgoing(NamedTuple):
    """A message to publish, QoS 1, not retained."""

    topic: str
    payload: bytes


class Delivery:
    """The closed totals that no receipt has come for. Raises StateError."""

    def __init__(
        self,
        totals: Totals,
        plans: Mapping[str, ActivePlan],
        *,
        aggregator: str,
        key: SigningKey,
        counters: Counters,
    ) -> None:
        self._totals = totals
        self._plans = plans
        self._aggregator = aggregator
        self._key = key
        self._counters = counters
        self._sent: TotalKey | None = None  # where the last round stopped
        self._refused: OrderedDict[TotalKey, str] = OrderedDict()  # with the reason, the oldest first

    def send(self, rows: Iterable[TotalRow]) -> list[Outgoing]:
        """The published form of these parts, signed."""
        outgoing = []
        for row in rows:
            if row.ciphertext is not None:
                key_id = self._plans[row.key.plan].plan.key_id
                header = row.header(key_id=key_id, aggregator=self._aggregator)
                payload = seal_total(header, row.ciphertext, self._key)
                outgoing.append(Outgoing(topics.total(row.key.group), payload))
        self._counters.published += len(outgoing)
        return outgoing

    def send_again(self, limit: int) -> list[Outgoing]:
        """The next round: at most `limit` totals."""
        keys = self.waiting(limit, after=self._sent)
        if keys:
            self._sent = keys[-1]
        return self.send(self._totals.total(key) for key in keys)

    def waiting(self, limit: int, *, after: TotalKey | None = None) -> list[TotalKey]:
        """At most `limit` totals that wait for a receipt: those behind `after`, then from the start."""
        found = self._totals.undelivered(limit + len(self._refused), after=after)
        return [key for key in found if key not in self._refused][:limit]

    @property
    def refused(self) -> Mapping[TotalKey, str]:
        """The totals that the authority has refused, with its reasons."""
        return self._refused

    def offer_all(self) -> None:
        """The authority has started anew: it may take what it refused before."""
        self._refused.clear()

    def take_receipt(self, receipt: TotalReceipt) -> int:
        """Forget what is stored, leave out what is refused; how many totals are delivered by it."""
        stored = [TotalKey(*each) for each in receipt.stored]
        delivered = self._totals.forget(stored)
        self._counters.delivered += delivered
        for key in stored:
            self._refused.pop(key, None)
        for plan, group, window, part, reason in receipt.refused:
            self._counters.refused[reason] += 1
            key = TotalKey(plan, group, window, part)
            if key in self._refused or not self._totals.is_waiting(key):
                continue
            for_now = reason in TRANSIENT_TOTAL_REASONS
            if not for_now:
                self._refused[key] = reason[:80]
            if not for_now or self._counters.refused[reason] == 1:  # else with every round
                _log.warning(
                    "the authority refused a total",
                    extra={"group": group, "window": window, "part": part, "reason": reason[:80]},
                )
        surplus = len(self._refused) - _REFUSED_MAX
        if surplus > 0:
            self._drop([self._refused.popitem(last=False)[0] for _ in range(surplus)])
        return delivered

    def _drop(self, keys: list[TotalKey]) -> None:
        """Forget the oldest of too many refused totals."""
        self._counters.dropped += self._totals.forget(keys)
        for key in keys:
            _log.warning("a refused total is dropped", extra={"group": key.group, "window": key.window})
