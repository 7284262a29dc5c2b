"""The inbox: totals that arrived, kept until they are released. One SQLite file, WAL, synchronous=FULL.

A total is stored before it is receipted, so the aggregator may forget it. Of a released total only
its name stays; the answer has the numbers. A refused total keeps its bytes, because a later plan may allow
it. Transactions are counted a second time, in a file outside the database (gridhe.base.sqlite), so that a
damaged log is noticed. With each fate the ledger's head is kept too, so that a ledger older than the inbox is
noticed (gridhe.keyring.release.consistency).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gridhe.base.sqlite import SqliteDatabase
from gridhe.keyring.release.ledger import START, Head
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
    """A stored total's name and fate: `state` is waiting, released or refused."""

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
        """Which total this is."""
        return TotalKey(self.plan, self.group, self.window, self.part)


class Inbox:
    """The inbox's database. Raises StateError when it is damaged or the disk refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = SqliteDatabase(path, _SCHEMA, commits=path.with_suffix(".commits"))

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @property
    def commits(self) -> int:
        """How many transactions it has committed."""
        rows = self._db.query("SELECT count FROM commits")
        return int(rows[0][0]) if rows else 0

    def head(self) -> Head:
        """The ledger's head when a total's fate was last noted."""
        rows = self._db.query("SELECT count, hash FROM head")
        return Head(*rows[0]) if rows else START

    def begin_after(self, commits: int) -> None:
        """Take the place of a lost inbox that had so many transactions."""
        with self._db.transaction():
            self._db.write("INSERT OR REPLACE INTO commits VALUES (1, ?)", commits)

    def store(self, totals: Iterable[tuple[TotalHeader, bytes]], received: str) -> int:
        """Keep (header, payload) pairs, on the disk when this returns; how many are new."""
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

    def letters(self, *, states: tuple[str, ...] = ("waiting",)) -> list[StoredTotal]:
        """Stored totals in the order to release them: by window, widest group first, name and part.

        Widest first, because a feeder too small to be released otherwise costs its region and the whole
        grid (they minus the other feeders would be that feeder); so it costs one other feeder.
        """
        marks = ",".join("?" * len(states))
        query = (
            f"SELECT digest, plan, win, grp, part, meters, state, rule, message FROM totals "  # noqa: S608
            f"WHERE state IN ({marks}) ORDER BY win, depth, grp, part, digest"
        )
        rows = self._db.query(query, *states)
        names = ("digest", "plan", "window", "group", "part", "meters", "state", "rule", "message")
        return [StoredTotal(**dict(zip(names, row, strict=True))) for row in rows]

    def total(self, digest: bytes) -> Total:
        """The stored total itself. Raises StateError when its bytes are damaged."""
        rows = self._db.query("SELECT payload FROM totals WHERE digest = ?", digest)
        payload = rows[0][0] if rows else b""
        if hashlib.sha256(payload).digest() != digest:
            raise self._db.damaged("a stored total is not what was received")
        return open_total(payload, len(payload))

    def released(self) -> list[TotalKey]:
        """Every total that is noted as released."""
        rows = self._db.query("SELECT plan, grp, win, part FROM totals WHERE state = 'released'")
        return [TotalKey(*row) for row in rows]

    def mark(self, digest: bytes, state: str, head: Head, *, rule: str = "", message: str = "") -> None:
        """Note a total's fate and the ledger's head; a released one's bytes go."""
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
    return 0 if group == "grid" else group.count("/") + 1
