"""Rejected payloads for inspection: the newest ones, bounded in number and bytes."""

from collections import deque
from dataclasses import dataclass

from gridhe.aggregator.state.database import Database

__all__ = ["Quarantine", "Quarantined"]

# At most this much is kept in memory and written per commit, so that a flood of junk does not cause a flood
# of disk writes.
_WAITING_MAX = 16
_WAITING_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """One rejected payload, with its time (UTC epoch seconds), topic and reason."""

    at: float
    topic: str
    reason: str
    payload: bytes


class Quarantine:
    """The table of rejects. Raises StateError."""

    def __init__(self, database: Database, *, maximum: int, maximum_bytes: int) -> None:
        self._db = database
        self._maximum = maximum
        self._maximum_bytes = maximum_bytes
        self._waiting: deque[Quarantined] = deque(maxlen=_WAITING_MAX)

    def add(self, rejected: Quarantined) -> None:
        """Keep a reject until the next commit, unless it is larger than the quarantine."""
        if self._maximum and len(rejected.payload) <= self._maximum_bytes:
            self._waiting.append(rejected)
            while sum(len(one.payload) for one in self._waiting) > _WAITING_BYTES_MAX:
                self._waiting.popleft()

    def save(self) -> None:
        """Write the waiting rejects and delete the oldest beyond the bounds; inside a transaction."""
        if not self._waiting:
            return
        self._db.write_many(
            "INSERT INTO quarantine (at, topic, reason, payload) VALUES (?, ?, ?, ?)",
            [(one.at, one.topic[:1024], one.reason, one.payload) for one in self._waiting],
        )
        self._db.write(
            "DELETE FROM quarantine WHERE id <= (SELECT MAX(id) FROM (SELECT id, "
            "ROW_NUMBER() OVER (ORDER BY id DESC) AS place, "
            "SUM(LENGTH(payload)) OVER (ORDER BY id DESC) AS size FROM quarantine) "
            "WHERE place > ? OR size > ?)",
            self._maximum,
            self._maximum_bytes,
        )
        self._waiting.clear()

    def newest(self, limit: int = 100) -> list[Quarantined]:
        """At most `limit` stored rejects, newest first."""
        rows = self._db.query(
            "SELECT at, topic, reason, payload FROM quarantine ORDER BY id DESC LIMIT ?", limit
        )
        return [
            Quarantined(at=at, topic=topic, reason=reason, payload=payload)
            for at, topic, reason, payload in rows
        ]
