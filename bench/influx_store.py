"""Records in InfluxDB, through what 1.8 and 2.x both speak: /api/v2/write and /api/v2/query (Flux).

A record is a point of measurement `gridhe_bench`: tags suite, case, preset, metric, host and version (from
small sets), the figures and the run as fields, its moment in nanoseconds as time. Points wait in a batch
and are written again, with a growing pause, while the server is away. What could not be written when
the run ends is still in the local store, which every run writes first: `gridhe-bench push RUN`.
"""

import json
import logging
import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import urllib3
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.point import Point
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException

from gridhe.bench.record import FORMAT, Record, decode
from gridhe.bench.store import RunSummary, check_run, summarise
from gridhe.errors import ConfigError, StoreError

__all__ = ["InfluxSettings", "InfluxStore"]

_MEASUREMENT = "gridhe_bench"
_TAGS = ("suite", "case", "preset", "metric", "host", "version")
_BATCH = 200
_TIMEOUT_MS = 10_000
_TRANSPORT = (urllib3.exceptions.HTTPError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class InfluxSettings:
    """Where the server is. The token is never printed."""

    url: str
    org: str
    bucket: str  # of 1.8: `database/retention-policy`
    token: str

    @classmethod
    def load(
        cls, given: Mapping[str, str | None], environ: Mapping[str, str] = os.environ
    ) -> "InfluxSettings":
        """From flags, else INFLUXDB_V2_URL, _ORG, _BUCKET and _TOKEN. Raises ConfigError."""
        found = {}
        for name, default in (("url", None), ("org", "gridhe"), ("bucket", None), ("token", "")):
            value = given.get(name) or environ.get(f"INFLUXDB_V2_{name.upper()}") or default
            if value is None:
                raise ConfigError(
                    f"InfluxDB's {name} is not known: give --influx-{name}, or set INFLUXDB_V2_{name.upper()}"
                )
            found[name] = value
        _check_url(found["url"])
        return cls(**found)

    def __repr__(self) -> str:
        return f"InfluxSettings(url={self.url!r}, org={self.org!r}, bucket={self.bucket!r})"


def _check_url(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, an unfinished [address
        whole = False
    if not whole:
        raise ConfigError(
            f"InfluxDB's url is {url!r}; expected http://HOST:PORT or https://HOST:PORT, such as "
            "http://127.0.0.1:8086"
        )


class InfluxStore:
    """A bucket of records. `write` never fails: what waits is sent by `flush`, which may be called again."""

    def __init__(self, settings: InfluxSettings) -> None:
        """Connects on first use."""
        self.settings = settings
        self._client = InfluxDBClient(
            url=settings.url,
            token=settings.token,
            org=settings.org,
            timeout=_TIMEOUT_MS,
            retries=urllib3.Retry(total=2, backoff_factor=0.2, allowed_methods=None),
        )
        # Their own warnings repeat at length what is raised here in one line. (The client has set levels.)
        for name in ("influxdb_client", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._writer = self._client.write_api(write_options=SYNCHRONOUS)
        self._waiting: list[Any] = []

    def write(self, record: Record) -> None:
        """Keep a record until the next `flush`."""
        self._waiting.append(_point(record))

    def flush(self) -> None:
        """Send what waits. Raises StoreError, and keeps what was not taken."""
        while self._waiting:
            batch = self._waiting[:_BATCH]
            try:
                self._writer.write(bucket=self.settings.bucket, org=self.settings.org, record=batch)
            except ApiException as error:
                raise self._refused(error) from None
            except _TRANSPORT as error:
                raise self._away(error) from None
            del self._waiting[: len(batch)]

    def read(self, run: str) -> list[Record]:
        """A run's records, in the order they were made."""
        found = self._query(f'|> filter(fn: (r) => r.run == "{check_run(run)}")')
        if not found:
            raise StoreError(
                f"there is no run {run} in {self.settings.url}; see gridhe-bench list --store influx"
            )
        return found

    def runs(self) -> list[RunSummary]:
        """What there is, the newest first."""
        return summarise(self._query(""))

    def close(self) -> None:
        """Let go; what was not flushed is given up here."""
        self._writer.close()  # type: ignore[no-untyped-call]  # the client has no types there
        self._client.close()  # type: ignore[no-untyped-call]

    def _query(self, condition: str) -> list[Record]:
        flux = (
            f"from(bucket: {json.dumps(self.settings.bucket)}) |> range(start: 0) "
            f'|> filter(fn: (r) => r._measurement == "{_MEASUREMENT}") '
            '|> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value") ' + condition
        )
        try:
            tables = self._client.query_api().query(flux, org=self.settings.org)
        except ApiException as error:
            raise self._refused(error) from None
        except _TRANSPORT as error:
            raise self._away(error) from None
        rows = [row.values for table in tables for row in table.records]
        records = [
            decode(_fields(row), f"{self.settings.url}, bucket {self.settings.bucket}") for row in rows
        ]
        return sorted(records, key=lambda record: record.at_ns)

    def _refused(self, error: ApiException) -> StoreError:
        where = f"InfluxDB at {self.settings.url}"
        body = error.message or error.body or error.reason or ""
        said = " ".join((body.decode(errors="replace") if isinstance(body, bytes) else str(body)).split())
        if error.status == 403 and "flux-enabled" in said:
            return StoreError(
                f"{where} takes runs but gives none back; set flux-enabled = true under [http] in its "
                "influxdb.conf (or INFLUXDB_HTTP_FLUX_ENABLED=true), and start it again"
            )
        if error.status in (401, 403):
            return StoreError(
                f"{where} refuses the token (HTTP {error.status}); set INFLUXDB_V2_TOKEN to one that may "
                f"read and write {self.settings.bucket} (InfluxDB 1.8: user:password)"
            )
        if error.status == 404:
            return StoreError(
                f"{where} has no bucket {self.settings.bucket!r} or org {self.settings.org!r} (HTTP 404); "
                "create them, or give --influx-bucket and --influx-org"
            )
        return StoreError(f"{where} refuses (HTTP {error.status}): {said[:200]}")

    def _away(self, error: Exception) -> StoreError:
        reason = type(getattr(error, "reason", None) or error).__name__
        return StoreError(f"no InfluxDB at {self.settings.url} ({reason}); start it, or give --influx-url")


def _point(record: Record) -> Any:
    point: Any = Point(_MEASUREMENT)  # type: ignore[no-untyped-call]  # the client has no types there
    point.time(record.at_ns, WritePrecision.NS)
    for name in _TAGS:
        # An empty tag is no tag to InfluxDB.
        point.tag(name, getattr(record, name) or "-")
    figures = asdict(record.figures)
    for name in ("run", "unit", "better", "machine", "note"):
        point.field(name, getattr(record, name))
    for name, value in {"format": FORMAT, "at_ns": record.at_ns, **figures}.items():
        point.field(name, value)
    return point


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    fields = dict(row)
    for name in _TAGS:
        if fields.get(name) == "-":
            fields[name] = ""
    for name in ("note", "machine"):
        fields[name] = fields.get(name) or ""  # an empty text comes back as none at all
    return fields
