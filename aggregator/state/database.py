"""The aggregator's durable state: one SQLite database in a directory, held by one process.

Writes happen only inside `transaction()`, which is durable when it returns. Rows that affect totals carry a
checksum, the file is checked at the start, and the number of transactions is also kept outside the
database (gridhe.base.sqlite). So a flipped byte on disk raises StateError and never makes a wrong total.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gridhe.base.files import make_private_dir
from gridhe.base.lock import DirectoryLock
from gridhe.base.sqlite import SqliteDatabase
from gridhe.errors import PlanError
from gridhe.plan.plan import Plan

__all__ = ["Database"]

# 2: transactions are counted, small values carry a checksum. 3: counted in a table. 4: former places.
# 5: closed totals are kept unsigned. 7: members with their proofs.
# 8: strands
_SCHEMA_VERSION = 8
_CHECK_MAX_BYTES = 256 << 20  # a larger file is not checked at every start; about 1 s at this size
_SCHEMA = """
CREATE TABLE plans (plan TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE meters (
    meter TEXT PRIMARY KEY, grp TEXT NOT NULL, number INTEGER NOT NULL, from_s INTEGER NOT NULL,
    enrolled INTEGER NOT NULL, checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX meters_by_group ON meters (grp, number);
CREATE TABLE former (
    meter TEXT NOT NULL, grp TEXT NOT NULL, number INTEGER NOT NULL, from_s INTEGER NOT NULL,
    until_s INTEGER NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (grp, number)
) WITHOUT ROWID;
CREATE TABLE named (
    grp TEXT NOT NULL, meter TEXT NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (grp, meter)
) WITHOUT ROWID;
CREATE TABLE members (
    id INTEGER PRIMARY KEY, plan TEXT NOT NULL, grp TEXT NOT NULL, window INTEGER NOT NULL,
    part INTEGER NOT NULL, members BLOB NOT NULL, checksum BLOB NOT NULL
);
CREATE INDEX members_by_part ON members (plan, window, grp, part);
CREATE TABLE totals (
    plan TEXT, grp TEXT, window INTEGER, part INTEGER, closed INTEGER NOT NULL, meters INTEGER NOT NULL,
    first_at REAL NOT NULL, pieces BLOB NOT NULL, strands INTEGER NOT NULL, ciphertext BLOB,
    checksum BLOB NOT NULL
);
CREATE UNIQUE INDEX totals_by_key ON totals (plan, window, grp, part);
CREATE INDEX totals_open ON totals (closed) WHERE closed = 0;
CREATE INDEX totals_undelivered ON totals (window, grp, part, plan)
    WHERE closed = 1 AND ciphertext IS NOT NULL;
CREATE TABLE strands (
    plan TEXT, grp TEXT, window INTEGER, part INTEGER, strand INTEGER, meters INTEGER NOT NULL,
    ciphertext BLOB NOT NULL, checksum BLOB NOT NULL
);
CREATE UNIQUE INDEX strands_by_key ON strands (plan, window, grp, part, strand);
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL
);
"""


class Database(SqliteDatabase):
    """The state directory, used by one process at a time. Raises StateError for faults of disk or content."""

    def __init__(self, directory: Path, *, authority: str, aggregator: str) -> None:
        """Open or create the state of this aggregator. Raises StateError, also for a directory in use."""
        self.directory = directory
        make_private_dir(directory)
        self._lock = DirectoryLock(directory)
        try:
            super().__init__(
                directory / "aggregator.db",
                _SCHEMA,
                version=_SCHEMA_VERSION,
                owner={"authority": authority, "aggregator": aggregator},
                pragmas=(
                    # Totals are about 100 KB: pages of 32 KB take an eighth of the work of pages of 4 KB.
                    "page_size = 32768",
                    # Totals are large and rewritten often: with a log of 128 MB, most are overwritten
                    # before a checkpoint copies them.
                    "wal_autocheckpoint = 4096",
                ),
                commits=directory / "commits",
                check_max_bytes=_CHECK_MAX_BYTES,
                if_damaged="restore it, or start with another --state-dir",
                if_refused="nothing that was receipted is lost",
            )
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Close the database and release the lock."""
        super().close()
        self._lock.release()

    @contextlib.contextmanager
    def large_cache(self) -> Iterator[None]:
        """Use 16 MB of page cache instead of 2 MB: halves the time to store a roster of 10^6 meters."""
        self.write("PRAGMA cache_size = -16000")
        try:
            yield
        finally:
            self.write("PRAGMA cache_size = -2000")
            self.write("PRAGMA shrink_memory")

    def plans(self) -> list[Plan]:
        """All plans ever accepted. Raises StateError if a plan does not match its id, its hash."""
        plans = []
        for plan_id, record in self.query("SELECT plan, record FROM plans"):
            try:
                plan = Plan.decode(record) if isinstance(record, bytes) else None
            except PlanError:
                plan = None
            if plan is None or plan.plan_id != plan_id:
                raise self.damaged(f"plan {plan_id} does not match its id")
            plans.append(plan)
        return plans

    def add_plan(self, plan: Plan) -> None:
        """Store a plan; inside a transaction."""
        self.write("INSERT OR IGNORE INTO plans VALUES (?, ?)", plan.plan_id, plan.encode())
