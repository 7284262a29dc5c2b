"""The file of `release --out`: JSON lines, appended one at a time, each on the disk before it counts.

A crash during `append` leaves a torn last line, which the next open cuts off. Lines in the file are never
changed otherwise. After the file was moved away (logrotate) the next line goes to a new file.
"""

import errno
import fcntl
import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gridhe.base.failpoints import failpoint
from gridhe.errors import ConfigError, StateError

__all__ = ["OutFile"]

_log = logging.getLogger(__name__)
_BEGINNING = b'{"plan":"'  # every line starts with this, which identifies a torn line
_TAIL_MAX = 64 << 20  # bytes that may follow the last line break
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class OutFile:
    """An open file of JSON lines, locked for this process."""

    def __init__(self, path: Path) -> None:
        """Open or make the file, and repair its end.

        Raises ConfigError (a symbolic link, a pipe, not writable, not a file of released lines) and
        StateError (in use by another process, the disk is full).
        """
        self.path = path
        self._handle = -1
        self._open()

    def _open(self) -> None:
        # O_NONBLOCK: a pipe without a reader would block, and is refused below.
        flags = (
            os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        )
        try:
            self._handle = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise self._refusal(error) from None
        try:
            if not stat.S_ISREG(os.fstat(self._handle).st_mode):
                raise ConfigError(
                    f"{self.path} is not a regular file; for a pipe or standard output use --json "
                    "without --out"
                )
            self._lock()
            self._repair_tail()
            self._sync_folder()
        except BaseException:
            self.close()
            raise

    def _refusal(self, error: OSError) -> ConfigError | StateError:
        if error.errno in _FULL:
            return StateError(f"cannot write {self.path}: {error.strerror}; make room and start again")
        if error.errno == errno.ELOOP:
            return ConfigError(
                f"{self.path} is a symbolic link, which --out does not follow: give it the file itself "
                "(for standard output use --json without --out)"
            )
        return ConfigError(f"cannot write {self.path}: {error.strerror or error}")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(
                f"{self.path} is in use by another gridhe-keyring; let it finish first"
            ) from None
        except OSError as error:
            raise StateError(f"cannot lock {self.path}: {error.strerror or error}") from None

    def _sync_folder(self) -> None:
        """Flush the folder, so that the file's name is on the disk too."""
        try:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StateError(f"cannot write {self.path}: {error.strerror or error}") from None

    def _repair_tail(self) -> None:
        """Cut off a torn last line, which a crash left; add the line break to a complete one."""
        try:
            size = os.fstat(self._handle).st_size
            end = self._end_of_lines(size)
            if end == size:
                return
            tail = os.pread(self._handle, size - end, end)
            if _record(tail) is not None:
                os.write(self._handle, b"\n")
            elif tail.rstrip(b"\0")[: len(_BEGINNING)] == _BEGINNING[: len(tail.rstrip(b"\0"))]:
                _log.warning("%s ends in %d bytes of an unfinished line: cut off", self.path, len(tail))
                os.ftruncate(self._handle, end)
            else:
                raise self._not_ours()
            os.fsync(self._handle)
        except OSError as error:
            raise StateError(f"cannot write {self.path}: {error.strerror or error}") from None

    def _not_ours(self) -> ConfigError:
        return ConfigError(f"{self.path} does not end in a released line; give --out a file of its own")

    def _end_of_lines(self, size: int) -> int:
        """The offset behind the last line break."""
        at = size
        while at > 0:
            if size - at > _TAIL_MAX:
                raise self._not_ours()
            start = max(0, at - (1 << 16))
            line_break = os.pread(self._handle, at - start, start).rfind(b"\n")
            if line_break >= 0:
                return start + line_break + 1
            at = start
        return 0

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every line that is a JSON object, from the beginning."""
        try:
            with os.fdopen(os.dup(self._handle), "rb") as file:
                file.seek(0)
                for line in file:
                    record = _record(line)
                    if record is not None:
                        yield record
        except OSError as error:
            raise StateError(f"cannot read {self.path}: {error.strerror or error}") from None

    def last(self) -> dict[str, Any] | None:
        """The last line, if it is a JSON object."""
        try:
            size = os.fstat(self._handle).st_size
            start = self._end_of_lines(max(0, size - 1))
            return _record(os.pread(self._handle, size - start, start))
        except OSError as error:
            raise StateError(f"cannot read {self.path}: {error.strerror or error}") from None

    def append(self, record: dict[str, Any]) -> None:
        """Add a line; it is on the disk when this returns. Raises StateError if the disk fails.

        After StateError the file has no part of the line, or a torn end that the next open cuts off.
        """
        if self._moved():
            _log.info("%s was moved away: a new file is opened", self.path)
            self.close()
            self._open()
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        start = os.fstat(self._handle).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            failpoint("release.7.written")
            os.fsync(self._handle)
        except OSError as error:
            self._cut(start)
            raise StateError(
                f"cannot write {self.path}: {error.strerror or error}; make room and start again: "
                "no total is lost"
            ) from None

    def _cut(self, end: int) -> None:
        try:
            os.ftruncate(self._handle, end)
        except OSError as error:
            _log.warning("%s: cannot cut off a torn last line (%s); the next start does", self.path, error)

    def _moved(self) -> bool:
        """Whether `path` is missing or now names another file."""
        ours = os.fstat(self._handle)
        try:
            named = self.path.lstat()
        except OSError:
            return True
        return (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino)

    def close(self) -> None:
        """Close the file and release the lock."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
