"""IEC 62056-21 with a simulated meter on a real pseudo-terminal, and behind a gateway's real socket."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gridhe.errors import SourceError
from gridhe.meter_agent.sources.d0.decoder import D0Decoder
from gridhe.meter_agent.sources.d0.exchange import Exchange
from gridhe.meter_agent.sources.options import source_settings
from gridhe.meter_agent.sources.reading import total_wh
from gridhe.meter_agent.sources.registry import driver
from gridhe.meter_agent.sources.settings import SerialSettings
from gridhe.meter_agent.sources.transports.serial_port import SerialLine
from gridhe.meter_agent.sources.transports.stream import keep_open
from gridhe_testing.d0_meter import D0Meter, readout_block
from gridhe_testing.recording_sink import RecordingSink
from gridhe_testing.serial_pair import PlayingServer, SerialPair


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


FIRST = SerialLine(baud=300, bits=7, parity="E")


def lines(wh: int) -> bytes:
    return b"F.F(00)\r\nC.1(7755)\r\n1.8.0(%09.1f*kWh)\r\n" % (wh / 1_000)


def imports(sink: RecordingSink) -> list[int]:
    return [int(total_wh(reading.imported) or 0) for reading in sink.readings]


@asynccontextmanager
async def asked(
    pair: SerialPair, meter: D0Meter, sink: RecordingSink, **options: Any
) -> AsyncIterator[Exchange]:
    """The meter is asked, one question behind the other."""
    given: dict[str, Any] = {"every_s": 0.05, "switch_s": 0.4, "acknowledges": True, "follows": True}
    exchange = Exchange(D0Decoder(), sink, line=FIRST, **given | {"quiet_s": 1.0} | options)
    settings = SerialSettings(address=str(pair.path))
    tasks = {
        asyncio.create_task(meter.serve()),
        asyncio.create_task(keep_open(settings, FIRST, sink, exchange.converse, first_wait_s=0.05)),
    }
    try:
        await sink.until(lambda: bool(sink.names))
        yield exchange
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                await task


@pytest.fixture
def pair(tmp_path: Path) -> Any:
    with SerialPair(tmp_path / "ttyD0") as pair:
        yield pair


@on_a_loop
async def test_mode_c_acknowledges_and_changes_the_baud_rate_after_400_ms(pair: SerialPair) -> None:
    """Field note 58: the meter here takes an acknowledgement as noise if the rate changes within 350 ms."""
    sink, meter = RecordingSink(), D0Meter(pair, readout_block(lines(285_400)))
    async with asked(pair, meter, sink):
        await sink.until(lambda: len(sink.readings) == 2)
    assert imports(sink) == [285_400] * 2
    assert meter.rates[:2] == [9600, 9600]
    assert meter.acknowledged[:2] == [b"\x06050\r\n"] * 2
    assert not sink.faults
    assert sink.readings[0].device == "7755"


@on_a_loop
async def test_repro_a_rate_that_changes_before_the_acknowledgement_is_out_gives_no_readout(
    pair: SerialPair,
) -> None:
    sink, meter = RecordingSink(), D0Meter(pair, readout_block(lines(285_400)))
    async with asked(pair, meter, sink, switch_s=0.1, follows=True):
        await sink.until(lambda: sink.faults["baud_change"] == 1)
        assert sink.readings == []
        await sink.until(lambda: bool(sink.readings))  # it goes on at 300 baud
    assert meter.rates[:3] == [300] * 3


@on_a_loop
async def test_repro_a_meter_that_proposes_a_rate_and_does_not_follow_is_read_at_the_first_one(
    pair: SerialPair,
) -> None:
    """Field note 58."""
    sink, meter = RecordingSink(), D0Meter(pair, readout_block(lines(5_000)), follows=False)
    async with asked(pair, meter, sink):
        await sink.until(lambda: len(sink.readings) == 2)
    assert imports(sink) == [5_000] * 2
    assert meter.acknowledged[:4] == [b"\x06050\r\n"] * 2 + [b"\x06000\r\n"] * 2
    assert sink.faults["baud_change"] == 1


@on_a_loop
async def test_mode_c_at_300_baud_waits_for_a_readout_that_takes_long(pair: SerialPair) -> None:
    sink = RecordingSink()
    meter = D0Meter(
        pair,
        readout_block(lines(285_400) * 6),
        identification=b"/ACE0\\3k260V01.18\r\n",
        piece=20,
        piece_s=0.25,
    )
    async with asked(pair, meter, sink, quiet_s=1.0):  # the whole takes 4 s, no pause is longer than 0.25 s
        await sink.until(lambda: bool(sink.readings))
    assert imports(sink) == [285_400]
    assert meter.acknowledged[0] == b"\x06000\r\n"
    assert not sink.faults


@on_a_loop
async def test_mode_a_is_asked_and_never_acknowledged(pair: SerialPair) -> None:
    sink = RecordingSink()
    meter = D0Meter(pair, readout_block(lines(285_400)), identification=b"/ELSx\\@V9.30 \r\n")
    async with asked(pair, meter, sink, acknowledges=False, follows=False):
        await sink.until(lambda: len(sink.readings) == 2)
    assert imports(sink) == [285_400] * 2
    assert meter.acknowledged == []


@on_a_loop
async def test_mode_b_changes_the_rate_without_an_acknowledgement(pair: SerialPair) -> None:
    sink = RecordingSink()
    meter = D0Meter(pair, readout_block(lines(285_400)), identification=b"/ELSE\\@V9.30 \r\n")
    async with asked(pair, meter, sink):
        await sink.until(lambda: len(sink.readings) == 2)
    assert imports(sink) == [285_400] * 2
    assert (meter.acknowledged, meter.rates[:2]) == ([], [9600, 9600])


@on_a_loop
async def test_a_head_that_echoes_what_is_sent_does_no_harm(pair: SerialPair) -> None:
    sink, meter = RecordingSink(), D0Meter(pair, readout_block(lines(285_400)), echoes=True)
    async with asked(pair, meter, sink):
        await sink.until(lambda: len(sink.readings) == 2)
    assert imports(sink) == [285_400] * 2
    assert not sink.faults


@on_a_loop
async def test_a_damaged_readout_is_asked_for_again(pair: SerialPair) -> None:
    good = readout_block(lines(285_400))
    sink, meter = RecordingSink(), D0Meter(pair, good.replace(b"285.4", b"285.5"))
    async with asked(pair, meter, sink):
        await sink.until(lambda: sink.faults["bcc"] == 1)
        meter.block = good
        await sink.until(lambda: bool(sink.readings))
    assert imports(sink) == [285_400]


@on_a_loop
async def test_repro_a_meter_that_stops_answering_gets_a_port_that_is_opened_anew(pair: SerialPair) -> None:
    """Field note 58: some meters stop answering after hours of polling."""
    sink, meter = RecordingSink(), D0Meter(pair, readout_block(lines(285_400)))
    meter.deaf = True
    async with asked(pair, meter, sink, quiet_s=0.2):
        await sink.until(lambda: bool(sink.losses))
        assert sink.faults["no_answer"] == 3
        assert "no answer to 3 questions" in sink.losses[0]
        meter.deaf = False
        await sink.until(lambda: bool(sink.readings))
    assert imports(sink) == [285_400]
    assert len(sink.names) >= 2


@on_a_loop
async def test_a_cable_that_is_pulled_and_put_in_again_costs_no_later_readout(pair: SerialPair) -> None:
    sink, meter = RecordingSink(), D0Meter(pair, readout_block(lines(285_400)))
    async with asked(pair, meter, sink) as _:
        await sink.until(lambda: bool(sink.readings))
    pair.unplug()
    pair.plug()
    async with asked(pair, meter, sink):
        await sink.until(lambda: len(sink.readings) == 2)
    assert imports(sink) == [285_400] * 2


@on_a_loop
async def test_the_driver_asks_by_its_settings(pair: SerialPair) -> None:
    given = {"address": str(pair.path), "mode": "C", "every_s": "1", "meter_address": "77", "unit": "kWh"}
    settings = source_settings("d0", given)
    sink = RecordingSink()
    meter = D0Meter(pair, readout_block(b"1.8.0*00(0285.40)\r\n"), address=b"77")
    tasks = {
        asyncio.create_task(driver("d0").open_device(settings).run(sink)),
        asyncio.create_task(meter.serve()),
    }
    try:
        await sink.until(lambda: len(sink.readings) == 2)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert imports(sink) == [285_400] * 2
    assert meter.rates[0] == 9600


@on_a_loop
async def test_a_gateway_keeps_its_baud_rate_so_the_meter_is_asked_to_keep_its_own() -> None:
    async with PlayingServer() as server:
        settings = source_settings("d0", {"address": server.address, "mode": "C", "every_s": 1})
        sink = RecordingSink()
        task = asyncio.create_task(driver("d0").open_device(settings).run(sink))
        try:
            await server.connected()
            for _ in range(2):
                assert await server.heard(5) == b"/?!\r\n"
                await server.play(b"/?!\r\n/ELS5\\@V9.30 \r\n", piece=3)
                assert await server.heard(6) == b"\x06000\r\n"
                await server.play(b"\x06000\r\n" + readout_block(lines(285_400)), piece=7)
            await sink.until(lambda: len(sink.readings) == 2)
        finally:
            task.cancel()
            await asyncio.wait({task})
    assert imports(sink) == [285_400] * 2


@on_a_loop
async def test_a_port_that_does_not_exist_is_one_clear_line(tmp_path: Path) -> None:
    for name in ("d0", "sml"):
        settings = source_settings(name, {"address": str(tmp_path / "ttyUSB7")})
        with pytest.raises(SourceError, match="ttyUSB7"):
            await driver(name).open_device(settings).run(RecordingSink())
