"""The contents of the fleets' outboxes, read while the fleets run."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

__all__ = ["Backlog", "Drains"]

_WAITING = "SELECT count(*) FROM batches WHERE state = 'waiting'"


class Backlog:
    """The outboxes of these fleets, each in the folder of its name."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, list(names)

    def number(self, name: str, query: str) -> int:
        """A number from one outbox; 0 if it does not exist yet."""
        path = self._folder / name / "outbox.sqlite"
        if not path.exists():
            return 0
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)) as db:
                row = db.execute(query).fetchone()
        except sqlite3.Error:  # it is being created or recovered
            return 0
        return int(row[0] or 0) if row else 0

    def sealed(self) -> int:
        """Batches that ever reached an outbox."""
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'batches'"
        return sum(self.number(name, query) for name in self._names)

    def waiting(self) -> int:
        """Batches without a receipt."""
        return sum(self.number(name, _WAITING) for name in self._names)

    def settled(self) -> int:
        """Batches that were receipted (or refused)."""
        return self.sealed() - self.waiting()

    def sealed_until_s(self) -> int:
        """The end of the furthest window that any meter has sealed, UTC epoch seconds; 0 before any."""
        return max(self.number(name, "SELECT max(until_s) FROM sealed") for name in self._names)

    def newest(self) -> dict[str, int]:
        """The newest waiting batch, by outbox."""
        query = "SELECT max(id) FROM batches WHERE state = 'waiting'"
        return {name: self.number(name, query) for name in self._names}

    def gone(self, marks: dict[str, int]) -> bool:
        """Whether no batch waits that is as old as these marks or older."""
        return all(self.number(name, f"{_WAITING} AND id <= {most}") == 0 for name, most in marks.items())


class Drains:
    """Measures, after each outage of the broker, the time until the batches that waited have receipts."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._back_at = 0.0
        self._open: list[dict[str, int]] = []
        self.taken: list[float] = []

    @property
    def open(self) -> int:
        """Outages with batches that still wait."""
        return len(self._open)

    def begin(self, marks: dict[str, int]) -> None:
        """The broker has just restarted; a new outage restarts the measurement of earlier ones too."""
        self._back_at = time.monotonic()
        self._open.append(marks)

    def look(self) -> None:
        """Update the measurements; call this a few times a second."""
        for marks in list(self._open):
            if self._backlog.gone(marks):
                self._open.remove(marks)
                self.taken.append(time.monotonic() - self._back_at)
