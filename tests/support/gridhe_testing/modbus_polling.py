"""The `modbus` driver against a simulated meter, on a pseudo-terminal or a TCP socket."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec

from gridhe.meter_agent.sources.modbus import Settings, open_device
from gridhe_testing.modbus_meter import ModbusMeter, on_serial, on_tcp
from gridhe_testing.recording_sink import RecordingSink
from gridhe_testing.serial_pair import SerialPair

__all__ = ["in_loop", "polling"]

P = ParamSpec("P")


def in_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@asynccontextmanager
async def polling(
    meter: ModbusMeter, sink: RecordingSink, tmp_path: Path, *, wire: str = "serial", **options: Any
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
