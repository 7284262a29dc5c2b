"""Sealed batches, safe on disk until their receipts: SQLite, one file for a device or a whole fleet.

`commit` is one transaction (WAL, synchronous=FULL). What a crash leaves:

1. before it: nothing of it. The journal of open readings, or the repeatable source, gives the same
   readings again; none of the bytes had left the device, so sealing them anew is no second version.
2. after it: the batch with its bytes, the watermark and the journal without that window, together.
   From now on this window is published with these bytes, or not at all.
3. after a receipt, before the commit that deletes the batch: it is published again, with the same
   bytes; the aggregator answers a duplicate with another receipt.

The watermark (`sealed`: per meter, the end of the last sealed window in UTC epoch seconds) outlives
the batches. A window that ends at or before it is never sealed again.

Every row carries a checksum, and transactions are counted a second time outside the database
(gridhe.base.commit_count): a flipped byte on the disk is a StateError, and never another reading.

When the batch would be next sent is not kept: after a restart everything that waits is sent at once.
"""

import fcntl
import hashlib
import logging
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from gridhe.base.commit_count import CommitCount
from gridhe.base.failpoints import failpoint
from gridhe.base.files import make_private_dir
from gridhe.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridhe.config.settings import MeterSettings

__all__ = ["Committed", "Outbox", "OutboxFull", "SealedBatch", "Settled", "Waiting"]

_LOG = logging.getLogger(__name__)
_VERSION = 2  # 2: checksums
_FILE, _LOCK, _COMMITS = "outbox.sqlite", "lock", "commits"
_CHECK_MAX_BYTES = 128 << 20  # a larger file is not read through at every start
_CACHE_KIB = 2_048
_CHECKSUM_BYTES = 16
_HEX = re.compile(r"[0-9a-f]{32}")
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    meter TEXT NOT NULL,
    plan TEXT NOT NULL,
    window INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'refused')),
    reason TEXT,
    payload BLOB NOT NULL,
    checksum BLOB NOT NULL
);
CREATE UNIQUE INDEX batch ON batches (meter, plan, window);
CREATE INDEX queue ON batches (meter, state, id);
CREATE TABLE sealed (meter TEXT PRIMARY KEY, until_s INTEGER NOT NULL, checksum BLOB NOT NULL)
    WITHOUT ROWID;
CREATE TABLE journal (meter TEXT PRIMARY KEY, state BLOB NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID;
"""


class OutboxFull(StateError):
    """The disk has no room. Nothing was written; the caller keeps what it has and tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBatch:
    """A window's envelope. `until_s` is the window's end, UTC epoch seconds."""

    meter: str
    plan: str
    window: int
    until_s: int
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An aggregator's last word on a batch: committed (`reason` None), or refused for good."""

    meter: str
    plan: str
    window: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A batch that waits for its receipt; `id` rises in the order of sealing."""

    id: int
    plan: str
    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a transaction did."""

    stored: tuple[tuple[str, Waiting], ...]  # by meter
    dropped: tuple[tuple[str, int], ...]  # (meter, id) of batches that had to go: the outbox was full
    repeated: int  # batches of windows that were sealed before: not stored


class Outbox:
    """Use as a context manager, or `close` it. One process at a time; not for threads."""

    def __init__(self, state_dir: Path, *, authority: str, settings: "MeterSettings") -> None:
        """Open or make the outbox of this authority in `state_dir`. Raises StateError."""
        make_private_dir(state_dir)
        self.path = state_dir / _FILE
        self._max = settings.outbox_max_batches
        self._drop_oldest = settings.outbox_when_full == "drop_oldest"
        self._lock = _lock(state_dir)
        self._db: sqlite3.Connection | None = None
        self._count: CommitCount | None = None
        self._commits = 0
        try:
            self._count = CommitCount(state_dir / _COMMITS)
            self._db = self._open(authority)
            # Per meter: batches held here, and how many of them are refused ones.
            held = self._db.execute("SELECT meter, count(*) FROM batches GROUP BY meter")
            self._held: Counter[str] = Counter(dict(held.fetchall()))
            aside = self._db.execute(
                "SELECT meter, count(*) FROM batches WHERE state = 'refused' GROUP BY meter"
            )
            self._aside: Counter[str] = Counter(dict(aside.fetchall()))
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                raise self._explained(error) from None
            raise

    def _open(self, authority: str) -> sqlite3.Connection:
        # Made here and not by SQLite, so that it and its WAL are 0600 whatever the umask is.
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            size = self.path.stat().st_size
        except OSError as error:
            raise StateError(f"cannot open {self.path}: {error.strerror or error}") from None
        db = sqlite3.connect(self.path, isolation_level=None, cached_statements=32)
        self._db = db
        if size == 0:
            db.execute("PRAGMA page_size = 8192")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = FAST")  # the journal holds readings: none in free pages
        db.execute("PRAGMA journal_size_limit = 16777216")
        if 0 < size <= _CHECK_MAX_BYTES:
            found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        fresh = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if self._count is not None:
            kept = None if fresh else db.execute("SELECT value FROM meta WHERE name = 'commits'").fetchone()
            self._commits = int(kept[0]) if kept is not None and str(kept[0]).isdecimal() else 0
            self._count.check(self._commits)
        if fresh:
            with self._transaction():
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                own = (str(_VERSION), authority)
                db.execute("INSERT INTO meta VALUES ('version', ?), ('authority', ?)", own)
        meta = dict(db.execute("SELECT name, value FROM meta").fetchall())
        if meta.get("version") != str(_VERSION):
            raise StateError(f"{self.path} is of version {meta.get('version')}, this program's is {_VERSION}")
        if meta.get("authority") != authority:
            raise StateError(
                f"{self.path} belongs to authority {meta.get('authority')}, the credential to {authority}: "
                "use another --state-dir"
            )
        return db

    def _explained(self, error: sqlite3.Error) -> StateError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            return OutboxFull(f"no room on the disk for {self.path}: free some space")
        if isinstance(error, sqlite3.OperationalError):
            return StateError(f"cannot use {self.path}: {error}; check the disk, and who may write there")
        return StateError(
            f"{self.path} is damaged ({error}): move it away and start again; batches in it that have no "
            "receipt yet are lost, unless the source can give their readings again"
        )

    @contextmanager
    def _transaction(self) -> "Iterator[sqlite3.Connection]":
        db = self._connection
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            count = self._commits + 1
            db.execute("INSERT OR REPLACE INTO meta VALUES ('commits', ?)", (str(count),))
            failpoint("meter.3.written")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._commits = count
        if self._count is not None:
            self._count.keep(count)

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StateError(f"{self.path} is closed")
        return self._db

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._explained(error) from None

    def _checked(self, *row: Any) -> tuple[Any, ...]:
        """A row without its last column, which must be the others' checksum."""
        *values, checksum = row
        if _checksum(*values) != checksum:
            raise self._explained(sqlite3.DatabaseError("a row fails its checksum"))
        return tuple(values)

    # -- reading -------------------------------------------------------------------------------

    def waiting(self, meter: str, *, after: int = 0, limit: int = 1_000) -> list[Waiting]:
        """A meter's batches that wait for a receipt, oldest first, with ids above `after`."""
        rows = self._rows(
            "SELECT id, plan, window FROM batches WHERE meter = ? AND state = 'waiting' AND id > ? "
            "ORDER BY id LIMIT ?",
            meter,
            after,
            limit,
        )
        return [Waiting(id=id_, plan=plan, window=window) for id_, plan, window in rows]

    def payload(self, id_: int) -> bytes | None:
        """A batch's bytes; None when it is gone."""
        rows = self._rows("SELECT meter, plan, window, payload, checksum FROM batches WHERE id = ?", id_)
        return bytes(self._checked(*rows[0])[-1]) if rows else None

    def sealed_until_s(self) -> dict[str, int]:
        """Per meter: the end of its last sealed window."""
        rows = self._rows("SELECT meter, until_s, checksum FROM sealed")
        return {str(meter): int(until_s) for meter, until_s in (self._checked(*row) for row in rows)}

    def journal(self, meter: str) -> bytes | None:
        """The meter's open readings as last committed."""
        rows = self._rows("SELECT meter, state, checksum FROM journal WHERE meter = ?", meter)
        return bytes(self._checked(*rows[0])[-1]) if rows else None

    def backlog(self, meter: str) -> int:
        """How many of a meter's batches wait for a receipt."""
        return self._held[meter] - self._aside[meter]

    def meters(self) -> set[str]:
        """The meters that have batches here."""
        return {meter for meter, count in self._held.items() if count}

    def refused(self, meter: str) -> list[tuple[int, str]]:
        """A meter's refused batches: (window, reason)."""
        return self._rows(
            "SELECT window, reason FROM batches WHERE meter = ? AND state = 'refused' ORDER BY id", meter
        )

    def note(self, name: str) -> str | None:
        """A remark kept with the outbox (where a simulation started, say)."""
        rows = self._rows("SELECT value FROM meta WHERE name = ?", f"note:{name}")
        if not rows:
            return None
        value, _, checksum = str(rows[0][0]).rpartition(" ")
        self._checked(name, value, bytes.fromhex(checksum) if _HEX.fullmatch(checksum) else b"")
        return value

    # -- writing -------------------------------------------------------------------------------

    def set_note(self, name: str, value: str) -> None:
        """Keep a remark."""
        try:
            with self._transaction() as db:
                marked = f"{value} {_checksum(name, value).hex()}"
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"note:{name}", marked))
        except sqlite3.Error as error:
            raise self._explained(error) from None

    def commit(
        self,
        *,
        sealed: Sequence[SealedBatch] = (),
        settled: Iterable[Settled] = (),
        journals: Mapping[str, bytes] | None = None,
    ) -> Committed:
        """All of it or nothing, durable when this returns.

        Raises OutboxFull when the disk has no room (nothing was written: call again with the same), and
        StateError for what no retry mends.
        """
        stored: list[tuple[str, Waiting]] = []
        dropped: list[tuple[str, int]] = []
        held, aside = self._held.copy(), self._aside.copy()  # put back if the transaction fails
        repeated = 0
        try:
            with self._transaction() as db:
                for word in settled:
                    self._settle(db, word)
                for batch in sealed:
                    kept = self._store(db, batch, dropped)
                    if kept is None:
                        repeated += 1
                    elif kept.id:
                        stored.append((batch.meter, kept))
                for meter, state in (journals or {}).items():
                    checksum = _checksum(meter, state)
                    db.execute("INSERT OR REPLACE INTO journal VALUES (?, ?, ?)", (meter, state, checksum))
        except sqlite3.Error as error:
            self._held, self._aside = held, aside
            raise self._explained(error) from None
        if dropped:
            oldest = "oldest" if self._drop_oldest else "newest"
            _LOG.warning(
                "the outbox is full (meter.outbox_max_batches %d): dropped %d batches, %s first",
                self._max,
                len(dropped),
                oldest,
            )
        gone = set(dropped)
        left = tuple((meter, kept) for meter, kept in stored if (meter, kept.id) not in gone)
        return Committed(stored=left, dropped=tuple(dropped), repeated=repeated)

    def _settle(self, db: sqlite3.Connection, word: Settled) -> None:
        where = (word.meter, word.plan, word.window)
        if word.reason is None:
            was = db.execute(
                "DELETE FROM batches WHERE meter = ? AND plan = ? AND window = ? RETURNING state", where
            ).fetchall()
            self._held[word.meter] -= len(was)
            self._aside[word.meter] -= was == [("refused",)]
        else:
            done = db.execute(
                "UPDATE batches SET state = 'refused', reason = ? "
                "WHERE meter = ? AND plan = ? AND window = ? AND state = 'waiting'",
                (word.reason[:200], *where),
            )
            self._aside[word.meter] += done.rowcount

    def _store(
        self, db: sqlite3.Connection, batch: SealedBatch, dropped: list[tuple[str, int]]
    ) -> Waiting | None:
        """The stored batch; None if its window was sealed before; id 0 if it had to be dropped itself."""
        row = db.execute("SELECT until_s FROM sealed WHERE meter = ?", (batch.meter,)).fetchone()
        if row is not None and batch.until_s <= row[0]:
            return None
        until = (batch.meter, batch.until_s)
        db.execute("INSERT OR REPLACE INTO sealed VALUES (?, ?, ?)", (*until, _checksum(*until)))
        if self._held[batch.meter] >= self._max and not self._make_room(db, batch.meter, dropped):
            dropped.append((batch.meter, 0))
            return Waiting(id=0, plan=batch.plan, window=batch.window)
        content = (batch.meter, batch.plan, batch.window, batch.payload)
        cursor = db.execute(
            "INSERT INTO batches (meter, plan, window, state, payload, checksum) "
            "VALUES (?, ?, ?, 'waiting', ?, ?)",
            (*content, _checksum(*content)),
        )
        self._held[batch.meter] += 1
        return Waiting(id=int(cursor.lastrowid or 0), plan=batch.plan, window=batch.window)

    def _make_room(self, db: sqlite3.Connection, meter: str, dropped: list[tuple[str, int]]) -> bool:
        """Whether an old batch went: a refused one in any case, else the oldest if that is the policy."""
        states = ("refused", "waiting") if self._drop_oldest else ("refused",)
        for state in states:
            row = db.execute(
                "SELECT id FROM batches WHERE meter = ? AND state = ? ORDER BY id LIMIT 1", (meter, state)
            ).fetchone()
            if row is not None:
                db.execute("DELETE FROM batches WHERE id = ?", (row[0],))
                self._held[meter] -= 1
                self._aside[meter] -= state == "refused"
                dropped.append((meter, int(row[0])))
                return True
        return False

    # -- closing -------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of file and lock."""
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._count is not None:
            self._count.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "Outbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checksum(*values: object) -> bytes:
    """BLAKE2b-128 over a row's values."""
    return hashlib.blake2b(msgpack.packb(values), digest_size=_CHECKSUM_BYTES).digest()


def _lock(state_dir: Path) -> int:
    """A file descriptor that holds the directory's lock until it is closed. Raises StateError."""
    path = state_dir / _LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateError(f"cannot open {path}: {error.strerror or error}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(handle, 32).decode("ascii", "replace").strip()
        os.close(handle)
        raise StateError(
            f"{state_dir} is in use{f' by process {holder}' if holder.isdigit() else ''}: "
            "stop that one, or give this one another --state-dir"
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle
