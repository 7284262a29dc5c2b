"""InfluxDB keeps what the local store keeps, and loses nothing while it is away."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gridhe.bench.influx_store import InfluxSettings, InfluxStore
from gridhe.bench.local_store import LocalStore
from gridhe.bench.record import Record
from gridhe.bench.record_table import rows_of
from gridhe.errors import ConfigError, StoreError

Start = Callable[..., Any]
Connect = Callable[[InfluxSettings], InfluxStore]
RUN = "20260131t120000-1a2b"


def test_a_run_reads_the_same_from_influxdb_and_from_the_local_store(
    start_influx: Start, connect: Connect, make_record: Callable[..., Record], tmp_path: Path
) -> None:
    server = start_influx()
    records = [
        make_record(),
        make_record((1 / 3, 1e-9, 123456.789), unit="ms", note='a "note", with = and \\ in it'),
        make_record((7.0,), preset="", metric="time / numpy add", unit="x"),
        make_record((2.0, 2.0), case="a, b=c d", better="higher"),
    ]
    stores = [LocalStore(tmp_path / "runs"), connect(server.settings)]
    for store in stores:
        for record in records:
            store.write(record)
        store.flush()
    local, influx = (store.read(RUN) for store in stores)
    assert local == records
    assert influx == records
    assert rows_of(influx) == rows_of(local)
    assert stores[1].runs() == stores[0].runs()
    stores[0].close()


def test_killed_in_the_middle_it_loses_no_record(
    start_influx: Start, connect: Connect, make_record: Callable[..., Record]
) -> None:
    server = start_influx()
    store = connect(server.settings)
    records = [make_record() for _ in range(30)]
    for record in records[:10]:
        store.write(record)
    store.flush()
    server.kill()
    for record in records[10:20]:
        store.write(record)
    with pytest.raises(StoreError, match="no InfluxDB at"):
        store.flush()
    server.start()
    for record in records[20:]:
        store.write(record)
    store.flush()
    assert store.read(RUN) == records


def test_writing_a_run_twice_keeps_it_once(
    start_influx: Start, connect: Connect, make_record: Callable[..., Record]
) -> None:
    store = connect(start_influx().settings)
    records = [make_record() for _ in range(3)]
    for record in records * 2:
        store.write(record)
    store.flush()
    assert store.read(RUN) == records


def test_a_wrong_token_is_one_clear_error(
    start_influx: Start, connect: Connect, make_record: Callable[..., Record]
) -> None:
    store = connect(start_influx(auth=True).settings)
    store.write(make_record())
    with pytest.raises(StoreError, match=r"refuses the token \(HTTP 401\)") as refused:
        store.flush()
    assert "secret" not in str(refused.value)
    with pytest.raises(StoreError, match="refuses the token"):
        store.read(RUN)


def test_a_server_without_flux_is_reported_with_the_setting(
    start_influx: Start, connect: Connect, make_record: Callable[..., Record]
) -> None:
    store = connect(start_influx(flux=False).settings)
    store.write(make_record())
    store.flush()
    with pytest.raises(StoreError, match="set flux-enabled = true"):
        store.read(RUN)


def test_a_bucket_that_is_not_there_is_named(
    start_influx: Start, connect: Connect, make_record: Callable[..., Record]
) -> None:
    settings = start_influx().settings
    store = connect(InfluxSettings(url=settings.url, org="gridhe", bucket="other/autogen", token=""))
    store.write(make_record())
    with pytest.raises(StoreError, match="other/autogen"):
        store.flush()


def test_an_unknown_run_is_an_error(start_influx: Start, connect: Connect) -> None:
    store = connect(start_influx().settings)
    with pytest.raises(StoreError, match="there is no run"):
        store.read(RUN)


def test_settings_come_from_flags_then_environment() -> None:
    environ = {"INFLUXDB_V2_URL": "http://a:1", "INFLUXDB_V2_BUCKET": "b/c", "INFLUXDB_V2_TOKEN": "t0p"}
    settings = InfluxSettings.load({"url": "http://other:2", "bucket": None}, environ)
    assert (settings.url, settings.bucket, settings.token) == ("http://other:2", "b/c", "t0p")
    assert "t0p" not in repr(settings)
    with pytest.raises(ConfigError, match="INFLUXDB_V2_URL"):
        InfluxSettings.load({}, {})


@pytest.mark.parametrize(
    "url", ["localhost:8086", "127.0.0.1", "ftp://here:1", "http://", "http://here:port", "http://[::1"]
)
def test_a_url_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigError, match="expected http://HOST:PORT") as refused:
        InfluxSettings.load({"bucket": "b"}, {"INFLUXDB_V2_URL": url})
    assert repr(url) in str(refused.value)
