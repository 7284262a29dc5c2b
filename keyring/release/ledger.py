"""The ledger: every decision of the authority, one JSON line each, chained by SHA-256.

    {"at": ISO time, "kind": ..., "n": 1, 2, ..., "prev": hash of the line before, ...}

`prev` of the first line is 64 zeros; a line's hash covers its bytes without the line break. A line that is
changed, removed or moved breaks the chain at the next line. Lines removed from the end leave a valid chain.
So answers.db and inbox.db have copies of the head (count and hash), which `Ledger` checks when it opens. The
chain shows mistakes and partial changes. An attacker who can write the whole home can forge a new chain.

`append` returns when the line is on the disk. A crash during `append` leaves a line without a line break.
Nothing was done because of that line, so the next open cuts it off, logs a warning and appends a record of
kind `recovered`.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from gridhe.base.failpoints import failpoint
from gridhe.base.files import check_private
from gridhe.errors import CredentialError, StateError

__all__ = ["START", "Head", "Ledger", "LedgerRecord", "verify_ledger"]

_log = logging.getLogger(__name__)
_RESTORE = "restore a copy of the ledger that is no older than {}"
_LINE_MAX = 64 << 20  # a roll-up's record names each leaf part, about 30 bytes each

LedgerRecord = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: the number of records, and the hash of the last."""

    count: int
    hash: str


START = Head(0, "0" * 64)
NO_HEADS: Mapping[str, Head] = MappingProxyType({})


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _read(path: Path, file: IO[bytes]) -> Iterator[tuple[LedgerRecord | None, bytes]]:
    """Yield each record and its line without the break, after checking it; (None, rest) for a torn end."""
    head = START
    while line := file.readline(_LINE_MAX):
        if not line.endswith(b"\n"):
            yield None, line
            return
        number = head.count + 1
        try:
            record = json.loads(line)
            whole = isinstance(record, dict) and isinstance(record.get("kind"), str)
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            raise StateError(
                f"{path} line {number} is not a ledger record: it was changed after it was written; "
                "restore the file from a backup"
            )
        if record.get("n") != number or record.get("prev") != head.hash:
            raise StateError(
                f"{path} line {number} does not follow line {head.count}: one of them was changed, or lines "
                "between are missing; restore the file from a backup"
            )
        head = Head(number, _hash(line[:-1]))
        yield record, line[:-1]


def verify_ledger(
    path: Path, *, on_record: Callable[[LedgerRecord], None], heads: Mapping[str, Head] = NO_HEADS
) -> Head:
    """Read a ledger without changing it, call `on_record` with each record, and return the head.

    `heads` are earlier heads of the chain, by the name of the file that has the copy. A torn end is ignored.
    Raises StateError naming the line that breaks the chain, or if the chain lacks one of `heads`.
    """
    head, missing = START, {name: head for name, head in heads.items() if head != START}
    try:
        with path.open("rb") as file:
            for record, line in _read(path, file):
                if record is None:
                    break
                head = Head(head.count + 1, _hash(line))
                missing = {name: each for name, each in missing.items() if each != head}
                on_record(record)
    except FileNotFoundError:
        for name, each in missing.items():
            raise StateError(
                f"{path} is missing, and had {each.count} records when {name} was written; "
                f"{_RESTORE.format(name)}"
            ) from None
    except OSError as error:
        raise StateError(f"cannot read {path}: {error.strerror or error}") from None
    for name, each in missing.items():
        raise StateError(
            f"{path} line {min(each.count, head.count)} is not the line whose hash {name} has: the ledger "
            f"had {each.count} records then, now {head.count}; {_RESTORE.format(name)}"
        )
    return head


class Ledger:
    """An open ledger: verified, and locked for this process."""

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], str],
        on_record: Callable[[LedgerRecord], None] = lambda record: None,
        heads: Mapping[str, Head] = NO_HEADS,
    ) -> None:
        """Verify the file at `path` (made if missing) as `verify_ledger` does; `now` returns the ISO time.

        Raises StateError, also if another process has it open.
        """
        self.path = path
        self._now = now
        self._broken = False
        try:
            handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"cannot open {path}: {error.strerror or error}") from None
        self._file = os.fdopen(handle, "r+b", buffering=0)
        try:
            self._lock()
            check_private(path)
            self.head = verify_ledger(path, on_record=on_record, heads=heads)
            self._recover(on_record)
        except CredentialError as error:
            self._file.close()
            raise StateError(f"ledger: {error}") from None
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateError(
                f"{self.path} is in use by another gridhe-keyring; let it finish first"
            ) from None

    def _recover(self, on_record: Callable[[LedgerRecord], None]) -> None:
        """Cut off a last line without a line break, which a crash left."""
        size = os.fstat(self._file.fileno()).st_size
        end = self._end_of_lines(size)
        if end == size:
            return
        torn = os.pread(self._file.fileno(), size - end, end)
        _log.warning("%s ends in %d bytes of an unfinished record: cut off", self.path, len(torn))
        os.ftruncate(self._file.fileno(), end)
        on_record(self.append("recovered", bytes_cut=len(torn), sha256=_hash(torn)))

    def _end_of_lines(self, size: int) -> int:
        """The offset behind the last line break."""
        at = size
        while at > 0:
            start = max(0, at - (1 << 16))
            line_break = os.pread(self._file.fileno(), at - start, start).rfind(b"\n")
            if line_break >= 0:
                return start + line_break + 1
            at = start
        return 0

    def append(self, kind: str, **fields: Any) -> LedgerRecord:
        """Write a record; it is on the disk when this returns. Raises StateError if the disk fails."""
        record: LedgerRecord = {
            **fields,
            "at": self._now(),
            "kind": kind,
            "n": self.head.count + 1,
            "prev": self.head.hash,
        }
        line = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        if self._broken:
            raise StateError(
                f"cannot write {self.path}: an earlier write failed; repair the disk and start again"
            )
        start = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(line + b"\n")
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
            failpoint("ledger.written")
            os.fsync(self._file.fileno())
        except OSError as error:
            try:
                os.ftruncate(self._file.fileno(), start)
            except OSError:
                self._broken = True  # the next open cuts off the torn line
            raise StateError(f"cannot write {self.path}: {error.strerror or error}") from None
        self.head = Head(self.head.count + 1, _hash(line))
        return record

    def close(self) -> None:
        """Close the file and release the lock."""
        self._file.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
