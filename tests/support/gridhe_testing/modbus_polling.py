"""The `modbus` driver against a simulated meter, on a pseudo-terminal or a TCP socket."""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec

from gridhe.meter_agent.sources.modbus import Settings, open_device
from gridhe.meter_agent.sources.reading import DeviceReading, total_wh
from gridhe_testing.device_data import DeviceFile
from gridhe_testing.modbus_meter import ModbusMeter, on_serial, on_tcp
from gridhe_testing.recording_sink import RecordingSink
from gridhe_testing.serial_pair import SerialPair

__all__ = ["in_loop", "lines", "own_map", "polling", "shown"]

P = ParamSpec("P")

OWN_MAP = """
meter: the register of the recorded request
registers:
  - {{gives: import, function: {function}, address: {address}, type: {type}, unit: {unit}}}
"""


def in_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@asynccontextmanager
async def polling(
    meter: ModbusMeter, sink: RecordingSink, tmp_path: Path, /, *, wire: str = "serial", **options: Any
) -> AsyncIterator[str]:
    """The driver polls `meter`; gives its address. `wire`: serial, tcp, or rtu_over_tcp.

    `options` are settings of the driver; without others, it polls every 0.1 s and waits 0.3 s for an answer.
    """
    options = {"unit": meter.unit, "poll_s": 0.1, "timeout_s": 0.3} | options
    if wire == "serial":
        with SerialPair(tmp_path / "ttyMETER") as pair:
            async with on_serial(meter, pair), _driver(sink, str(pair.path), options):
                yield str(pair.path)
    else:
        if wire == "rtu_over_tcp":
            options.setdefault("framing", "rtu")
        async with (
            on_tcp(meter, "rtu" if wire == "rtu_over_tcp" else "tcp") as address,
            _driver(sink, address, options),
        ):
            yield address


@asynccontextmanager
async def _driver(sink: RecordingSink, address: str, options: dict[str, Any]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(open_device(Settings(address=address, **options)).run(sink))
    try:
        yield
    finally:
        failed = task.done() and not task.cancelled()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if failed:
            task.result()


def lines(file: DeviceFile) -> list[dict[str, Any]]:
    """A file of the data: one exchange or case on each line."""
    return [json.loads(line) for line in file.data.decode().splitlines()]


def shown(reading: DeviceReading) -> dict[str, Any]:
    """A reading in the form of expected.json."""
    imported, exported = total_wh(reading.imported), total_wh(reading.exported)
    return {
        "import_wh": None if imported is None else int(imported),
        "export_wh": None if exported is None else int(exported),
        "power_w": None if reading.power_w is None else float(reading.power_w),
        "ts_utc": reading.at_s,
    }


def own_map(tmp_path: Path, request: bytes, type: str = "float32", unit: str = "kWh") -> str:
    """The path of a register map whose import register is what `request` (unit, function, address) reads."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        OWN_MAP.format(
            function=request[1], address=int.from_bytes(request[2:4], "big"), type=type, unit=unit
        ),
        encoding="utf-8",
    )
    return str(path)
