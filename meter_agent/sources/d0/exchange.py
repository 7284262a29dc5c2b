"""Asks a meter for its readout (IEC 62056-21, modes A to C), again and again.

    agent                     meter
    /?!                                                           at 300 baud, 7E1
                              /ELS5\\@V9.30                        proposes 9600 baud ("5")
    ACK 050                                                       mode C: accepted
                              STX lines ETX BCC                   at 9600 baud

Some meters propose a baud rate and do not follow it: after two readouts that failed at the new rate, the next
ones are read at the first rate.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from gridhe.errors import SourceError
from gridhe.meter_agent.sources.d0.decoder import D0Decoder
from gridhe.meter_agent.sources.driver import Sink
from gridhe.meter_agent.sources.reading import DeviceReading
from gridhe.meter_agent.sources.transports.line import Line
from gridhe.meter_agent.sources.transports.serial_port import SerialLine
from gridhe.meter_agent.sources.transports.stream import FaultReport

__all__ = ["Exchange"]

_RATES = {"0": 300, "1": 600, "2": 1200, "3": 2400, "4": 4800, "5": 9600, "6": 19200}  # mode C
_RATES_B = {"A": 600, "B": 1200, "C": 2400, "D": 4800, "E": 9600, "F": 19200}  # without acknowledgement
# The meter answers within 1.5 s, and its characters follow each other within 1.5 s; adapters add some.
_QUIET_S = 4.0
_READOUT_S = 600.0  # 16 KB at 300 baud
_REACTION_S = 0.25  # the meter needs up to 0.2 s after its last character before it receives
_QUESTIONS = 3  # without an answer: then the port is opened anew
_FAILURES = 2


class Exchange:
    """Questions to one meter, over any number of connections.

    `line` is how the meter first answers. `follows`: acknowledge its proposal of another baud rate (mode C).
    """

    def __init__(
        self,
        decoder: D0Decoder,
        sink: Sink,
        *,
        line: SerialLine,
        address: str = "",
        every_s: float,
        switch_s: float,
        acknowledges: bool,
        follows: bool,
        quiet_s: float = _QUIET_S,
    ) -> None:
        self._decoder = decoder
        self._sink = sink
        self._report = FaultReport(decoder, sink)
        self._first = line
        self._request = f"/?{address}!\r\n".encode("ascii")
        self._every_s = every_s
        self._switch_s = switch_s
        self._acknowledges = acknowledges
        self._may_follow = follows
        self._follows = follows
        self._quiet_s = quiet_s
        self._failed = 0  # readouts in sequence

    async def converse(self, line: Line) -> None:
        """Ask again and again. Raises SourceError if the line is lost, or the meter does not answer."""
        loop = asyncio.get_running_loop()
        self._decoder.reset()
        unanswered = 0
        while unanswered < _QUESTIONS:
            started = loop.time()
            unanswered = 0 if await self._ask(line) else unanswered + 1
            await asyncio.sleep(started + self._every_s - loop.time())
        raise SourceError(
            f"{line.name}: no answer to {_QUESTIONS} questions; check the optical head's place, and that it "
            "can send; a meter that sends by itself needs mode=D"
        )

    async def _ask(self, line: Line) -> bool:
        """One readout. Returns whether the meter answered."""
        line.set_line(self._first)
        await line.discard()
        await line.write(self._request)
        complete = await self._receive(line, lambda: self._decoder.identification is not None)
        identification = self._decoder.identification
        if not complete and identification is None:
            self._pause()
            self._sink.fault("no_answer")
            return False
        if identification is not None and not complete:
            await self._agree(line, identification[3:4].decode("ascii"))
            complete = await self._receive(line, lambda: self._decoder.identification is None)
            complete |= self._pause()
        self._failed = 0 if complete else self._failed + 1
        if self._failed == _FAILURES and self._may_follow:
            self._failed, self._follows = 0, not self._follows
            self._sink.fault("baud_change", "the meter may not follow its own proposal of another baud rate")
        return True

    async def _agree(self, line: Line, proposed: str) -> None:
        """Acknowledge the proposed baud rate, or the first one, and change to it."""
        if proposed in _RATES_B and self._may_follow:
            line.set_line(replace(self._first, baud=_RATES_B[proposed]))
        if proposed not in _RATES or not self._acknowledges:
            return
        first = next((key for key, baud in _RATES.items() if baud == self._first.baud), "0")
        agreed = proposed if self._follows else first
        await asyncio.sleep(_REACTION_S)
        loop = asyncio.get_running_loop()
        switch_at = loop.time() + self._switch_s
        await line.write(b"\x060" + agreed.encode("ascii") + b"0\r\n")
        await asyncio.sleep(switch_at - loop.time())
        line.set_line(replace(self._first, baud=_RATES[agreed]))

    async def _receive(self, line: Line, until: Callable[[], bool]) -> bool:
        """Bytes until a reading is complete, `until()` holds, or none come. Returns whether there is one."""
        end = asyncio.get_running_loop().time() + _READOUT_S
        while asyncio.get_running_loop().time() < end:
            data = await line.read(self._quiet_s)
            if not data:
                return False
            complete = self._give(self._decoder.feed(data))
            self._sink.bytes_seen(len(data), self._decoder.waiting_for)
            if complete or until():
                return complete
        return False

    def _pause(self) -> bool:
        return self._give(self._decoder.pause())

    def _give(self, readings: list[DeviceReading]) -> bool:
        for reading in readings:
            self._sink.reading(reading)
        self._report()
        return bool(readings)
