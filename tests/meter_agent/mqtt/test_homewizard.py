"""HomeWizard's HTTP interface: real answers through a real server, and servers that refuse, hang or lie."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.sources import homewizard as driver
from gridhe.meter_agent.sources.homewizard import MeasurementDecoder, Settings, open_device
from gridhe.meter_agent.sources.options import source_settings
from gridhe.meter_agent.sources.payload import MAX_BYTES
from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe_testing.device_data import device_files, needs_device_data
from gridhe_testing.home import HomeSink, in_loop
from gridhe_testing.home_certificate import HomeCertificate
from gridhe_testing.home_decoders import check_reading

NOW_S = 1_736_510_400.0
TOKEN = "0123456789ABCDEF"
GOOD = {"total_power_import_kwh": 5.25, "active_power_w": 7}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def texts(*answers: str | web.Response) -> Answer:
    """Each answer in turn, the last one for ever."""
    left = list(answers)

    async def answer(_request: web.Request) -> web.StreamResponse:
        now = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(text=now, content_type="application/json") if isinstance(now, str) else now

    return answer


@asynccontextmanager
async def meter(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A device; gives its address."""
    app = web.Application()
    app.router.add_get("/api/v1/data", answer)
    app.router.add_get("/api/measurement", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def polling(address: str, sink: HomeSink, **options: Any) -> AsyncIterator["asyncio.Task[None]"]:
    settings = Settings(address=address, **({"poll_s": 1} | options))
    object.__setattr__(settings, "poll_s", 0.02)  # faster than its lower bound
    task = asyncio.ensure_future(open_device(settings).run(sink))
    try:
        yield task
    finally:
        failed = task.done() and not task.cancelled()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if failed:
            task.result()


def decoded(document: Any, **options: Any) -> DeviceReading | None:
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    return MeasurementDecoder(largest_w=100_000, **options).decode(payload, NOW_S)


@needs_device_data
@in_loop
async def test_real_answers_read_as_expected_through_http() -> None:
    (file,) = (each for each in device_files("mqtt") if "http" in str(each))
    lines = [json.loads(line) for line in file.data.decode().splitlines()]
    sink = HomeSink()
    async with meter(texts(*(line["payload"] for line in lines))) as address, polling(address, sink):
        await sink.until(lambda: len(sink.messages) >= len(lines))
    for line, heard in zip(lines, sink.messages, strict=False):
        found = [
            {
                "import_wh": int(total_wh(reading.imported) or 0),
                "export_wh": int(total_wh(reading.exported) or 0),
                "power_w": float(reading.power_w or 0),
            }
            for reading in heard.readings
        ]
        wanted = {
            key: value
            for key, value in line["expect"].items()
            if key in ("import_wh", "export_wh", "power_w")
        }
        assert found == ([wanted] if wanted else []), line
        assert all(reading.imported and reading.exported for reading in heard.readings)
        assert bool(heard.faults) is not bool(heard.readings)


# -- decoding ----------------------------------------------------------------------------------


def test_repro_tariffs_are_summed_only_without_a_total_and_only_if_all_are_numbers() -> None:
    tariffs = {f"total_power_import_t{n}_kwh": 1.5 * n for n in (1, 2, 3, 4)}
    assert total_wh(decoded(tariffs).imported) == 15_000  # type: ignore[union-attr]  # a reading
    total = tariffs | {"total_power_import_kwh": 15.25}
    assert total_wh(decoded(total).imported) == 15_250  # type: ignore[union-attr]  # a reading
    assert decoded(tariffs | {"total_power_import_t2_kwh": None}) is None
    assert decoded(tariffs | {"total_power_import_kwh": "15,25"}) is None
    null = tariffs | {"total_power_import_kwh": None}
    assert total_wh(decoded(null).imported) == 15_000  # type: ignore[union-attr]  # a reading


def test_names_and_types_of_other_firmware_are_read() -> None:
    reading = decoded({"energy_import_kwh": "12.5", "power_w": "-543", "unique_id": "E1"})
    assert reading is not None
    assert total_wh(reading.imported) == 12_500
    assert reading.exported == {}
    assert reading.power_w == -543
    assert reading.device == "E1"


def test_a_local_time_needs_a_zone() -> None:
    document = GOOD | {"timestamp": "2025-01-10T12:59:58", "gas_timestamp": 210606140010}
    for zone, at_s in ((None, None), ("Europe/Amsterdam", NOW_S - 2)):
        reading = decoded(document, zone=zone)
        assert reading is not None
        assert reading.at_s == at_s
    ahead = decoded(GOOD | {"timestamp": "2036-01-10T12:59:58"}, zone="Europe/Amsterdam")
    assert ahead is not None
    assert ahead.at_s is None


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not_json"),
        (b"<html>", "not_json"),
        (b"[" * 60_000, "not_json"),
        (b"[]", "not_json"),
        (b" " * (MAX_BYTES + 1), "too_long"),
        (b'{"error":{"id":202,"description":"API not enabled"}}', "refused"),
        (b'{"smr_version":null}', "no_meter_data"),
        (b'{"total_power_import_kwh":NaN}', "not_a_number"),
        (b'{"total_power_import_kwh":1e999999}', "not_a_number"),
        (b'{"total_power_import_kwh":true}', "not_a_number"),
        (b'{"total_power_import_kwh":-1}', "impossible"),
        (b'{"total_power_import_kwh":1,"total_power_import_kwh":2}', "not_a_number"),
    ],
)
def test_an_answer_without_a_sure_register_is_counted_and_no_reading(payload: bytes, reason: str) -> None:
    made = MeasurementDecoder(largest_w=100_000)
    assert made.decode(payload, NOW_S) is None
    assert made.faults[reason] == 1


@given(
    st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(
            [
                "total_power_import_kwh",
                "total_power_import_t1_kwh",
                "energy_export_kwh",
                "power_w",
                "unique_id",
                "timestamp",
            ]
        ),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    ).map(lambda d: json.dumps(d).encode())
)
def test_any_bytes_give_a_reading_or_a_count(payload: bytes) -> None:
    made = MeasurementDecoder(largest_w=100_000, zone="Europe/Amsterdam")
    reading = made.decode(payload, NOW_S)
    if reading is None:
        assert made.faults
    else:
        check_reading(reading, NOW_S)


# -- the transport -----------------------------------------------------------------------------


@in_loop
async def test_it_is_asked_again_and_again() -> None:
    answers = [json.dumps(GOOD | {"total_power_import_kwh": 5.25 + n / 100}) for n in range(4)]
    sink = HomeSink()
    async with meter(texts(*answers)) as address, polling(address, sink):
        await sink.until(lambda: len(sink.readings) >= 4)
    assert [total_wh(each.imported) for each in sink.readings[:4]] == [5_250, 5_260, 5_270, 5_280]
    assert sink.names == [f"{address}/api/v1/data"]


@in_loop
async def test_repro_a_local_api_that_is_off_says_how_to_switch_it_on() -> None:
    sink = HomeSink()
    off = web.Response(status=403, text='{"error":{"id":202,"description":"API not enabled"}}')
    with pytest.raises(
        SourceError, match=r"the local API is off; switch it on in the HomeWizard app"
    ) as told:
        async with meter(texts(off)) as address, polling(address, sink) as task:
            await task
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("status", "told"),
    [(404, "is this a HomeWizard"), (401, "refuses the token"), (302, None), (500, None), (503, None)],
)
@in_loop
async def test_other_statuses_end_the_first_attempt_or_are_waited_for(status: int, told: str | None) -> None:
    sink = HomeSink()
    headers = {"Location": "http://192.0.2.1/"}
    answer = texts(web.Response(status=status, headers=headers), json.dumps(GOOD))
    async with meter(answer) as address:
        if told is not None:
            with pytest.raises(SourceError, match=told):
                async with polling(address, sink) as task:
                    await task
            return
        async with polling(address, sink):
            await sink.until(lambda: bool(sink.readings))
        assert sink.losses == [f"{address}/api/v1/data answers with status {status}"]


@in_loop
async def test_readings_go_on_after_the_api_was_off_for_a_while() -> None:
    sink = HomeSink()
    answer = texts(json.dumps(GOOD), web.Response(status=403), json.dumps(GOOD))
    async with meter(answer) as address, polling(address, sink) as task:
        await sink.until(lambda: len(sink.readings) >= 2)
        assert not task.done()
    assert len(sink.losses) == 1
    assert sink.names == [f"{address}/api/v1/data"] * 2


@in_loop
async def test_a_device_that_is_not_there_is_told_and_waited_for() -> None:
    async with meter(texts("{}")) as address:
        pass
    sink = HomeSink()
    async with polling(address, sink):
        await sink.until(lambda: len(sink.losses) >= 3)
    url = f"{address}/api/v1/data"
    assert set(sink.losses) == {f"cannot reach {url}: Connection refused; check source.address"}


@in_loop
async def test_a_device_that_does_not_answer_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_ANSWER_S", 0.1)
    waiting = asyncio.Event()

    async def hang(_request: web.Request) -> web.StreamResponse:
        await waiting.wait()
        return web.Response()

    sink = HomeSink()
    async with meter(hang) as address:
        async with polling(address, sink):
            await sink.until(lambda: len(sink.losses) >= 2)
        waiting.set()
    assert sink.losses[0] == f"{address}/api/v1/data does not answer within 0.1 s; check source.address"


@in_loop
async def test_repro_an_answer_without_an_end_is_cut_off() -> None:
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while sent < 10**9:
                await response.write(b" " * 65_536)
                sent += 65_536
        except ConnectionError:
            pass
        return response

    sink = HomeSink()
    async with meter(flood) as address, polling(address, sink):
        await sink.until(lambda: sink.faults["too_long"] >= 2)
    assert sink.readings == []
    assert sent < 10**9


@in_loop
async def test_version_2_uses_the_token_and_the_pinned_certificate(tmp_path: Path) -> None:
    own, other = (HomeCertificate.make(tmp_path / name, address=None) for name in ("own", "other"))
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    asked: list[tuple[str, str | None, str | None]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = request.headers
        asked.append((request.path, headers.get("Authorization"), headers.get("X-Api-Version")))
        return web.json_response({"energy_import_kwh": 5.25})

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(own.cert, own.key)
    sink = HomeSink()
    async with meter(answer, tls) as address:
        options = {"token_file": str(token)}
        colons = ":".join(own.fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()
        async with polling(address, sink, fingerprint=colons, **options):
            await sink.until(lambda: bool(sink.readings))
        assert asked[0] == ("/api/measurement", f"Bearer {TOKEN}", "2")
        asked.clear()
        with pytest.raises(SourceError, match=f"another certificate .SHA-256 {own.fingerprint}") as told:
            async with polling(address, sink, fingerprint=other.fingerprint, **options) as task:
                await task
    assert asked == [], "the token went to a device with another certificate"
    assert TOKEN not in str(told.value)
    assert [total_wh(each.imported) for each in sink.readings[:1]] == [Decimal(5_250)]


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "address is missing"),
        ({"address": "192.168.1.20"}, "expected http://host or https://host"),
        ({"address": "http://h/api/v1/data"}, "expected http://host or https://host"),
        ({"address": "http://u:p@h"}, "expected http://host or https://host"),
        (
            {"address": "https://h"},
            "needs token_file and fingerprint; the fingerprint: openssl s_client -connect h:443",
        ),
        (
            {"address": "http://h", "token_file": "t"},
            "token_file and fingerprint are for version 2: use https://",
        ),
        ({"address": "https://h", "token_file": "t", "fingerprint": "ab"}, "expected 64 hexadecimal digits"),
        ({"address": "http://h", "poll_s": "0.1"}, "poll_s: expected greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_one_clear_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        source_settings("homewizard", options)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "mode"), [("", 0o600), ("two\nlines", 0o600), ("caf\xe9", 0o600), ("t", 0o644)]
)
def test_a_token_file_that_is_unusable_is_refused(text: str, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    settings = Settings(address="https://h", token_file=str(path), fingerprint="ab" * 32)
    with pytest.raises(SourceError, match="token_file"):
        open_device(settings)
