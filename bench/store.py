"""The interface of a store of records, and the names of runs."""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from gridhe.bench.record import Record
from gridhe.errors import StoreError

__all__ = ["FAILED", "RunSummary", "TimingsStore", "check_run", "new_run", "summarise"]

FAILED = "failed"  # the metric of the note that a suite failed, with the reason
_RUN = re.compile(r"\d{8}t\d{6}-[0-9a-f]{4}")


def new_run(now: float) -> str:
    """A run's name: its start (UTC), and four hex digits that separate runs of the same second."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(2)}"


def check_run(run: str) -> str:
    """Return `run`. Raises StoreError if it is not a run's name: it is used in file names and queries."""
    if not _RUN.fullmatch(run):
        raise StoreError(
            f"{run[:80]!r} is not a run's name such as 20260131t120000-1a2b; see gridhe-bench list"
        )
    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run, as listed by `gridhe-bench list`."""

    run: str
    suites: tuple[str, ...]
    records: int
    host: str
    version: str


def summarise(records: Iterable[Record]) -> list[RunSummary]:
    """One line for each run, the newest first."""
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(record.run, []).append(record)
    return [
        RunSummary(
            run=run,
            suites=tuple(dict.fromkeys(record.suite for record in rows)),
            records=len(rows),
            host=rows[0].host,
            version=rows[0].version,
        )
        for run, rows in sorted(runs.items(), reverse=True)
    ]


class TimingsStore(Protocol):
    """Stores and returns records. Every method raises StoreError."""

    def write(self, record: Record) -> None:
        """Store a record; it may wait in memory until `flush`."""

    def flush(self) -> None:
        """Return when every written record is stored."""

    def read(self, run: str) -> list[Record]:
        """A run's records, in the order they were made. Never empty: an unknown run is a StoreError."""

    def runs(self) -> list[RunSummary]:
        """All runs, the newest first."""

    def close(self) -> None:
        """Flush and close."""
