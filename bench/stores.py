"""Which store a command uses, and a run that is written to both so that nothing is lost."""

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
    """Every record goes to the local store first, then to InfluxDB as far as it is there."""

    def __init__(self, local: LocalStore, influx: "InfluxStore") -> None:
        self._local, self._influx = local, influx
        self._unsent = 0
        self.missed: StoreError | None = None  # why InfluxDB does not hold all of it; None: it does

    def write(self, record: Record) -> None:
        """Keep a record here; InfluxDB gets it now or later."""
        self._local.write(record)
        self._influx.write(record)
        self._unsent += 1
        if self._unsent >= _FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Send what waits. An InfluxDB that is away or refuses ends no run: `missed` tells."""
        self._local.flush()
        self._unsent = 0
        try:
            self._influx.flush()
            self.missed = None
        except StoreError as error:
            if self.missed is None:
                _log.warning("%s; the run goes on into the local store", error)
            self.missed = error

    def read(self, run: str) -> list[Record]:
        """A run's records, from here."""
        return self._local.read(run)

    def runs(self) -> list[RunSummary]:
        """The runs that are here."""
        return self._local.runs()

    def close(self) -> None:
        """Send what waits and let go."""
        self.flush()
        self._local.close()
        self._influx.close()


def open_influx(given: dict[str, str | None]) -> "InfluxStore":
    """InfluxDB, by flags and environment. Raises ConfigError, also where its client is not installed."""
    check_extra("InfluxDB", "influxdb_client")
    from gridhe.bench.influx_store import InfluxSettings, InfluxStore

    return InfluxStore(InfluxSettings.load(given))


def open_store(kind: str, home: Path | None, influx: dict[str, str | None]) -> TimingsStore:
    """The store to read from. Raises ConfigError, StoreError."""
    if kind == "influx":
        return open_influx(influx)
    return LocalStore(home or default_folder())


def push(run: str, local: LocalStore, influx: "InfluxStore") -> int:
    """Send a run from here to InfluxDB; a record that is there already stays one. Raises StoreError."""
    records = local.read(run)
    for record in records:
        influx.write(record)
    influx.flush()
    return len(records)
