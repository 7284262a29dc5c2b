"""An SQLite database in a private file: the wrapper of every database of gridhe.

Always:

- WAL and synchronous=FULL: a `transaction()` is durable when it returns.
- Every fault of disk or content is a StateError of one line; a full disk is a DatabaseFull.
- An error in a transaction is raised unchanged, also if the rollback fails: SQLite has often rolled back
  already (after a full disk, for example), and then a second ROLLBACK fails too.
- The connection is closed if opening fails.

Optional:

- `version` and `owner`: written into the file and checked at every start.
- `commits`: a second count of the transactions outside the database (gridhe.base.commit_count).
- `check_max_bytes`: a file up to this size is checked completely at every start (integrity_check).
"""

import contextlib
import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gridhe.base.commit_count import CommitCount
from gridhe.base.files import stranger
from gridhe.errors import StateError

__all__ = ["DatabaseFull", "SqliteDatabase"]

_CHECK_BYTES = 8
_COMMITS_TABLE = """
CREATE TABLE IF NOT EXISTS commits (id INTEGER PRIMARY KEY CHECK (id = 1), count INTEGER NOT NULL);
"""
_META_TABLE = "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"


class DatabaseFull(StateError):
    """The disk is full. Nothing was written; the caller may try again."""


class SqliteDatabase:
    """One database file; not thread-safe. Raises StateError for every fault of disk or content."""

    def __init__(
        self,
        path: Path,
        schema: str,
        *,
        version: int = 0,
        owner: Mapping[str, str] | None = None,
        pragmas: Sequence[str] = (),
        commits: Path | None = None,
        check_max_bytes: int = 0,
        if_damaged: str = "restore it from a backup",
        if_refused: str = "check the disk, and who may write there",
    ) -> None:
        """Open or create the database.

        version: of the schema; a file of another version is refused. 0: the schema has no version. Its
        statements are then run at every start, so they must be repeatable (`IF NOT EXISTS`).
        owner: name -> value, stored in a new file with a version, compared at every later start.
        pragmas: such as "page_size = 8192", run before the first table is made.
        commits: the file with the second count of transactions.
        if_damaged, if_refused: what to do, for the end of these errors' messages.
        """
        self.path = path
        self._schema, self._version = schema, version
        self._if_damaged, self._if_refused = if_damaged, if_refused
        self._count: CommitCount | None = None
        size = self._make_private()
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise self._explained(error) from error
        try:
            for pragma in (*pragmas, "journal_mode = WAL", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {pragma}")
            if 0 < size <= check_max_bytes:
                [(answer,)] = self._db.execute("PRAGMA integrity_check(1)").fetchall()
                if answer != "ok":
                    raise sqlite3.DatabaseError(" ".join(answer.split()))  # it has several lines
            if commits is not None:
                self._count = CommitCount(commits)
            self._open_schema(owner or {})
        except sqlite3.Error as error:
            self.close()
            raise self._explained(error) from error
        except BaseException:
            self.close()
            raise

    def _make_private(self) -> int:
        """Make the file 0600, so that its log gets the same mode; returns its size.

        An existing file is not opened here: closing it would release the locks that another connection
        of this process has on it.
        """
        try:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            status = self.path.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise StateError(f"{self.path} is not a file")
            if (owner := stranger(status)) is not None:
                # Root could open it, but would leave log files that its owner cannot open.
                raise StateError(f"{self.path} belongs to {owner}; run this as that user")
            if stat.S_IMODE(status.st_mode) != 0o600:
                self.path.chmod(0o600)
        except OSError as error:
            raise StateError(f"cannot open {self.path}: {error.strerror or error}") from None
        return status.st_size

    def _open_schema(self, owner: Mapping[str, str]) -> None:
        [(version,)] = self._db.execute("PRAGMA user_version").fetchall()
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master").fetchall()}
        if tables and version != self._version:
            raise StateError(
                f"{self.path} is of version {version}, this gridhe reads {self._version}; {self._if_damaged}"
            )
        schema = self._schema
        if self._count is not None:
            self._check_count(self._count, counted="commits" in tables)
            schema = _COMMITS_TABLE + schema
        if self._version == 0:
            self._db.executescript(schema)
        elif not tables:
            with self.transaction():
                for statement in (_META_TABLE + schema).split(";"):
                    self._db.execute(statement)
                for key, value in owner.items():
                    self.set_meta(key, value.encode())
                self._db.execute(f"PRAGMA user_version = {self._version}")
        for key, value in owner.items():
            stored = self.meta(key)
            if stored != value.encode():
                raise StateError(
                    f"{self.path} is the state of {key} {(stored or b'?').decode(errors='replace')!r}, "
                    f"not {value!r}; give another --state-dir"
                )

    def _check_count(self, count: CommitCount, *, counted: bool) -> None:
        """Compare the database's count of its transactions with the file's."""
        self._db.execute("BEGIN IMMEDIATE")  # so that nobody commits between the two reads
        try:
            rows = self._db.execute("SELECT count FROM commits").fetchall() if counted else []
            count.check(rows[0][0] if rows and isinstance(rows[0][0], int) else 0)
        finally:
            self._roll_back()

    def close(self) -> None:
        """Close the database. Safe to call twice."""
        self._db.close()
        if self._count is not None:
            self._count.close()

    # -- errors ----------------------------------------------------------------------------------

    def damaged(self, what: str) -> StateError:
        """The error to raise for damaged content."""
        return StateError(f"{self.path} is damaged ({what}); {self._if_damaged}")

    def _explained(self, error: sqlite3.Error) -> StateError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            return DatabaseFull(f"no room on the disk for {self.path} ({error}); free some space")
        if isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError):
            return StateError(f"{self.path} cannot be used: {error}; {self._if_refused}")
        return self.damaged(str(error))

    # -- reading and writing ---------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction: all or nothing, and durable when it returns."""
        count = 0
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                if self._count is not None:
                    [(count,)] = self._db.execute(
                        "INSERT INTO commits VALUES (1, 1) "
                        "ON CONFLICT (id) DO UPDATE SET count = count + 1 RETURNING count"
                    ).fetchall()
                self._db.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
        except sqlite3.Error as error:
            raise self._explained(error) from error
        if self._count is not None:
            self._count.keep(count)

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # False if SQLite has rolled back already, after a full disk for example
            with contextlib.suppress(sqlite3.Error):  # the first error is raised instead
                self._db.execute("ROLLBACK")

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def stream(self, sql: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one at a time."""
        try:
            yield from self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def write(self, sql: str, *values: object) -> int:
        """One statement, inside a transaction; returns the number of changed rows."""
        try:
            return self._db.execute(sql, values).rowcount
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def write_many(self, sql: str, rows: Iterable[tuple[object, ...]]) -> int:
        """One statement for many rows, inside a transaction; returns the number of changed rows."""
        try:
            return self._db.executemany(sql, rows).rowcount
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def meta(self, key: str) -> bytes | None:
        """A small value of a database with a version, or None. Raises StateError if its checksum is wrong."""
        rows = self.query("SELECT value FROM meta WHERE key = ?", key)
        if not rows:
            return None
        stored = rows[0][0]
        value = stored[:-_CHECK_BYTES] if isinstance(stored, bytes) else b""
        if stored != value + _check(key, value):
            raise self.damaged(f"its {key} fails its checksum")
        return value

    def set_meta(self, key: str, value: bytes) -> None:
        """Store a small value; inside a transaction."""
        self.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value + _check(key, value))


def _check(key: str, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=_CHECK_BYTES, key=key.encode()).digest()
