"""A lock on a state directory: one process at a time."""

import fcntl
import os
from pathlib import Path

from gridhe.errors import StateError

__all__ = ["DirectoryLock"]

_FILE = "lock"


class DirectoryLock:
    """Holds a directory until it is released, or until this process ends. The file names the holder's pid."""

    def __init__(self, directory: Path) -> None:
        """Take the lock. Raises StateError when another process holds it."""
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
                "stop that one, or give this one another --state-dir"
            ) from None
        try:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise StateError(f"cannot write {path}: {error.strerror or error}") from None

    def release(self) -> None:
        """Give the directory back. Safe to call twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
