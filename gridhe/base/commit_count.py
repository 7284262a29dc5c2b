"""The number of a database's committed transactions: a second copy, kept outside the database.

SQLite treats the first damaged frame of a write-ahead log as the log's end, and drops all later transactions
without an error. So each transaction increments a count in the database. Once it is durable, the count is
also written to this file, before the caller continues. A database with a smaller count than this file has
lost transactions.

After a crash between the two writes, the file is one behind. The caller has not continued after that
transaction, so it may exist or not.
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
        """Open or create the file, 0600. Raises StateError."""
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"cannot open {path}: {error.strerror or error}") from None

    def check(self, counted: int) -> None:
        """Compare the database's own count with the file. Raises StateError if transactions are missing."""
        try:
            record = os.pread(self._file, _COUNT + _CHECK + 1, 0)
        except OSError as error:
            raise StateError(f"cannot read {self._path}: {error.strerror or error}") from None
        if not record and counted <= 1:
            return  # new, or killed before the first write
        durable = int.from_bytes(record[:_COUNT], "little")
        if record != _record(durable):
            raise StateError(
                f"{self._path} is damaged or missing, so the database beside it cannot be checked; "
                "restore both from a backup"
            )
        if counted < durable:
            raise StateError(
                f"the database beside {self._path} is damaged: it has {counted} transactions of "
                f"{durable}; restore it from a backup, or start with another folder"
            )

    def keep(self, count: int) -> None:
        """Write the number of durable transactions; durable when it returns. Raises StateError."""
        try:
            os.pwrite(self._file, _record(count), 0)
            os.fdatasync(self._file)
        except OSError as error:
            raise StateError(f"cannot write {self._path}: {error.strerror or error}") from None

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _record(count: int) -> bytes:
    number = count.to_bytes(_COUNT, "little")
    return number + hashlib.sha256(number).digest()[:_CHECK]
