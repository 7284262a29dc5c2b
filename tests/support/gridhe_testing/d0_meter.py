"""A meter of IEC 62056-21 that is asked: it sits at the meter's end of a pseudo-terminal.

It looks at the baud rate of the agent's end, as the wire would: bytes at another rate than its own are noise
to the agent, and to the meter.
"""

import asyncio
import termios
from contextlib import suppress
from functools import reduce
from operator import xor

from gridhe_testing.serial_pair import SerialPair

__all__ = ["D0Meter", "readout_block"]

_RATES = {"0": 300, "1": 600, "2": 1200, "3": 2400, "4": 4800, "5": 9600, "6": 19200}
_RATES_B = {"A": 600, "B": 1200, "C": 2400, "D": 4800, "E": 9600, "F": 19200}
_SPEEDS = {getattr(termios, f"B{rate}"): rate for rate in (*_RATES.values(), 115_200)}
_ACK_ON_WIRE_S = 0.35  # six characters at 300 baud and an adapter's buffer: the rate must not change before


def readout_block(lines: bytes) -> bytes:
    """STX to BCC."""
    inner = lines + b"!\r\n\x03"
    return b"\x02" + inner + bytes([reduce(xor, inner)])


class D0Meter:
    """Answers as `pair`'s meter until `serve` is cancelled; `block` is what it sends, and may be changed."""

    def __init__(
        self,
        pair: SerialPair,
        block: bytes,
        *,
        identification: bytes = b"/ELS5\\@V9.30 \r\n",
        address: bytes = b"",
        follows: bool = True,
        echoes: bool = False,
        piece: int | None = None,
        piece_s: float = 0.0,
    ) -> None:
        self._pair = pair
        self.block = block
        self._identification = identification
        self._request = b"/?" + address + b"!\r\n"
        self._follows = follows
        self._echoes = echoes
        self._piece, self._piece_s = piece, piece_s
        self.deaf = False
        self.asked = 0
        self.acknowledged: list[bytes] = []
        self.rates: list[int] = []  # at which it sent its readouts

    @property
    def _agents_rate(self) -> int:
        return _SPEEDS[termios.tcgetattr(self._pair.terminal)[4]]

    async def serve(self) -> None:
        """Answer questions."""
        while True:
            if await self._heard(self._request) and not self.deaf:
                self.asked += 1
                await self._answer()

    async def _heard(self, expected: bytes, *, within_s: float = 3600.0) -> bool:
        """Whether the agent sends `expected` next, at 300 baud; skips what is not its first character."""
        data = b""
        while len(data) < len(expected):
            byte = await self._pair.heard(1, within_s=within_s)
            if self._echoes:
                await self._pair.play(byte)
            if self._agents_rate == 300 and (data or byte == expected[:1]):
                data += byte
        return data == expected

    async def _answer(self) -> None:
        await self._send(self._identification, 300)
        proposed = chr(self._identification[4])
        rate = _RATES_B.get(proposed, 300)
        if proposed in _RATES:
            with suppress(TimeoutError):
                rate = await self._acknowledgement(proposed)
        self.rates.append(rate)
        await self._send(self.block, rate)

    async def _acknowledgement(self, proposed: str) -> int:
        ack = b""
        while not ack.endswith(b"\r\n"):
            byte = await self._pair.heard(1, within_s=1.5)
            if self._echoes:
                await self._pair.play(byte)
            ack += byte
        await asyncio.sleep(_ACK_ON_WIRE_S)
        self.acknowledged.append(ack)
        accepted = self._agents_rate == 300 and ack == b"\x060" + proposed.encode() + b"0\r\n"
        await asyncio.sleep(0.2)
        return _RATES[proposed] if accepted and self._follows else 300

    async def _send(self, data: bytes, rate: int) -> None:
        await asyncio.sleep(0.1)
        size = self._piece or len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            if self._agents_rate != rate:
                piece = bytes(byte * 37 & 0xFF | 0x80 for byte in piece)
            await self._pair.play(piece)
            await asyncio.sleep(self._piece_s)
