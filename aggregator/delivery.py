"""Sends totals to the authority: signs each when it is sent, and sends it again until its receipt.

A closed total is stored unsigned, so that it can be signed with the aggregator's present key. The signature
is a deterministic function of key and content, so with the same key the bytes are always the same.

Resending is round-robin: each round takes the next totals in the order of their windows. A total that the
authority refuses is left out until the authority or this process restarts; up to `_REFUSED_MAX` of them are
stored. A total refused for its signature stays in the rounds: any user allowed to publish totals could have
caused the refusal, and it is accepted once the authority knows the key.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gridhe.aggregator.counters import Counters
from gridhe.aggregator.fold.plans import ActivePlan
from gridhe.aggregator.fold.rows import TotalRow
from gridhe.aggregator.state.lists import MemberLists
from gridhe.aggregator.state.totals import Totals
from gridhe.errors import EnvelopeError
from gridhe.wire import topics
from gridhe.wire.receipt import TRANSIENT_TOTAL_REASONS, TotalReceipt
from gridhe.wire.signing import SigningKey
from gridhe.wire.total import Piece, TotalHeader, TotalKey, seal_total

__all__ = ["Delivery", "Outgoing"]

_log = logging.getLogger(__name__)

_REFUSED_MAX = 256  # stored refused totals: 100 KB each with ring 4096


class Outgoing(NamedTuple):
    """A message to publish, QoS 1, not retained."""

    topic: str
    payload: bytes


class Delivery:
    """The closed totals without a receipt. Raises StateError."""

    def __init__(
        self,
        totals: Totals,
        plans: Mapping[str, ActivePlan],
        lists: MemberLists,
        *,
        aggregator: str,
        key: SigningKey,
        counters: Counters,
    ) -> None:
        self._totals = totals
        self._plans = plans
        self._lists = lists
        self._aggregator = aggregator
        self._key = key
        self._counters = counters
        self._sent: TotalKey | None = None  # the last key of the last round
        self._refused: OrderedDict[TotalKey, str] = OrderedDict()  # reason by key, oldest first

    def send(self, rows: Iterable[TotalRow]) -> list[Outgoing]:
        """The signed messages that publish these parts."""
        outgoing = []
        for row in rows:
            if row.ciphertext is None:
                continue
            try:
                header = self._header(row)
            except EnvelopeError as error:
                _log.error(
                    "a total is not sent",
                    extra={"group": row.key.group, "window": row.key.window, "why": str(error)},
                )
                continue
            payload = seal_total(header, row.ciphertext, self._key)
            outgoing.append(Outgoing(topics.total(row.key.group), payload))
        self._counters.published += len(outgoing)
        return outgoing

    def _header(self, row: TotalRow) -> TotalHeader:
        """The header of a published part: the same each time under the same roster."""
        plan, group, window, part = row.key
        pieces = tuple(
            Piece(
                piece.group,
                piece.part,
                piece.meters,
                self._lists.of(TotalKey(plan, piece.group, window, piece.part)) if piece.listed else None,
            )
            for piece in sorted(row.all_pieces())
        )
        return TotalHeader(
            plan=plan,
            key=self._plans[plan].plan.key_id,
            aggregator=self._aggregator,
            group=group,
            window=window,
            part=part,
            meters=row.meters,
            roster=self._lists.version,
            pieces=pieces,
        )

    def send_again(self, limit: int) -> list[Outgoing]:
        """The next round: at most `limit` totals."""
        keys = self.waiting(limit, after=self._sent)
        if keys:
            self._sent = keys[-1]
        return self.send(self._totals.total(key) for key in keys)

    def waiting(self, limit: int, *, after: TotalKey | None = None) -> list[TotalKey]:
        """At most `limit` totals without a receipt or refusal: those after `after`, then from the start."""
        keys = self._totals.undelivered(limit + len(self._refused), after=after)
        return [key for key in keys if key not in self._refused][:limit]

    @property
    def refused(self) -> Mapping[TotalKey, str]:
        """The authority's reasons by refused total."""
        return self._refused

    def offer_all(self) -> None:
        """Offer refused totals again: the authority restarted and may accept them now."""
        self._refused.clear()

    def take_receipt(self, receipt: TotalReceipt) -> int:
        """Delete the content of stored totals and note refused ones. Returns the count of stored ones."""
        stored = [TotalKey(*each) for each in receipt.stored]
        delivered = self._totals.drop_content(stored)
        self._counters.delivered += delivered
        for key in stored:
            self._refused.pop(key, None)
        for plan, group, window, part, reason in receipt.refused:
            self._counters.refused[reason] += 1
            key = TotalKey(plan, group, window, part)
            if key in self._refused or not self._totals.is_waiting(key):
                continue
            transient = reason in TRANSIENT_TOTAL_REASONS
            if not transient:
                self._refused[key] = reason[:80]
            if not transient or self._counters.refused[reason] == 1:  # not again in every round
                _log.warning(
                    "the authority refused a total",
                    extra={"group": group, "window": window, "part": part, "reason": reason[:80]},
                )
        surplus = len(self._refused) - _REFUSED_MAX
        if surplus > 0:
            self._drop([self._refused.popitem(last=False)[0] for _ in range(surplus)])
        return delivered

    def _drop(self, keys: list[TotalKey]) -> None:
        """Delete the content of the oldest refused totals beyond the bound."""
        self._counters.dropped += self._totals.drop_content(keys)
        for key in keys:
            _log.warning("a refused total is dropped", extra={"group": key.group, "window": key.window})
