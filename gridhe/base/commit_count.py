"""How many transactions a database has committed, told a second time beside it.

SQLite takes the first damaged frame of a write-ahead log for the log's end, and everything that was
committed after it is gone without a word. So each transaction counts itself inside the database, and once it
is durable the count is written here, on the disk before anybody hears of it. A database that knows of fewer
transactions than this file has lost some.

A crash between the two leaves the file one behind: nobody was told of that last one, so it may be there
or not.
"""

import hashlib
import os
from pathlib import Path

from gridhe.errors import StateError

__all__ = ["CommitCount"]

_COUNT, _CHECK = 8, 8


class CommitCount:
    """The count in one file of 16 bytes: the number, little-endian, and half a SHA-256 of it."""

    def __init__(self, path: Path) -> None:
        """Open or make it, 0600. Raises StateError."""
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"cannot open {path}: {error.strerror or error}") from None

    def check(self, found: int) -> None:
        """Hold the database's own count against the file. Raises StateError when transactions are missing."""
        try:
            record = os.pread(self._file, _COUNT + _CHECK + 1, 0)
        except OSError as error:
            raise StateError(f"cannot read {self._path}: {error.strerror or error}") from None
        if not record and found <= 1:
            return  # made just now, or killed right after
        kept = int.from_bytes(record[:_COUNT], "little")
        if record != _record(kept):
            raise StateError(
                f"{self._path} is damaged or missing, so nobody can tell whether the database beside "
                "it is whole; restore both from a backup"
            )
        if found < kept:
            raise StateError(
                f"the database beside {self._path} is damaged: it holds {found} transactions of "
                f"{kept}; restore it from a backup, or start with another folder"
            )

    def keep(self, count: int) -> None:
        """`count` transactions are durable; so is this when it returns. Raises StateError."""
        try:
            os.pwrite(self._file, _record(count), 0)
            os.fdatasync(self._file)
        except OSError as error:
            raise StateError(f"cannot write {self._path}: {error.strerror or error}") from None

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _record(count: int) -> bytes:
    number = count.to_bytes(_COUNT, "little")
    return number + hashlib.sha256(number).digest()[:_CHECK]
