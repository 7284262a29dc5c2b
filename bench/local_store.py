"""Records in files: one per run, one line of JSON per record. Needs no setup."""

import json
import logging
import os
from pathlib import Path
from typing import TextIO

from gridhe.bench.record import Record, encode_line, records_from_lines
from gridhe.bench.store import RunSummary, check_run, summarise
from gridhe.errors import StoreError

__all__ = ["LocalStore", "default_folder"]

_log = logging.getLogger(__name__)
_WAY_OUT = "remove it, and run the bench again"


def default_folder() -> Path:
    """The folder of runs: $GRIDHE_BENCH_HOME, else gridhe/bench in the user's data folder.

    Raises StoreError if this user has no home folder.
    """
    given = os.environ.get("GRIDHE_BENCH_HOME")
    if given:
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME")
    try:
        return (Path(data) if data else Path.home() / ".local" / "share") / "gridhe" / "bench"
    except RuntimeError:  # no HOME, and a user that /etc/passwd does not know
        raise StoreError(
            "this user has no home folder for the runs; name another with --home DIR or GRIDHE_BENCH_HOME"
        ) from None


class LocalStore:
    """A folder of runs. Each record is written at once as one line: a crash loses at most that record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: tuple[str, TextIO] | None = None

    def path(self, run: str) -> Path:
        """A run's file."""
        return self.folder / f"{check_run(run)}.jsonl"

    def write(self, record: Record) -> None:
        """Append a record to its run's file."""
        try:
            if self._open is None or self._open[0] != record.run:
                self.close()
                self.folder.mkdir(parents=True, exist_ok=True)
                self._open = record.run, self.path(record.run).open("a", encoding="utf-8")
            self._open[1].write(encode_line(record) + "\n")
            self._open[1].flush()
        except OSError as error:
            raise StoreError(f"cannot write to {self.folder}: {error.strerror or error}") from error

    def flush(self) -> None:
        """Flush all records to the disk."""
        try:
            if self._open is not None:
                self._open[1].flush()
                os.fsync(self._open[1].fileno())
        except OSError as error:
            raise StoreError(f"cannot write to {self.folder}: {error.strerror or error}") from error

    def read(self, run: str) -> list[Record]:
        """A run's records, without an unfinished last one that a crash left."""
        path = self.path(run)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise StoreError(f"there is no run {run} in {self.folder}; see gridhe-bench list") from None
        except UnicodeDecodeError as error:
            raise StoreError(
                f"cannot read {path}: it is not UTF-8 text at byte {error.start:,}; {_WAY_OUT}"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
        if not text:
            raise StoreError(f"{path} is empty: the run ended before its first record; {_WAY_OUT}")
        lines = text.splitlines()
        unfinished = not text.endswith("\n") and not _is_json(lines[-1])
        if unfinished:
            lines.pop()
            if not lines:
                raise StoreError(f"{path} has no complete record, only the beginning of one; {_WAY_OUT}")
        records = records_from_lines(lines, str(path))
        if unfinished:
            _log.warning("%s, line %d: ignored, because the run ended while writing it", path, len(lines) + 1)
        return records

    def runs(self) -> list[RunSummary]:
        """All runs, the newest first."""
        summaries = []
        for path in self.folder.glob("*.jsonl"):
            try:
                summaries += summarise(self.read(path.stem))
            except StoreError as error:
                # One bad file does not hide the others; `show` of that run fails with the same error.
                summaries.append(
                    RunSummary(
                        run=path.stem, suites=(f"unreadable: {error}",), records=0, host="", version=""
                    )
                )
        return sorted(summaries, key=lambda one: one.run, reverse=True)

    def close(self) -> None:
        """Flush and close."""
        if self._open is not None:
            self.flush()
            self._open[1].close()
            self._open = None


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
