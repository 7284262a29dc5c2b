"""Every file of SML, D0 and TIC meters through a real pseudo-terminal and a real socket."""

import asyncio
import termios
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from math import floor
from pathlib import Path
from typing import Any

import pytest

from gridhe.meter_agent.sources.options import source_settings
from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe.meter_agent.sources.registry import driver
from gridhe_testing.device_data import device_files, needs_device_data
from gridhe_testing.recording_sink import RecordingSink
from gridhe_testing.serial_pair import PlayingServer, SerialPair
from gridhe_testing.sml_meter import Entry, sml_frame, unsigned
from gridhe_testing.tic_meter import standard

MARK_WH = 987_654_321  # of a telegram of the test's own, behind each file
MARKS = {
    "sml": sml_frame(Entry(code="1-0:1.8.0*255", value=unsigned(MARK_WH, 4), scaler=unsigned(0))),
    "d0": b"/GHE5MARK\r\n\r\n1.8.0(%d*Wh)\r\n!\r\n" % MARK_WH,
    "tic": standard(("EAST", str(MARK_WH))),
}
OPTIONS: dict[str, dict[str, str]] = {
    "sml": {"unit": "Wh"},
    "d0": {"unit": "kWh"},
    "tic": {"mode": "standard"},
}
Play = Callable[[bytes], Awaitable[None]]


def values(reading: DeviceReading) -> tuple[int | None, int | None, Decimal | None]:
    totals = (total_wh(reading.imported), total_wh(reading.exported))
    imported, exported = (None if each is None else floor(each) for each in totals)
    return imported, exported, reading.power_w


def expected(each: Mapping[str, Any]) -> tuple[int | None, int | None, Decimal | None]:
    power = each["power_w"]
    return each["import_wh"], each["export_wh"], None if power is None else Decimal(str(power))


@asynccontextmanager
async def device(source: str, address: str, sink: RecordingSink) -> Any:
    settings = source_settings(source, {"address": address, **OPTIONS[source]})
    task = asyncio.create_task(driver(source).open_device(settings).run(sink))
    try:
        await sink.until(lambda: bool(sink.names))
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def play_all(source: str, sink: RecordingSink, play: Play) -> None:
    for file in device_files(source):
        start = len(sink.readings)
        await play(file.data + MARKS[source])
        await sink.until(lambda: any(values(reading)[0] == MARK_WH for reading in sink.readings[start:]))  # noqa: B023
        *found, mark = sink.readings[start:]
        assert values(mark) == (MARK_WH, None, None)
        assert [values(reading) for reading in found] == [expected(each) for each in file.readings], file


@needs_device_data
@pytest.mark.parametrize("piece", [None, 1, 13])
@pytest.mark.parametrize("source", ["sml", "d0", "tic"])
def test_every_file_through_a_pseudo_terminal(source: str, piece: int | None, tmp_path: Path) -> None:
    async def run() -> None:
        sink = RecordingSink()
        with SerialPair(tmp_path / "ttyUSB0") as pair:
            async with device(source, str(pair.path), sink):
                await play_all(source, sink, lambda data: pair.play(data, piece=piece))

    asyncio.run(run())


@needs_device_data
@pytest.mark.parametrize("source", ["sml", "d0", "tic"])
def test_every_file_through_a_gateway(source: str) -> None:
    async def run() -> None:
        sink = RecordingSink()
        async with PlayingServer() as server, device(source, server.address, sink):
            await server.connected()
            await play_all(source, sink, lambda data: server.play(data, piece=97))

    asyncio.run(run())


def cook(terminal: int) -> None:
    """The defaults of a terminal: bytes 03 and 1a are signals, 0d becomes 0a, and input waits for lines."""
    attributes = termios.tcgetattr(terminal)
    attributes[0] |= termios.ICRNL | termios.IXON
    attributes[3] |= termios.ICANON | termios.ISIG | termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)


def test_repro_a_port_in_cooked_mode_is_made_raw_at_every_opening(tmp_path: Path) -> None:
    """Field note 27, and tty_cooked_mode_eats_bytes.sml: the mode's defaults eat bytes of a frame."""
    entry = Entry(code="1-0:1.8.0*255", value=unsigned(0x031A0D11, 4), scaler=unsigned(0))
    frame = sml_frame(entry)

    async def run() -> None:
        sink = RecordingSink()
        with SerialPair(tmp_path / "ttyUSB0") as pair:
            cook(pair.terminal)
            async with device("sml", str(pair.path), sink):
                await pair.play(frame)
                await sink.until(lambda: len(sink.readings) == 1)
                pair.unplug()
                await sink.until(lambda: bool(sink.losses))
                pair.plug()
                cook(pair.terminal)
                await sink.until(lambda: len(sink.names) == 2)
                await pair.play(frame)
                await sink.until(lambda: len(sink.readings) == 2)
        assert [values(reading)[0] for reading in sink.readings] == [0x031A0D11] * 2

    asyncio.run(run())


@pytest.mark.parametrize("source", ["sml", "d0", "tic"])
def test_a_cable_that_is_pulled_within_a_telegram_costs_only_that_one(source: str, tmp_path: Path) -> None:
    """Field note 27: raw mode is set again at every opening."""
    good = MARKS[source]
    half = len(good) // 2

    async def run() -> None:
        sink = RecordingSink()
        with SerialPair(tmp_path / "ttyUSB0") as pair:
            async with device(source, str(pair.path), sink):
                await pair.play(good + good[:half])
                await sink.until(lambda: len(sink.readings) == 1)
                pair.unplug()
                await sink.until(lambda: bool(sink.losses))
                pair.plug()
                await sink.until(lambda: len(sink.names) == 2)
                await pair.play(good[half:] + good)
                await sink.until(lambda: len(sink.readings) == 2)
        assert [values(reading)[0] for reading in sink.readings] == [MARK_WH] * 2

    asyncio.run(run())
