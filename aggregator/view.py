"""The display of `gridhe-aggregate`: a live table on a terminal, log lines otherwise."""

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from gridhe.aggregator.counters import Snapshot

if TYPE_CHECKING:
    from gridhe.aggregator.service import AggregatorService

__all__ = ["LiveView", "LogView"]

_log = logging.getLogger(__name__)


class _Rates:
    """Batches and bytes per second since the last call."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._folded = self._bytes = 0

    def since_last(self, snapshot: Snapshot) -> tuple[float, float]:
        now, counters = time.monotonic(), snapshot.counters
        seconds = max(now - self._at, 1e-3)
        rates = (counters.folded - self._folded) / seconds, (counters.bytes - self._bytes) / seconds
        self._at, self._folded, self._bytes = now, counters.folded, counters.bytes
        return rates


def _fields(snapshot: Snapshot, connected: bool, batches_s: float, bytes_s: float) -> dict[str, Any]:
    counters = snapshot.counters
    return {
        "connected": connected,
        "ready": snapshot.ready,
        "meters": snapshot.meters,
        "missing_plans": len(snapshot.missing_plans),
        "batches_per_s": round(batches_s, 1),
        "mb_per_s": round(bytes_s / 1e6, 2),
        "folded": counters.folded,
        "duplicates": counters.duplicates,
        "rejected": dict(counters.rejected),
        "open_parts": snapshot.open_parts,
        "stranded_parts": snapshot.stranded_parts,
        "open_windows": snapshot.open_windows,
        "oldest_open_s": round(snapshot.oldest_open_s, 1),
        "uncommitted": snapshot.uncommitted,
        "commit_ms": round(snapshot.commit_s * 1e3, 1),
        "closed": counters.closed,
        "counted": counters.counted,
        "expected": counters.expected,
        "expired_parts": counters.expired_parts,
        "expired_batches": counters.expired_batches,
        "strands": counters.strands,
        "unsound_parts": counters.unsound_parts,
        "unsound_batches": counters.unsound_batches,
        "undelivered": snapshot.undelivered,
        "refused_totals": snapshot.refused_totals,
        "refused": dict(counters.refused),
        "memory_mb": round(snapshot.resident_bytes / 1e6, 1),
    }


class LogView:
    """One log line every `interval_s` seconds."""

    interval_s = 10.0

    def __init__(self) -> None:
        self._rates = _Rates()

    def opened(self) -> AbstractContextManager[Any]:
        """A context that does nothing."""
        return nullcontext()

    def show(self, service: "AggregatorService") -> None:
        """Log the present state."""
        snapshot = service.snapshot()
        if snapshot.missing_plans:
            why = "bundles of plans on the roster are missing: run gridhe-keyring bundle --publish"
            _log.warning("plans missing", extra={"plans": list(snapshot.missing_plans), "why": why})
        _log.info("progress", extra=_fields(snapshot, service.connected, *self._rates.since_last(snapshot)))


class LiveView:
    """A live table; needs the `operator` extra (rich)."""

    interval_s = 0.5

    def __init__(self) -> None:
        from rich.live import Live

        self._rates = _Rates()
        self._live = Live(refresh_per_second=4)

    def opened(self) -> AbstractContextManager[Any]:
        """The context in which the table is shown."""
        return self._live

    def show(self, service: "AggregatorService") -> None:
        """Draw the present state."""
        from rich.table import Table

        snapshot = service.snapshot()
        fields = _fields(snapshot, service.connected, *self._rates.since_last(snapshot))
        rejected, refused = fields.pop("rejected"), fields.pop("refused")
        table = Table(title="gridhe-aggregate", show_header=False, min_width=44)
        table.add_column("what", style="cyan")
        table.add_column("value", justify="right")
        for name, value in fields.items():
            table.add_row(
                name.replace("_", " "), f"{value:,}" if isinstance(value, int | float) else str(value)
            )
        for title, reasons in (("rejected", rejected), ("total refused", refused)):
            for reason, count in sorted(reasons.items()):
                table.add_row(f"{title}: {reason}", f"{count:,}", style="yellow")
        self._live.update(table)
