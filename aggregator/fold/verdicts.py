"""The authority's verdicts on published totals, and what each does to the part.

    stored              its pieces are added to the wider group, which names them without their lists
    minimum, coverage   a leaf part is treated as one too small to be published: it joins a rest of the wider
                        group and brings its list. A roll-up is added to the wider group, with the same lists:
                        what it holds beyond opened totals is enough for the plan, and in a rest it would pass
                        for the meters that another part lacks
    unsound             its strands are published as parts of their own, merged so that each has enough
                        meters. A part without strands (or a strand) is given up: its meters stay counted,
                        and are in no other total

Each of these deletes the part's ciphertexts, in the same transaction. So a verdict takes effect once: a crash
before the transaction is durable leaves the total waiting, and it is sent and answered again.
"""

import logging
from collections.abc import Mapping
from itertools import chain

from gridhe.aggregator.counters import Counters
from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.aggregator.fold.closing import Closing
from gridhe.aggregator.fold.plans import ActivePlan
from gridhe.aggregator.fold.rows import Member, MemberStore, PartStore, StrandStore, TotalRow
from gridhe.aggregator.fold.strands import merged
from gridhe.base.failpoints import failpoint
from gridhe.wire.total import TotalKey

__all__ = ["FINAL", "STORED", "Verdicts"]

_log = logging.getLogger(__name__)

STORED, UNSOUND = "stored", "unsound"
_TOO_SMALL = frozenset({"minimum", "coverage"})
FINAL = frozenset({STORED, UNSOUND, *_TOO_SMALL})  # other refusals leave the total as it is


class Verdicts:
    """Carries out verdicts, inside the commit's transaction."""

    def __init__(
        self,
        *,
        closing: Closing,
        store: PartStore,
        strands: StrandStore,
        members: MemberStore,
        plans: Mapping[str, ActivePlan],
        counters: Counters,
    ) -> None:
        self._closing = closing
        self._store = store
        self._strands = strands
        self._members = members
        self._plans = plans
        self._counters = counters

    def apply(self, verdicts: Mapping[TotalKey, str], now: float) -> list[TotalKey]:
        """Apply final verdicts. Returns the totals that stay as they are: too small, and no wider group."""
        kept = []
        for key, verdict in sorted(verdicts.items()):
            if not self._store.is_waiting(key):
                continue
            row = self._store.total(key)
            wider = self._closing.wider((key.plan, key.group, key.window))
            if verdict in _TOO_SMALL and wider is None:
                kept.append(key)
                continue
            if verdict == UNSOUND:
                if self._split(row):
                    continue
                self._give_up(row)
            elif wider is not None:
                if verdict == STORED:
                    self._closing.add_to_part(row.opened(), wider, now)
                elif row.pieces:
                    self._closing.add_to_part(row, wider, now)
                else:
                    self._closing.add_to_rest(row, wider, now)
            self._store.drop(row)
            self._closing.judged(key)
        return kept

    def _split(self, row: TotalRow) -> bool:
        """Publish the strands of a part in its place. Returns False if it has none, or if all are one set."""
        key, active = row.key, self._plans[row.key.plan]
        sizes = self._strands.meters(key, row.meters) if row.strands > 1 else []
        sets = merged(sizes, active.plan.minimum_meters)
        if len(sets) < 2:
            return False
        members, first = self._members.by_strand(key, sizes), self._store.next_part(*key[:3])
        parts: dict[TotalKey, list[Member]] = {}
        self._closing.judged(key)
        for number, strands in enumerate(sets, first):
            total = Accumulator(active.planes)
            for strand in strands:
                total.fold(active.planes.views(self._strands.ciphertext(key, strand)))
            part = TotalRow(
                key=TotalKey(key.plan, key.group, key.window, number),
                closed=True,
                meters=sum(sizes[strand] for strand in strands),
                first_at=row.first_at,
                pieces=(),
                ciphertext=total.pack(),
            )
            parts[part.key] = list(chain.from_iterable(members[strand] for strand in strands))
            self._store.save(part)
            self._closing.publish(part)
            failpoint("commit.1.strand")
        self._members.move(key, parts)
        # The next part's number does not depend on this row: its strands have greater ones.
        self._store.delete(key)
        self._strands.delete(key)
        self._counters.strands += len(sets)
        _log.warning(
            "unsound: the part is sent again in strands",
            extra={
                "group": key.group,
                "window": key.window,
                "part": key.part,
                "meters": row.meters,
                "strands": len(sets),
            },
        )
        return True

    def _give_up(self, row: TotalRow) -> None:
        self._counters.unsound_parts += 1
        self._counters.unsound_batches += row.meters
        _log.error(
            "given up: the authority refused this total as unsound, its batches are in no total",
            extra={
                "group": row.key.group,
                "window": row.key.window,
                "part": row.key.part,
                "meters": row.meters,
                "what_to_do": "see `unsound` in the authority's log and ledger",
            },
        )
