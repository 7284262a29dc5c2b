"""Finding a meter: wrong ports and addresses, SunSpec chains, and pymodbus's own server as a peer."""

import asyncio
import struct
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from gridhe.errors import ConfigError, SourceError
from gridhe.meter_agent.sources.modbus import Settings, open_device
from gridhe.meter_agent.sources.options import source_settings
from gridhe_testing.modbus_meter import ModbusMeter, on_tcp
from gridhe_testing.modbus_polling import in_loop, polling
from gridhe_testing.recording_sink import RecordingSink

VALUES = {0x34: -2750.5, 0x48: 5000.5, 0x4A: 9100.25}


@asynccontextmanager
async def running(sink: RecordingSink, **options: Any) -> Any:
    task = asyncio.ensure_future(open_device(Settings(**options)).run(sink))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("framing", [FramerType.SOCKET, FramerType.RTU])
@in_loop
async def test_pymodbus_own_server_is_read(framing: FramerType) -> None:
    """A peer that was not written here. It fills gaps, so the block across them is one request."""
    words = [0] * 0x18
    for address, value in VALUES.items():
        words[address - 0x34 : address - 0x32] = struct.unpack(">HH", struct.pack(">f", value))
    inputs = [SimData(0x34, values=words, datatype=DataType.REGISTERS)]
    other = [SimData(0, values=0, datatype=DataType.REGISTERS)]
    bits = [SimData(0, values=False, datatype=DataType.BITS)]
    device = SimDevice(id=1, simdata=(bits, bits, other, inputs))
    server = ModbusTcpServer(device, framer=framing, address=("127.0.0.1", 0))
    await server.listen()
    port = server.transport.sockets[0].getsockname()[1]
    sink = RecordingSink()
    options = {"framing": "rtu"} if framing is FramerType.RTU else {}
    try:
        async with running(
            sink, address=f"tcp://127.0.0.1:{port}", map="eastron_sdm630", poll_s=0.1, **options
        ):
            await sink.until(lambda: len(sink.readings) >= 2)
    finally:
        await server.shutdown()
    reading = sink.readings[1]
    assert (reading.imported["import"].wh, reading.exported["export"].wh) == (5_000_500, 9_100_250)
    assert reading.power_w == Decimal("-2750.5")
    assert sink.faults == {}


# -- what is wrong at the beginning ----------------------------------------------------------------


@in_loop
async def test_a_wrong_path_is_one_line(tmp_path: Path) -> None:
    device = open_device(Settings(address=str(tmp_path / "ttyNONE"), map="abb_b23"))
    with pytest.raises(SourceError, match=r"^there is no .*ttyNONE; .*$"):
        await device.run(RecordingSink())


@in_loop
async def test_a_refused_connection_is_one_line() -> None:
    async with on_tcp(ModbusMeter()) as address:
        pass
    device = open_device(Settings(address=address, map="sunspec"))
    with pytest.raises(SourceError, match=f"^{address} refused the connection: .*$"):
        await device.run(RecordingSink())


def test_modbus_tcp_has_its_usual_port() -> None:
    assert Settings(address="tcp://10.0.0.7", map="sunspec").address == "tcp://10.0.0.7:502"
    assert Settings(address="tcp://[fe80::1]", map="sunspec").address == "tcp://[fe80::1]:502"
    assert Settings(address="tcp://10.0.0.7:1502", map="sunspec").address == "tcp://10.0.0.7:1502"
    assert Settings(address="/dev/ttyUSB0", map="abb_b23").framing_here == "rtu"
    assert Settings(address="tcp://10.0.0.7", map="abb_b23").framing_here == "tcp"
    assert Settings(address="tcp://10.0.0.7", map="abb_b23", framing="rtu").framing_here == "rtu"


def test_settings_from_words() -> None:
    settings = source_settings(
        "modbus", {"address": "/dev/ttyUSB0", "map": "eastron_sdm630", "unit": "3", "line": "19200 8E1"}
    )
    assert (settings.unit, settings.line) == (3, "19200 8E1")  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="unknown setting units; did you mean unit"):
        source_settings("modbus", {"address": "/dev/ttyUSB0", "map": "sunspec", "units": "3"})
    with pytest.raises(ConfigError, match="source modbus: line: '9600' is no serial line"):
        source_settings("modbus", {"address": "/dev/ttyUSB0", "map": "sunspec", "line": "9600"})


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, "9600 8N1"), ({"line": "2400 8E1"}, "2400 8E1"), ({"map": "abb_b23"}, "19200 8E1")],
)
@in_loop
async def test_the_line_is_the_maps_or_the_settings(
    options: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    sink = RecordingSink()
    async with polling(ModbusMeter(), sink, tmp_path, **({"map": "eastron_sdm630"} | options)) as address:
        await sink.until(lambda: len(sink.names) >= 1)
    assert sink.names == [f"{address}, {expected}"]


# -- SunSpec chains --------------------------------------------------------------------------------


def a_model(number: int, *, imported: int = 0, length: int = 105) -> bytes:
    words = [0x8000] * (2 + length)
    words[0], words[1] = number, length
    if number == 203 and length > 100:
        words[46], words[47] = divmod(imported, 65_536)
        words[54] = 0
    return struct.pack(f">{2 + length}H", *words)


def a_common(serial: bytes) -> bytes:
    return struct.pack(">HH", 1, 66) + bytes(96) + serial.ljust(32, b"\0") + bytes(4)


END = b"\xff\xff\0\0"


def chain(base: int, *models: bytes) -> ModbusMeter:
    meter = ModbusMeter()
    meter.put(3, base, b"SunS" + b"".join(models))
    return meter


@pytest.mark.parametrize("base", [40_000, 50_000, 0])
@in_loop
async def test_a_chain_is_found_and_its_meter_read(base: int, tmp_path: Path) -> None:
    inverter = a_model(103, length=50)
    meter = chain(base, a_common(b"INV"), inverter, a_common(b"M-1"), a_model(203, imported=77), END)
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, wire="tcp", map="sunspec"):
        await sink.until(lambda: len(sink.readings) >= 2)
    assert [each.imported["TotWhImp"].wh for each in sink.readings[:2]] == [77, 77]
    assert sink.readings[0].device == "M-1"
    assert sink.faults == {}


@in_loop
async def test_one_of_several_meters_is_chosen(tmp_path: Path) -> None:
    models = a_common(b"M-1"), a_model(203, imported=1), a_common(b"M-2"), a_model(203, imported=2), END
    sink = RecordingSink()
    async with polling(chain(40_000, *models), sink, tmp_path, map="sunspec", meter=2):
        await sink.until(lambda: len(sink.readings) >= 1)
    assert (sink.readings[0].device, sink.readings[0].imported["TotWhImp"].wh) == ("M-2", 2)


@pytest.mark.parametrize(
    "meter",
    [
        ModbusMeter(),
        chain(40_000, a_common(b"INV"), a_model(103, length=50), END),
        chain(40_000, a_model(203, length=30), END),  # too short for its layout
        chain(40_000, struct.pack(">HH", 7, 0) * 200),
        chain(40_000, struct.pack(">HH", 7, 65_535)),
    ],
    ids=["no marker", "no meter", "cut off", "endless", "beyond the end"],
)
@in_loop
async def test_a_chain_without_a_meter_is_said(meter: ModbusMeter, tmp_path: Path) -> None:
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, wire="tcp", map="sunspec"):
        await sink.until(lambda: sink.faults.total() >= 1)
    assert sink.faults.keys() == {"no_sunspec"}
    assert sink.readings == []


@in_loop
async def test_repro_a_model_that_moves_is_looked_for_again(tmp_path: Path) -> None:
    meter = chain(40_000, a_common(b"M"), a_model(203, imported=5), END)
    sink = RecordingSink()
    async with polling(meter, sink, tmp_path, wire="tcp", map="sunspec"):
        await sink.until(lambda: len(sink.readings) >= 1)
        meter.put(3, 40_002, a_common(b"M") + a_model(120, length=26) + a_model(203, imported=6) + END)
        await sink.until(lambda: bool(sink.faults) and len(sink.readings) >= 2)
    assert {each.imported["TotWhImp"].wh for each in sink.readings} == {5, 6}
    assert sink.faults.keys() == {"moved"}
