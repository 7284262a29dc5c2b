"""Keeps a line open for as long as the agent runs, and feeds a decoder with its bytes.

The first opening has to succeed: a wrong path or address is the installer's to correct. After that the line
is opened again for ever, after 1, 2, 4 ... 30 seconds, whenever it is lost or silent for too long.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from gridhe.errors import SourceError
from gridhe.meter_agent.sources.driver import Sink
from gridhe.meter_agent.sources.reading import Decoder, DeviceReading
from gridhe.meter_agent.sources.settings import SerialSettings
from gridhe.meter_agent.sources.transports.line import Line
from gridhe.meter_agent.sources.transports.serial_port import SerialLine, open_serial
from gridhe.meter_agent.sources.transports.tcp import is_tcp, open_tcp

__all__ = ["FaultReport", "keep_open", "open_line", "run_stream"]

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0
# A port wakes the loop every 16 to 120 bytes. To sleep after small pieces costs at most this delay and
# makes 20 wake-ups a second of them; the kernel holds 4 KB, and 0.05 s at 115,200 baud are 576 bytes.
_GATHER_S = 0.05
_GATHER_BELOW = 512


async def open_line(address: str, line: SerialLine) -> Line:
    """Opens a port's path, or tcp://host:port. Raises SourceError, one line with the way out."""
    if is_tcp(address):
        return await open_tcp(address)
    return open_serial(address, line)


async def keep_open(
    settings: SerialSettings,
    line: SerialLine,
    sink: Sink,
    converse: Callable[[Line], Awaitable[None]],
    *,
    first_wait_s: float = _FIRST_WAIT_S,
) -> None:
    """Opens the line and runs `converse` on it, again whenever that ends or raises SourceError.

    Runs until cancelled. Raises SourceError if the line cannot be opened the first time.
    """
    opened = await open_line(settings.address, line)
    wait_s = first_wait_s
    while True:
        try:
            sink.opened(opened.name)
            await converse(opened)
        except SourceError as error:
            sink.lost(str(error))
        finally:
            opened.close()
        if opened.received:
            wait_s = first_wait_s
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
            try:
                opened = await open_line(settings.address, line)
                break
            except SourceError as error:
                sink.lost(str(error))


class FaultReport:
    """Gives the increments of a decoder's counts to the sink."""

    def __init__(self, decoder: Decoder, sink: Sink) -> None:
        self._faults = decoder.faults
        self._sink = sink
        self._reported = Counter(decoder.faults)

    def __call__(self) -> None:
        """Report what was counted since the last call."""
        if self._faults == self._reported:
            return
        for reason, count in self._faults.items():
            new = count - self._reported[reason]
            if new > 0:
                self._sink.fault(reason, count=new)
        self._reported = Counter(self._faults)


async def run_stream(
    settings: SerialSettings,
    line: SerialLine,
    decoder: Decoder,
    sink: Sink,
    *,
    quiet_s: float = 1.0,
    first_wait_s: float = _FIRST_WAIT_S,
) -> None:
    """Feeds `decoder` with a line's bytes, and `sink` with its readings and counts. Runs until cancelled.

    `decoder.pause()` is called once when no byte came for `quiet_s`, `decoder.reset()` at every opening.
    Raises SourceError if the line cannot be opened the first time.
    """
    report = FaultReport(decoder, sink)

    def give(readings: list[DeviceReading]) -> None:
        for reading in readings:
            sink.reading(reading)
        report()

    async def listen(opened: Line) -> None:
        decoder.reset()
        report()
        pause_s = min(quiet_s, settings.silence_s)
        while True:
            data = await opened.read(pause_s)
            if not data:
                give(decoder.pause())
                data = await opened.read(settings.silence_s - pause_s)
            if not data:
                raise SourceError(
                    f"{opened.name}: no byte for {settings.silence_s:g} s; check the cable, and that the "
                    "meter's port is switched on"
                )
            give(decoder.feed(data))
            sink.bytes_seen(len(data), decoder.waiting_for)
            if len(data) < _GATHER_BELOW:
                await asyncio.sleep(_GATHER_S)

    await keep_open(settings, line, sink, listen, first_wait_s=first_wait_s)
