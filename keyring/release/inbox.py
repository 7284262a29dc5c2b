"""The inbox: totals that arrived, kept until they are released. One SQLite file, WAL, synchronous=FULL.

A total is stored before it is receipted, so the aggregator may forget it. Of a released total only
its name stays; the answer has the numbers. A refused total keeps its bytes, because a later plan may allow
it. Transactions are counted a second time, in a file outside the database (gridhe.base.commit_count), so that
a damaged log is noticed.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gridhe.base.commit_count import CommitCount
from gridhe.base.files import write_private
from gridhe.errors import StateError
from gridhe.wire.total import Total, TotalHeader, open_total

__all__ = ["Inbox", "StoredTotal"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS totals (
    digest BLOB PRIMARY KEY, plan TEXT NOT NULL, win INTEGER NOT NULL, grp TEXT NOT NULL, part INTEGER NOT
    NULL, depth INTEGER NOT NULL, meters INTEGER NOT NULL, payload BLOB NOT NULL, received TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting', rule TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_place ON totals (win, depth, grp, part);
CREATE TABLE IF NOT EXISTS commits (id INTEGER PRIMARY KEY CHECK (id = 1), count INTEGER NOT NULL);
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


class Inbox:
    """The inbox's database. Raises StateError when it is damaged or the disk refuses."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            write_private(path, b"")
        self.path = path
        with self._state_errors():
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + _SCHEMA)
        self._count = CommitCount(path.with_suffix(".commits"))
        try:
            with self._state_errors():
                self._db.execute("BEGIN IMMEDIATE")  # nobody commits between the two looks
                self._count.check(self._commits())
                self._db.execute("ROLLBACK")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._db.close()
        self._count.close()

    def _commits(self) -> int:
        with self._state_errors():
            row = self._db.execute("SELECT count FROM commits").fetchone()
        return 0 if row is None else int(row[0])

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
        with self._transaction():
            before = self._db.total_changes
            self._db.executemany(
                "INSERT OR IGNORE INTO totals"
                " (digest, plan, win, grp, part, depth, meters, payload, received)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            return self._db.total_changes - before

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
        with self._state_errors():
            rows = self._db.execute(query, states).fetchall()
        names = ("digest", "plan", "window", "group", "part", "meters", "state", "rule", "message")
        return [StoredTotal(**dict(zip(names, row, strict=True))) for row in rows]

    def total(self, digest: bytes) -> Total:
        """The stored total itself. Raises StateError when its bytes are damaged."""
        with self._state_errors():
            row = self._db.execute("SELECT payload FROM totals WHERE digest = ?", (digest,)).fetchone()
        if row is None or hashlib.sha256(row[0]).digest() != digest:
            raise StateError(f"{self.path}: a stored total is damaged; restore it from a backup")
        return open_total(row[0], len(row[0]))

    def mark(self, digest: bytes, state: str, *, rule: str = "", message: str = "") -> None:
        """Note a total's fate; a released one's bytes go."""
        with self._transaction():
            self._db.execute(
                "UPDATE totals SET state = ?, rule = ?, message = ?,"
                " payload = CASE WHEN ? = 'released' THEN x'' ELSE payload END WHERE digest = ?",
                (state, rule, message, state, digest),
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, counted, and on the disk when it returns."""
        with self._state_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                count = self._commits() + 1
                self._db.execute("INSERT OR REPLACE INTO commits VALUES (1, ?)", (count,))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has rolled back already
                    self._db.execute("ROLLBACK")
                raise
        self._count.keep(count)

    @contextmanager
    def _state_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StateError(f"{self.path}: {error}; is the disk full, or the file damaged?") from None


def _depth(group: str) -> int:
    """0 for the grid, 1 for a region, and so on."""
    return 0 if group == "grid" else group.count("/") + 1
