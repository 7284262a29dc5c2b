"""Stores the parts."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import msgpack

from gridhe.aggregator.fold.rows import PieceRef, TotalRow
from gridhe.aggregator.state.database import Database
from gridhe.aggregator.state.strands import Strands
from gridhe.wire.total import TotalKey

__all__ = ["Totals"]

_PRUNED = "pruned_before"
_WAITING = "closed = 1 AND ciphertext IS NOT NULL"  # as in the index totals_undelivered


def _columns(row: TotalRow) -> tuple[object, ...]:
    return (row.closed, row.meters, row.first_at, msgpack.packb(row.pieces), row.strands)


def _checksum(row: TotalRow) -> bytes:
    """The first 16 bytes of SHA-256 over the key and all columns.

    It runs over every total of every commit; with processor support SHA-256 is the fastest hash.
    """
    ciphertext = row.ciphertext
    size = None if ciphertext is None else len(ciphertext)
    digest = hashlib.sha256(msgpack.packb((*row.key, *_columns(row), size)))
    digest.update(ciphertext or b"")
    return digest.digest()[:16]


class Totals:
    """The table of totals. Raises StateError."""

    def __init__(self, database: Database, strands: Strands) -> None:
        self._db = database
        self._strands = strands
        stored = database.meta(_PRUNED)
        # Per plan, the first window whose counted meters are known. It is stored and never decreases.
        self.pruned_before: dict[str, int] = msgpack.unpackb(stored) if stored else {}

    def save(self, row: TotalRow) -> None:
        """Store a part; inside a transaction."""
        self._db.write(
            "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (plan, window, grp, part) DO UPDATE SET closed = excluded.closed, "
            "meters = excluded.meters, first_at = excluded.first_at, "
            "pieces = excluded.pieces, strands = excluded.strands, ciphertext = excluded.ciphertext, "
            "checksum = excluded.checksum",
            *row.key,
            *_columns(row),
            row.ciphertext,
            _checksum(row),
        )

    def total(self, key: TotalKey) -> TotalRow:
        """A part. Raises StateError if it is missing or fails its checksum."""
        rows = self._db.query(
            "SELECT closed, meters, first_at, pieces, strands, ciphertext, checksum FROM totals "
            "WHERE plan = ? AND grp = ? AND window = ? AND part = ?",
            *key,
        )
        if not rows:
            raise self._db.damaged(f"{key} is missing")
        return self._row(key, rows[0])

    def _row(self, key: TotalKey, columns: tuple[Any, ...]) -> TotalRow:
        closed, meters, first_at, pieces, strands, ciphertext, checksum = columns
        damaged = self._db.damaged(f"part {key.part} of {key.group}, window {key.window} fails its checksum")
        try:
            row = TotalRow(
                key=key,
                closed=bool(closed),
                meters=meters,
                first_at=first_at,
                pieces=tuple(PieceRef(*piece) for piece in msgpack.unpackb(pieces)),
                strands=strands,
                ciphertext=ciphertext,
            )
            intact = _checksum(row) == checksum
        except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException):
            raise damaged from None
        if not intact:
            raise damaged
        return row

    def open_totals(self) -> Iterator[TotalRow]:
        """The open parts."""
        keys = self._db.query("SELECT plan, grp, window, part FROM totals WHERE closed = 0")
        for key in keys:
            yield self.total(TotalKey(*key))

    def next_part(self, plan: str, group: str, window: int) -> int:
        """The number of the next part of a (group, window)."""
        sql = "SELECT COALESCE(MAX(part) + 1, 0) FROM totals WHERE plan = ? AND grp = ? AND window = ?"
        number: int = self._db.query(sql, plan, group, window)[0][0]
        return number

    def closed_meters(self, plan: str, window: int) -> dict[str, int]:
        """Meters in the closed parts of a window, by group."""
        sql = "SELECT grp, SUM(meters) FROM totals WHERE plan = ? AND window = ? AND closed = 1 GROUP BY grp"
        return dict(self._db.query(sql, plan, window))

    def delete(self, key: TotalKey) -> None:
        """Delete a part that was added to another one; inside a transaction."""
        self._db.write("DELETE FROM totals WHERE plan = ? AND grp = ? AND window = ? AND part = ?", *key)

    def drop(self, row: TotalRow) -> None:
        """Delete the ciphertexts of a closed part, which stays on record; inside a transaction."""
        self.save(replace(row, ciphertext=None, strands=1))
        if row.strands > 1:
            self._strands.delete(row.key)

    def undelivered(self, limit: int, *, after: TotalKey | None = None) -> list[TotalKey]:
        """At most `limit` closed totals without a receipt: those after `after`, then from the start.

        Ordered by window, oldest first.
        """
        sql = f"SELECT plan, grp, window, part FROM totals WHERE {_WAITING}"  # noqa: S608 - a constant
        order = "ORDER BY window, grp, part, plan LIMIT ?"
        if after is None:
            rows = self._db.query(f"{sql} {order}", limit)
        else:
            place = after.window, after.group, after.part, after.plan
            here = "(window, grp, part, plan)"
            rows = self._db.query(f"{sql} AND {here} > (?, ?, ?, ?) {order}", *place, limit)
            rows += self._db.query(f"{sql} AND {here} <= (?, ?, ?, ?) {order}", *place, limit - len(rows))
        return [TotalKey(*columns) for columns in rows]

    def undelivered_count(self) -> int:
        """Count of closed totals without a receipt."""
        rows = self._db.query(f"SELECT COUNT(*) FROM totals WHERE {_WAITING}")  # noqa: S608 - a constant
        count: int = rows[0][0]
        return count

    def is_waiting(self, key: TotalKey) -> bool:
        """Whether this is a closed total without a receipt."""
        sql = (
            "SELECT 1 FROM totals WHERE plan = ? AND grp = ? AND window = ? AND part = ? "  # noqa: S608
            f"AND {_WAITING}"
        )
        return bool(self._db.query(sql, *key))

    def waiting(self, plan: str, window: int) -> set[TotalKey]:
        """The closed totals of a window without a receipt."""
        sql = f"SELECT plan, grp, window, part FROM totals WHERE plan = ? AND window = ? AND {_WAITING}"  # noqa: S608
        return {TotalKey(*columns) for columns in self._db.query(sql, plan, window)}

    def drop_content(self, keys: Iterable[TotalKey]) -> int:
        """Delete the content of these totals. Returns the count of those that had one. Own transaction."""
        count = 0
        with self._db.transaction():
            for key in keys:
                if self.is_waiting(key):
                    self.drop(self.total(key))
                    count += 1
        return count

    def newest_published(self, plan: str, minimum_meters: int) -> int | None:
        """The newest window with a closed part of at least this many meters; None without any."""
        rows = self._db.query(
            "SELECT window FROM totals WHERE plan = ? AND closed = 1 AND meters >= ? "
            "ORDER BY window DESC LIMIT 1",
            plan,
            minimum_meters,
        )
        return rows[0][0] if rows else None

    def prune(self, plan: str, before_window: int) -> None:
        """Delete the state of earlier windows, and refuse their batches from now on; inside a transaction.

        Windows in which a total waits stay: it needs its members, and a verdict can open a part, which must
        not have the number of a deleted one. The bound is stored too, so that no batch counts twice after a
        step back of the clock.
        """
        if before_window <= self.pruned_before.get(plan, 0):
            return
        self.pruned_before[plan] = before_window
        self._db.set_meta(_PRUNED, msgpack.packb(self.pruned_before))
        for table in ("members", "totals"):
            self._db.write(
                f"DELETE FROM {table} WHERE plan = ? AND window < ? AND window NOT IN "  # noqa: S608
                "(SELECT window FROM totals WHERE plan = ? AND (closed = 0 OR ciphertext IS NOT NULL))",
                plan,
                before_window,
                plan,
            )
