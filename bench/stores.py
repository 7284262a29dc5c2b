"""Opens the store that a command uses, and writes a run to both stores so that nothing is lost."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from gridhe.bench.extras import check_extra
from gridhe.bench.local_store import LocalStore, default_folder
from gridhe.bench.record import Record
from gridhe.bench.store import RunSummary, TimingsStore
from gridhe.errors import StoreError

if TYPE_CHECKING:
    from gridhe.bench.influx_store import InfluxStore

__all__ = ["BothStores", "open_influx", "open_store", "push"]

_log = logging.getLogger(__name__)
_FLUSH_EVERY = 100


class BothStores:
    """Writes every record to the local store first, then to InfluxDB if it is reachable."""

    def __init__(self, local: LocalStore, influx: "InfluxStore") -> None:
        self._local, self._influx = local, influx
        self._unsent = 0
        self.missed: StoreError | None = None  # why InfluxDB lacks records; None if it has all

    def write(self, record: Record) -> None:
        """Store a record locally; InfluxDB gets it now or later."""
        self._local.write(record)
        self._influx.write(record)
        self._unsent += 1
        if self._unsent >= _FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Send the waiting records. An error of InfluxDB does not end the run; it is stored in `missed`."""
        self._local.flush()
        self._unsent = 0
        try:
            self._influx.flush()
            self.missed = None
        except StoreError as error:
            if self.missed is None:
                _log.warning("%s; the run continues with the local store", error)
            self.missed = error

    def read(self, run: str) -> list[Record]:
        """A run's records, from the local store."""
        return self._local.read(run)

    def runs(self) -> list[RunSummary]:
        """The runs of the local store."""
        return self._local.runs()

    def close(self) -> None:
        """Send the waiting records and close both stores."""
        self.flush()
        self._local.close()
        self._influx.close()


def open_influx(given: dict[str, str | None]) -> "InfluxStore":
    """InfluxDB, from options and environment. Raises ConfigError, also if its client is not installed."""
    check_extra("InfluxDB", "influxdb_client")
    from gridhe.bench.influx_store import InfluxSettings, InfluxStore

    return InfluxStore(InfluxSettings.load(given))


def open_store(kind: str, home: Path | None, influx: dict[str, str | None]) -> TimingsStore:
    """The store to read from. Raises ConfigError, StoreError."""
    if kind == "influx":
        return open_influx(influx)
    return LocalStore(home or default_folder())


def push(run: str, local: LocalStore, influx: "InfluxStore") -> int:
    """Send a run of the local store to InfluxDB; repeating it adds no duplicates. Raises StoreError."""
    records = local.read(run)
    for record in records:
        influx.write(record)
    influx.flush()
    return len(records)
