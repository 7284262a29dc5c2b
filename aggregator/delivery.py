"""Sends totals to the authority: signs each when it is sent, and sends it again until its receipt.

A closed total is stored unsigned, so that it can be signed with the aggregator's present key. The signature
is a deterministic function of key and content, so with the same key the bytes are always the same.

Resending is round-robin: each round takes the next totals in the order of their windows. The verdicts that
`fold.verdicts` names take effect in the next commit. A total refused for any other reason is left out until
the authority or this process restarts; up to `_REFUSED_MAX` of them are stored. A total refused for its
signature stays in the rounds: any user allowed to publish totals could have caused the refusal, and it is
accepted once the authority knows the key.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from gridhe.aggregator.counters import Counters
from gridhe.aggregator.fold.plans import ActivePlan
from gridhe.aggregator.fold.rows import TotalRow
from gridhe.aggregator.fold.verdicts import FINAL, STORED
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
_REASON_MAX = 80
_VERDICTS_MAX = 512  # in one commit: 0.5 ms each with ring 4096

_KEPT = "it is kept, and offered again when the authority restarts; see the authority's log"
_WAYS_OUT = {
    "suspended": "too many totals were unsound: see the authority's alarms, then run gridhe-keyring resume "
    "there; the total is kept and offered again",
    "signature": "enrol this aggregator again if its key has changed; the total is sent again",
    "minimum": "its batches are added to a wider group",
    "coverage": "its batches are added to a wider group",
    "unsound": "the authority's log says who is suspected, if it can tell",
}


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
        self._verdicts: dict[TotalKey, str] = {}  # since the last commit

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
        """At most `limit` totals without a verdict: those after `after`, then from the start."""
        answered = self._refused.keys() | self._verdicts.keys()
        keys = self._totals.undelivered(limit + len(answered), after=after)
        return [key for key in keys if key not in answered][:limit]

    @property
    def refused(self) -> Mapping[TotalKey, str]:
        """The authority's reasons by refused total."""
        return self._refused

    def offer_all(self) -> None:
        """Offer refused totals again: the authority restarted and may accept them now."""
        self._refused.clear()

    def take_receipt(self, receipt: TotalReceipt) -> int:
        """Note verdicts for the next commit, and other refusals. Returns the count of stored totals."""
        stored = 0
        for each in receipt.stored:
            key = TotalKey(*each)
            stored += self._note(key, STORED)
            self._refused.pop(key, None)
        for plan, group, window, part, reason in receipt.refused:
            key = TotalKey(plan, group, window, part)
            self._counters.refused[reason[:_REASON_MAX]] += 1
            if reason in FINAL and reason != STORED:
                if self._note(key, reason):
                    self._warn(key, reason)
            elif key not in self._refused and self._totals.is_waiting(key):
                self.refuse(key, reason[:_REASON_MAX])
        return stored

    def _note(self, key: TotalKey, verdict: str) -> bool:
        """Note a verdict unless there is one, or the total is not waiting."""
        if key in self._verdicts or not self._totals.is_waiting(key):
            return False
        self._verdicts[key] = verdict
        return True

    def refuse(self, key: TotalKey, reason: str) -> None:
        """Leave out a refused total, unless the reason can pass."""
        transient = reason in TRANSIENT_TOTAL_REASONS
        if not transient or self._counters.refused[reason] == 1:  # not again in every round
            self._warn(key, reason)
        if not transient:
            self._refused[key] = reason
        if len(self._refused) > _REFUSED_MAX:
            self._drop([self._refused.popitem(last=False)[0]])

    def _warn(self, key: TotalKey, reason: str) -> None:
        _log.warning(
            "the authority refused a total",
            extra={
                "group": key.group,
                "window": key.window,
                "part": key.part,
                "reason": reason,
                "what_to_do": _WAYS_OUT.get(reason, _KEPT),
            },
        )

    def verdicts(self) -> dict[TotalKey, str]:
        """The next verdicts to take effect."""
        return dict(islice(self._verdicts.items(), _VERDICTS_MAX))

    def applied(self, verdicts: Mapping[TotalKey, str], kept: Iterable[TotalKey]) -> None:
        """Call when the transaction with these verdicts is durable; `kept` totals stay as they are."""
        for key, verdict in verdicts.items():
            del self._verdicts[key]
            self._counters.delivered += verdict == STORED
        for key in kept:
            self.refuse(key, verdicts[key])

    def _drop(self, keys: list[TotalKey]) -> None:
        """Delete the content of the oldest refused totals beyond the bound."""
        self._counters.dropped += self._totals.drop_content(keys)
        for key in keys:
            _log.warning("a refused total is dropped", extra={"group": key.group, "window": key.window})
