"""Where the records of runs are kept: one small interface, and what a run's name looks like."""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from gridhe.bench.record import Record
from gridhe.errors import StoreError

__all__ = ["FAILED", "RunSummary", "TimingsStore", "check_run", "new_run", "summarise"]

FAILED = "failed"  # the metric of a note that a suite did not end well, and why
_RUN = re.compile(r"\d{8}t\d{6}-[0-9a-f]{4}")


def new_run(now: float) -> str:
    """A run's name: when it began (UTC), and four hex digits against a neighbour of the same second."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(2)}"


def check_run(run: str) -> str:
    """The name itself. Raises StoreError for one that is no run's: it becomes a file's name and a filter."""
    if not _RUN.fullmatch(run):
        raise StoreError(
            f"{run[:80]!r} is no run; they look like 20260131t120000-1a2b, see gridhe-bench list"
        )
    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run in a list."""

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
            suites=tuple(dict.fromkeys(record.suite for record in found)),
            records=len(found),
            host=found[0].host,
            version=found[0].version,
        )
        for run, found in sorted(runs.items(), reverse=True)
    ]


class TimingsStore(Protocol):
    """Keeps records and gives them back. Every method raises StoreError."""

    def write(self, record: Record) -> None:
        """Keep a record; it may still wait in memory."""

    def flush(self) -> None:
        """Return when everything written is kept."""

    def read(self, run: str) -> list[Record]:
        """A run's records, in the order they were made. Never empty: an unknown run is a StoreError."""

    def runs(self) -> list[RunSummary]:
        """What there is, the newest first."""

    def close(self) -> None:
        """Flush and let go."""
