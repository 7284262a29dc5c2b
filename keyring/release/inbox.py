"""The inbox: totals that arrived, stored until they are released. One SQLite file, WAL, synchronous=FULL.

A total's receipt follows its verdict, state `released` or `refused`. A total that arrives again is not stored
again, and its state says which receipt it gets. When a total is released its bytes are deleted; the answer
has the integers. A refused total keeps its bytes, because a later plan may allow it. A file outside the
database holds a second transaction count (gridhe.base.sqlite), so that a damaged log is detected. The
ledger's head is stored with each change of state, so that a ledger older than the inbox is detected
(gridhe.keyring.release.consistency).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gridhe.base.sqlite import SqliteDatabase
from gridhe.keyring.release.ledger import START, Head
from gridhe.plan.names import ROOT_GROUP
from gridhe.wire.total import Total, TotalHeader, TotalKey, open_total

__all__ = ["Inbox", "StoredTotal"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS totals (
    digest BLOB PRIMARY KEY, plan TEXT NOT NULL, win INTEGER NOT NULL, grp TEXT NOT NULL, part INTEGER NOT
    NULL, depth INTEGER NOT NULL, meters INTEGER NOT NULL, payload BLOB NOT NULL, received TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting', rule TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_place ON totals (win, depth, grp, part);
CREATE TABLE IF NOT EXISTS head (id INTEGER PRIMARY KEY CHECK (id = 1), count INTEGER NOT NULL, hash TEXT
NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTotal:
    """A stored total without its bytes. `state` is waiting, released or refused; `rule` refused it."""

    digest: bytes
    plan: str
    window: int
    group: str
    part: int
    meters: int
    state: str
    rule: str
    message: str

    @property
    def total(self) -> TotalKey:
        """The key of this total."""
        return TotalKey(self.plan, self.group, self.window, self.part)


class Inbox:
    """The inbox's database. Raises StateError if it is damaged or the disk fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = SqliteDatabase(path, _SCHEMA, commits=path.with_suffix(".commits"))

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @property
    def commits(self) -> int:
        """The number of committed transactions."""
        rows = self._db.query("SELECT count FROM commits")
        return int(rows[0][0]) if rows else 0

    def head(self) -> Head:
        """The ledger's head at the last change of a total's state."""
        rows = self._db.query("SELECT count, hash FROM head")
        return Head(*rows[0]) if rows else START

    def begin_after(self, commits: int) -> None:
        """Start the transaction count at `commits`, the count of the lost inbox that this one replaces."""
        with self._db.transaction():
            self._db.write("INSERT OR REPLACE INTO commits VALUES (1, ?)", commits)

    def store(self, totals: Iterable[tuple[TotalHeader, bytes]], received: str) -> int:
        """Store (header, payload) pairs, on the disk when this returns; return how many are new."""
        rows = [
            (
                hashlib.sha256(payload).digest(),
                header.plan,
                header.window,
                header.group,
                header.part,
                _depth(header.group),
                header.meters,
                payload,
                received,
            )
            for header, payload in totals
        ]
        with self._db.transaction():
            return self._db.write_many(
                "INSERT OR IGNORE INTO totals"
                " (digest, plan, win, grp, part, depth, meters, payload, received)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def totals(self, *, states: tuple[str, ...] = ("waiting",)) -> list[StoredTotal]:
        """Stored totals in the order of release: by window, narrowest group first, name and part.

        A wider total names pieces that were opened, so they come first. That blocks no wider group: a part
        that is too small for a total of its own comes inside a wider total only together with others, at
        least the minimum in all (gridhe.aggregator.fold.closing), so the wider total minus the opened parts
        never isolates it.
        """
        marks = ",".join("?" * len(states))
        query = (
            f"SELECT digest, plan, win, grp, part, meters, state, rule, message FROM totals "  # noqa: S608
            f"WHERE state IN ({marks}) ORDER BY win, depth DESC, grp, part, digest"
        )
        rows = self._db.query(query, *states)
        names = ("digest", "plan", "window", "group", "part", "meters", "state", "rule", "message")
        return [StoredTotal(**dict(zip(names, row, strict=True))) for row in rows]

    def total(self, digest: bytes) -> Total:
        """The total with its bytes. Raises StateError if they are damaged."""
        rows = self._db.query("SELECT payload FROM totals WHERE digest = ?", digest)
        payload = rows[0][0] if rows else b""
        if hashlib.sha256(payload).digest() != digest:
            raise self._db.damaged("a stored total is not the one that was received")
        return open_total(payload, len(payload))

    def verdict(self, digest: bytes) -> tuple[str, str]:
        """State and rule of a total; ("waiting", "") if it is not stored."""
        rows = self._db.query("SELECT state, rule FROM totals WHERE digest = ?", digest)
        return (rows[0][0], rows[0][1]) if rows else ("waiting", "")

    def released(self) -> list[TotalKey]:
        """The keys of all totals in state released."""
        rows = self._db.query("SELECT plan, grp, win, part FROM totals WHERE state = 'released'")
        return [TotalKey(*row) for row in rows]

    def retry(self, rule: str) -> None:
        """Set the totals that this rule refused back to waiting."""
        with self._db.transaction():
            self._db.write(
                "UPDATE totals SET state = 'waiting', rule = '', message = '' WHERE state = 'refused' AND"
                " rule = ?",
                rule,
            )

    def mark(self, digest: bytes, state: str, head: Head, *, rule: str = "", message: str = "") -> None:
        """Set a total's state and store the ledger's head; delete the bytes of a released total."""
        with self._db.transaction():
            self._db.write("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", head.count, head.hash)
            self._db.write(
                "UPDATE totals SET state = ?, rule = ?, message = ?,"
                " payload = CASE WHEN ? = 'released' THEN x'' ELSE payload END WHERE digest = ?",
                state,
                rule,
                message,
                state,
                digest,
            )


def _depth(group: str) -> int:
    """0 for the grid, 1 for a region, and so on."""
    return 0 if group == ROOT_GROUP else group.count("/") + 1
