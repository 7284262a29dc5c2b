"""The aggregator's durable state: one SQLite database in a directory, held by one process.

Writes happen only inside `transaction()`, which is durable when it returns (WAL,
synchronous=FULL). Rows that decide what is counted carry a checksum, the file is read through at the start
and its transactions are counted a second time (gridhe.base.commit_count), so a flipped byte on disk is a
StateError and never a wrong total.
"""

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gridhe.base.commit_count import CommitCount
from gridhe.base.files import make_private_dir
from gridhe.errors import PlanError, StateError
from gridhe.plan.plan import Plan

__all__ = ["Database"]

_SCHEMA_VERSION = 2  # 2: transactions are counted, small values carry a checksum
_CHECK_MAX_BYTES = 256 << 20  # a larger file is not read through at every start: about a second
_COMMITS = "commits"
_CHECK_BYTES = 8
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE plans (plan TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE meters (
    meter TEXT PRIMARY KEY, grp TEXT NOT NULL, number INTEGER NOT NULL, from_s INTEGER NOT NULL,
    enrolled INTEGER NOT NULL, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX meters_by_group ON meters (grp, number);
CREATE TABLE reported (
    plan TEXT, window INTEGER, grp TEXT, members BLOB NOT NULL, checksum BLOB NOT NULL,
    PRIMARY KEY (plan, window, grp)
) WITHOUT ROWID;
CREATE TABLE totals (
    plan TEXT, window INTEGER, grp TEXT, part INTEGER, closed INTEGER NOT NULL, meters INTEGER NOT NULL,
    first_at REAL NOT NULL, digest BLOB NOT NULL, pieces BLOB NOT NULL, ciphertext BLOB, payload BLOB,
    checksum BLOB NOT NULL
);
CREATE UNIQUE INDEX totals_by_key ON totals (plan, window, grp, part);
CREATE INDEX totals_open ON totals (closed) WHERE closed = 0;
CREATE INDEX totals_undelivered ON totals (plan) WHERE payload IS NOT NULL;
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL
);
"""


class Database:
    """The state directory, held by one process. Raises StateError for every fault of disk or content."""

    def __init__(self, directory: Path, *, authority: str, aggregator: str) -> None:
        """Open or make the state of this aggregator; refuse a directory in use or of something else."""
        self.directory = directory
        make_private_dir(directory)
        self._lock = self._take_lock()
        path = directory / "aggregator.db"
        self._count: CommitCount | None = None
        self._commits = 0
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
        except sqlite3.Error as error:
            os.close(self._lock)
            raise self._fault(error) from error
        try:
            path.chmod(0o600)
            # Totals are some 100 KB each: pages of 32 KB make an eighth of the work of SQLite's 4 KB.
            self._db.execute("PRAGMA page_size = 32768")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            # Totals are large and rewritten often: in a long log, 128 MB, most are overwritten before a
            # checkpoint copies them.
            self._db.execute("PRAGMA wal_autocheckpoint = 4096")
            if path.stat().st_size <= _CHECK_MAX_BYTES:
                found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
                if found != "ok":
                    raise sqlite3.DatabaseError(found)
            self._count = CommitCount(directory / _COMMITS)
            self._open_schema({"authority": authority.encode(), "aggregator": aggregator.encode()})
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise self._fault(error) from error
        except StateError:
            self.close()
            raise

    def _take_lock(self) -> int:
        try:
            handle = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._fault(error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise StateError(
                f"{self.directory} is in use by another aggregator; stop it, or give another --state-dir"
            ) from None
        return handle

    def _open_schema(self, owner: dict[str, bytes]) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        kept = self.meta(_COMMITS) if version else None
        self._commits = int(kept) if kept is not None and kept.isdigit() else 0
        if self._count is not None and version in (0, _SCHEMA_VERSION):
            self._count.check(self._commits)
        if version == 0:
            with self.transaction():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                for key, value in owner.items():
                    self.set_meta(key, value)
                self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        elif version != _SCHEMA_VERSION:
            raise StateError(
                f"{self.directory} holds state version {version}, this gridhe reads {_SCHEMA_VERSION}"
            )
        for key, value in owner.items():
            found = self.meta(key)
            if found != value:
                raise StateError(
                    f"{self.directory} is the state of {key} {(found or b'?').decode(errors='replace')!r}, "
                    f"not {value.decode()!r}; give another --state-dir"
                )

    def _fault(self, error: Exception) -> StateError:
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            return StateError(
                f"{self.directory} is damaged ({error}); restore it, or start with another --state-dir"
            )
        return StateError(f"{self.directory} cannot be used: {error}; nothing that was receipted is lost")

    def close(self) -> None:
        """Give the directory back."""
        self._db.close()
        if self._count is not None:
            self._count.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; on the disk when it returns. Raises StateError (full disk, damaged file)."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                count = self._commits + 1
                self.set_meta(_COMMITS, str(count).encode())
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._fault(error) from error
        self._commits = count
        if self._count is not None:
            self._count.keep(count)

    @contextlib.contextmanager
    def large_cache(self) -> Iterator[None]:
        """16 MB of pages in place of 2: a roster of 10^6 meters takes half as long. Given back afterwards."""
        self.write("PRAGMA cache_size = -16000")
        try:
            yield
        finally:
            self.write("PRAGMA cache_size = -2000")
            self.write("PRAGMA shrink_memory")

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def write(self, sql: str, *values: object) -> None:
        """One statement; inside a transaction."""
        try:
            self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def write_many(self, sql: str, rows: Iterable[tuple[object, ...]]) -> None:
        """One statement for many rows; inside a transaction."""
        try:
            self._db.executemany(sql, rows)
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def damaged(self, what: str) -> StateError:
        """The error to raise for a row that fails its checksum."""
        return StateError(
            f"{self.directory} is damaged: {what}; restore it, or start with another --state-dir"
        )

    def meta(self, key: str) -> bytes | None:
        """A small value, or None. Raises StateError when it fails its checksum."""
        rows = self.query("SELECT value FROM meta WHERE key = ?", key)
        if not rows:
            return None
        stored = rows[0][0]
        value = stored[:-_CHECK_BYTES] if isinstance(stored, bytes) else b""
        if stored != value + _check(key, value):
            raise self.damaged(f"its {key} fails its checksum")
        return value

    def set_meta(self, key: str, value: bytes) -> None:
        """Keep a small value; inside a transaction."""
        self.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value + _check(key, value))

    def plans(self) -> list[Plan]:
        """All plans ever accepted. Their id is their hash, which is checked."""
        found = []
        for plan_id, record in self.query("SELECT plan, record FROM plans"):
            try:
                plan = Plan.decode(record) if isinstance(record, bytes) else None
            except PlanError:
                plan = None
            if plan is None or plan.plan_id != plan_id:
                raise self.damaged(f"plan {plan_id} does not match its id")
            found.append(plan)
        return found

    def add_plan(self, plan: Plan) -> None:
        """Keep a plan; inside a transaction."""
        self.write("INSERT OR IGNORE INTO plans VALUES (?, ?)", plan.plan_id, plan.encode())


def _check(key: str, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=_CHECK_BYTES, key=key.encode()).digest()
