"""HAN ports through a real pseudo-terminal and a real TCP gateway, keys from files, settings from outside."""

import asyncio
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gridhe.errors import ConfigError, CredentialError, GridHEError
from gridhe.meter_agent.sources.driver import Device
from gridhe.meter_agent.sources.options import source_settings
from gridhe.meter_agent.sources.reading import total_wh
from gridhe.meter_agent.sources.registry import driver
from gridhe_testing.ciphered import encipher
from gridhe_testing.device_data import DeviceFile, device_files, needs_device_data
from gridhe_testing.dlms_meter import code, hdlc, mbus_segments, notification, scaler, structure, u32
from gridhe_testing.recording_sink import RecordingSink
from gridhe_testing.serial_pair import PlayingServer, SerialPair

FILES = device_files("han-dlms")


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test as a function that pytest can call."""

    @functools.wraps(test)
    def call(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return call


KEY, AUTHENTICATION_KEY = bytes(range(16)), bytes(range(16, 32))
PUSH = notification(structure(structure(code("1-0:1.8.0"), u32(1234567), scaler(0))))


def device(address: str, **settings: Any) -> Device:
    given = {"address": address, "zone": "Europe/Oslo"} | {name: str(each) for name, each in settings.items()}
    return driver("han").open_device(source_settings("han", given))


@asynccontextmanager
async def running(port: Device, sink: RecordingSink) -> Any:
    task = asyncio.create_task(port.run(sink))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def key_file(folder: Path, name: str, key: bytes, mode: int = 0o600) -> Path:
    path = folder / name
    path.write_text(key.hex(), encoding="ascii")
    path.chmod(mode)
    return path


async def through_terminal(folder: Path, data: bytes, sink: RecordingSink, count: int) -> None:
    with SerialPair(folder / "ttyHAN") as pair:
        async with running(device(str(pair.path)), sink):
            await sink.until(lambda: bool(sink.names))
            await pair.play(data, piece=61)
            await sink.until(lambda: len(sink.readings) >= count)


async def through_gateway(folder: Path, data: bytes, sink: RecordingSink, count: int) -> None:
    async with PlayingServer() as server, running(device(server.address), sink):
        await server.connected()
        await server.play(data, piece=61)
        await sink.until(lambda: len(sink.readings) >= count)


@needs_device_data
@pytest.mark.parametrize("file", FILES, ids=str)
@pytest.mark.parametrize("through", [through_terminal, through_gateway], ids=["terminal", "gateway"])
@on_a_loop
async def test_a_meters_file_is_read_through_its_transport(
    file: DeviceFile, through: Callable[..., Any], tmp_path: Path
) -> None:
    # A good push follows what is rejected or cut off: it alone is read. A bare push is read after a pause.
    rejected = not file.readings
    sink = RecordingSink()
    data = file.data + hdlc(PUSH) if rejected else file.data
    await through(tmp_path, data, sink, len(file.readings) or 1)
    if rejected:
        assert [total_wh(each.imported) for each in sink.readings] == [Decimal(1234567)]
        return
    found = [
        (total_wh(each.imported), total_wh(each.exported), each.power_w, each.at_s) for each in sink.readings
    ]
    right = [
        (
            each["import_wh"],
            each["export_wh"],
            each["power_w"],
            # A stamp that is not certain there may have a date in the zone of the test.
            got.at_s if each["ts_utc"] is None else datetime.fromisoformat(each["ts_utc"]).timestamp(),
        )
        for each, got in zip(file.readings, sink.readings, strict=True)
    ]
    assert found == right


@on_a_loop
async def test_an_encrypted_meter_is_read_with_keys_from_files(tmp_path: Path) -> None:
    apdu = encipher(PUSH, KEY, AUTHENTICATION_KEY)
    keys = {
        "key_file": key_file(tmp_path, "guek", KEY),
        "authentication_key_file": key_file(tmp_path, "gak", AUTHENTICATION_KEY),
    }
    sink = RecordingSink()
    async with PlayingServer() as server, running(device(server.address, **keys), sink):
        await server.connected()
        await server.play(b"".join(mbus_segments(apdu, 30)), piece=7)
        await sink.until(lambda: bool(sink.readings))
    assert [total_wh(each.imported) for each in sink.readings] == [Decimal(1234567)]
    assert sink.faults == {}


@on_a_loop
async def test_repro_a_wrong_key_is_told_once_a_push_with_what_to_do(tmp_path: Path) -> None:
    apdu = encipher(PUSH, KEY, AUTHENTICATION_KEY)
    sink = RecordingSink()
    wrong = key_file(tmp_path, "guek", bytes(16))
    async with PlayingServer() as server, running(device(server.address, key_file=wrong), sink):
        await server.connected()
        await server.play(hdlc(apdu) * 3)
        await sink.until(lambda: sink.faults.total() >= 3 and sink.hint is not None)
    assert sink.faults == {"wrong_key": 3}
    assert sink.readings == []
    assert "key_file" in str(sink.hint)


@on_a_loop
async def test_the_port_comes_back_and_half_a_push_of_before_is_forgotten(tmp_path: Path) -> None:
    frame, sink = hdlc(PUSH), RecordingSink()
    with SerialPair(tmp_path / "ttyHAN") as pair:
        async with running(device(str(pair.path)), sink):
            await sink.until(lambda: len(sink.names) == 1)
            await pair.play(frame[:30])
            await sink.until(lambda: sink.bytes == 30)
            pair.unplug()
            await sink.until(lambda: bool(sink.losses))
            pair.plug()
            await sink.until(lambda: len(sink.names) == 2)
            await pair.play(frame[30:] + frame)
            await sink.until(lambda: bool(sink.readings))
    assert [total_wh(each.imported) for each in sink.readings] == [Decimal(1234567)]
    assert sink.names[0] == f"{pair.path}, 2400 8E1"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"zone": "Europe/Olso"}, ConfigError, "Europe/Olso"),
        ({"zone": ".."}, ConfigError, "time zone"),
        ({"register_wh": "0"}, ConfigError, "register_wh"),
        ({"profile": "kaifo"}, ConfigError, "kaifa"),
        ({"parity": "X"}, ConfigError, "parity"),
        ({"baut": "9600"}, ConfigError, "baud"),
        ({"authentication_key_file": "gak"}, ConfigError, "key_file"),
        ({"key_file": "nowhere"}, CredentialError, "nowhere"),
    ],
)
def test_bad_settings_are_one_line(
    settings: dict[str, str], error: type[GridHEError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words) as raised:
        device("/dev/ttyUSB0", **settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("mode", "content", "words"),
    [(0o644, KEY, "guek"), (0o640, KEY, "guek"), (0o600, KEY[:15], "32 hex digits")],
)
def test_repro_a_key_file_that_others_may_read_or_that_holds_no_key_is_refused(
    mode: int, content: bytes, words: str, tmp_path: Path
) -> None:
    path = key_file(tmp_path, "guek", content, mode)
    with pytest.raises(CredentialError, match=words) as raised:
        device("/dev/ttyUSB0", key_file=path)
    assert content.hex() not in str(raised.value)


def test_keys_are_in_no_representation(tmp_path: Path) -> None:
    port = device("/dev/ttyUSB0", key_file=key_file(tmp_path, "guek", KEY))
    seen = [repr(port)] + [repr(vars(each)) for each in (port, port._decoder)]  # type: ignore[attr-defined]
    for shown in seen:
        assert KEY.hex() not in shown
        assert repr(KEY) not in shown


@pytest.mark.system
@on_a_loop
async def test_probe_shows_a_han_port(tmp_path: Path) -> None:
    async with PlayingServer() as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gridhe.meter_agent.cli", "probe", "han", f"address={server.address}"),
            *("--for", "4", "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        await server.connected(within_s=30)
        await server.play(hdlc(PUSH))
        out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors
    assert any("1234567" in line for line in out.decode().splitlines() if json.loads(line))
