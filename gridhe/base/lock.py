"""A lock on a state directory: one process at a time."""

import fcntl
import os
from pathlib import Path

from gridhe.errors import StateError

__all__ = ["DirectoryLock"]

_FILE = "lock"


class DirectoryLock:
    """An exclusive lock until `release` or the end of this process. The file contains the holder's pid."""

    def __init__(self, directory: Path) -> None:
        """Take the lock. Raises StateError if another process has it."""
        path = directory / _FILE
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StateError(f"cannot open {path}: {error.strerror or error}") from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._handle, 32).decode("ascii", "replace").strip()
            self.release()
            raise StateError(
                f"{directory} is in use by {f'process {holder}' if holder.isdigit() else 'another process'}: "
                "stop that process, or give this one another --state-dir"
            ) from None
        try:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise StateError(f"cannot write {path}: {error.strerror or error}") from None

    def release(self) -> None:
        """Release the lock. Safe to call twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
