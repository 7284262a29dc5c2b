"""The work of a meters' process that waits for its commit, and the commit.

A full disk stops nothing else: the work stays in memory, and the commit is retried.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gridhe.base.failpoints import failpoint
from gridhe.base.sqlite import DatabaseFull
from gridhe.meter_agent.outbox import Committed, SealedBatch, Settled

if TYPE_CHECKING:
    from gridhe.meter_agent.outbox import Outbox

__all__ = ["Commits", "ServiceCounts"]

_LOG = logging.getLogger(__name__)
_DISK_RETRY_S = 2.0


@dataclass(slots=True)
class ServiceCounts:
    """Counts since the process started."""

    sealed: int = 0
    repeated: int = 0  # windows that an earlier run had sealed
    dropped: int = 0
    resealed: int = 0  # windows sealed again, for the meter's new group or the later plan
    junk: int = 0  # messages that are no status, plan or receipt for these meters


@dataclass(slots=True)
class Commits:
    """What waits to be committed together: sealed batches, settled ones, journals of open readings."""

    outbox: "Outbox"
    counts: ServiceCounts
    clock: Callable[[], float]  # monotonic seconds
    clock_s: float | None = None  # the believed time, UTC epoch seconds
    sealed: list[SealedBatch] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    journals: dict[str, bytes] = field(default_factory=dict)
    oldest_s: float | None = None  # since when a batch waits
    disk_full_until_s: float = 0.0

    def seal(self, *batches: SealedBatch) -> None:
        """Add sealed batches."""
        self.sealed += batches
        self._since()

    def settle(self, *batches: Settled) -> None:
        """Add settled batches."""
        self.settled += batches
        self._since()

    def _since(self) -> None:
        if self.oldest_s is None:
            self.oldest_s = self.clock()

    def waited_s(self, now_s: float) -> float:
        """How long the oldest batch has waited; 0 without any."""
        return 0.0 if self.oldest_s is None else now_s - self.oldest_s

    @property
    def waiting(self) -> bool:
        """Whether a batch waits."""
        return bool(self.sealed or self.settled)

    def commit(self, now_s: float) -> Committed | None:
        """Commit all that waits. Returns None if the disk is full; call again later."""
        if now_s < self.disk_full_until_s:
            return None
        failpoint("meter.3.before")
        try:
            result = self._write()
        except DatabaseFull as error:
            if self.disk_full_until_s == 0.0:
                _LOG.error("%s; readings wait in memory until then", error)
            self.disk_full_until_s = now_s + _DISK_RETRY_S
            return None
        failpoint("meter.3.after")
        if self.disk_full_until_s:
            _LOG.info("the disk has room again")
            self.disk_full_until_s = 0.0
        return result

    def flush(self) -> None:
        """Commit everything at a clean stop. Raises DatabaseFull when the disk has no room."""
        self.disk_full_until_s = 0.0
        if self.waiting or self.journals:
            self._write()

    def _write(self) -> Committed:
        result = self.outbox.commit(
            sealed=self.sealed, settled=self.settled, journals=self.journals, clock_s=self.clock_s
        )
        self.counts.sealed += len(self.sealed) - result.repeated
        self.counts.repeated += result.repeated
        self.counts.dropped += len(result.dropped)
        self.sealed, self.settled, self.journals, self.oldest_s = [], [], {}, None
        return result
