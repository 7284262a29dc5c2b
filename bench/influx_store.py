"""Records in InfluxDB 1.8 or 2.x, through the API that both have: /api/v2/write and /api/v2/query (Flux).

A record is a point of measurement `gridhe_bench`: tags suite, case, preset, metric, host and version (from
small sets), the figures and the run as fields, its time in nanoseconds. Points wait in memory until `flush`;
a failed write is retried with growing pauses. Every run writes the local store first, so points that InfluxDB
has not accepted at the end of a run can be sent later: `gridhe-bench push RUN`.
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
    """The server, bucket and token. The token is never printed."""

    url: str
    org: str
    bucket: str  # with 1.8: `database/retention-policy`
    token: str

    @classmethod
    def load(
        cls, given: Mapping[str, str | None], environ: Mapping[str, str] = os.environ
    ) -> "InfluxSettings":
        """From options, else INFLUXDB_V2_URL, _ORG, _BUCKET and _TOKEN. Raises ConfigError."""
        values = {}
        for name, default in (("url", None), ("org", "gridhe"), ("bucket", None), ("token", "")):
            value = given.get(name) or environ.get(f"INFLUXDB_V2_{name.upper()}") or default
            if value is None:
                raise ConfigError(
                    f"InfluxDB's {name} is missing: give --influx-{name}, or set INFLUXDB_V2_{name.upper()}"
                )
            values[name] = value
        _check_url(values["url"])
        return cls(**values)

    def __repr__(self) -> str:
        return f"InfluxSettings(url={self.url!r}, org={self.org!r}, bucket={self.bucket!r})"


def _check_url(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, an unfinished [address
        whole = False
    if not whole:
        raise ConfigError(
            f"InfluxDB's url is {url!r}; expected http://HOST:PORT or https://HOST:PORT, such as "
            "http://127.0.0.1:8086"
        )


class InfluxStore:
    """A bucket of records. `write` only stores a point in memory; `flush` sends, and may be repeated."""

    def __init__(self, settings: InfluxSettings) -> None:
        """Make the client, which connects on first use."""
        self.settings = settings
        self._client = InfluxDBClient(
            url=settings.url,
            token=settings.token,
            org=settings.org,
            timeout=_TIMEOUT_MS,
            retries=urllib3.Retry(total=2, backoff_factor=0.2, allowed_methods=None),
        )
        # Errors are raised below in one line, so the client's own long warnings are turned off.
        for name in ("influxdb_client", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._writer = self._client.write_api(write_options=SYNCHRONOUS)
        self._waiting: list[Any] = []

    def write(self, record: Record) -> None:
        """Store a record in memory until the next `flush`."""
        self._waiting.append(_point(record))

    def flush(self) -> None:
        """Send the waiting points. Raises StoreError; points that were not accepted keep waiting."""
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
        records = self._query(f'|> filter(fn: (r) => r.run == "{check_run(run)}")')
        if not records:
            raise StoreError(
                f"there is no run {run} in {self.settings.url}; see gridhe-bench list --store influx"
            )
        return records

    def runs(self) -> list[RunSummary]:
        """All runs, the newest first."""
        return summarise(self._query(""))

    def close(self) -> None:
        """Close the client. Points that were not flushed are lost here."""
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
        text = " ".join((body.decode(errors="replace") if isinstance(body, bytes) else str(body)).split())
        if error.status == 403 and "flux-enabled" in text:
            return StoreError(
                f"{where} accepts runs, but no queries; set flux-enabled = true under [http] in its "
                "influxdb.conf (or INFLUXDB_HTTP_FLUX_ENABLED=true), and restart it"
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
        return StoreError(f"{where} refused the request (HTTP {error.status}): {text[:200]}")

    def _away(self, error: Exception) -> StoreError:
        reason = type(getattr(error, "reason", None) or error).__name__
        return StoreError(
            f"no InfluxDB at {self.settings.url} ({reason}); start it or give another --influx-url"
        )


def _point(record: Record) -> Any:
    point: Any = Point(_MEASUREMENT)  # type: ignore[no-untyped-call]  # the client has no types there
    point.time(record.at_ns, WritePrecision.NS)
    for name in _TAGS:
        # InfluxDB does not store an empty tag.
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
        fields[name] = fields.get(name) or ""  # InfluxDB returns no value for an empty text
    return fields
