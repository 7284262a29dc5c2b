"""The authority's verdicts on published totals, and what each does to the part.

    stored              its pieces are added to the wider group, which names them without their lists
    minimum, coverage   a leaf part is treated as one too small to be published: it joins a rest of the wider
                        group and brings its list. A roll-up is added to the wider group, with the same lists:
                        what it holds beyond opened totals is enough for the plan, and in a rest it would pass
                        for the meters that another part lacks
    unsound             given up: its meters stay counted, and are in no other total

Each of these deletes the part's ciphertext, in the same transaction. So a verdict takes effect once: a crash
before the transaction is durable leaves the total waiting, and it is sent and answered again.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from gridhe.aggregator.counters import Counters
from gridhe.aggregator.fold.closing import Closing
from gridhe.aggregator.fold.rows import PartStore, TotalRow
from gridhe.wire.total import TotalKey

__all__ = ["FINAL", "STORED", "Verdicts"]

_log = logging.getLogger(__name__)

STORED, UNSOUND = "stored", "unsound"
_TOO_SMALL = frozenset({"minimum", "coverage"})
FINAL = frozenset({STORED, UNSOUND, *_TOO_SMALL})  # other refusals leave the total as it is


class Verdicts:
    """Carries out verdicts, inside the commit's transaction."""

    def __init__(self, *, closing: Closing, store: PartStore, counters: Counters) -> None:
        self._closing = closing
        self._store = store
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
                self._give_up(row)
            elif wider is not None:
                if verdict == STORED:
                    self._closing.add_to_part(row.opened(), wider, now)
                elif row.pieces:
                    self._closing.add_to_part(row, wider, now)
                else:
                    self._closing.add_to_rest(row, wider, now)
            self._store.save(replace(row, ciphertext=None))
            self._closing.judged(key)
        return kept

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
