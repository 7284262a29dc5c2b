"""A simulated Modbus meter on a pseudo-terminal or a TCP port, with the faults of real ones.

Its frames are built here, without gridhe's code and without pymodbus.
"""

import asyncio
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from gridhe_testing.serial_pair import SerialPair

__all__ = ["Fault", "ModbusMeter", "Reply", "crc", "learn", "on_serial", "on_tcp"]

Framing = Literal["rtu", "tcp"]
Reply = list[tuple[float, bytes]]  # bytes to send, each after so many seconds
Fault = Callable[[bytes, bytes], Reply]  # of the request and of its right answer, both whole frames


def crc(data: bytes) -> bytes:
    """The checksum of an RTU frame, as it is sent."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return struct.pack("<H", value)


@dataclass(kw_only=True)
class ModbusMeter:
    """Registers by function code and address, and what goes wrong with the next answers."""

    unit: int = 1
    registers: dict[tuple[int, int], int] = field(default_factory=dict)
    block: int = 125  # longer requests are refused
    faults: deque[Fault | None] = field(default_factory=deque)  # one for each request; None: none
    always: Fault | None = None  # for the requests after those
    deaf: bool = False  # hears no request while an answer is due, as meters on a serial line do
    requests: list[tuple[int, int, int]] = field(default_factory=list)  # function, address, count
    answered: Counter[str] = field(default_factory=Counter)

    def put(self, function: int, address: int, data: bytes) -> None:
        """Set registers from their bytes."""
        for at in range(0, len(data), 2):
            self.registers[function, address + at // 2] = int.from_bytes(data[at : at + 2], "big")

    def answer(self, unit: int, pdu: bytes) -> bytes | None:
        """The right answer's function code and data; None for another unit."""
        if unit != self.unit:
            return None
        function, address, count = struct.unpack(">BHH", pdu)
        self.requests.append((function, address, count))
        if function not in (3, 4):
            return bytes([function | 0x80, 1])
        places = [(function, at) for at in range(address, address + count)]
        if count > self.block:
            return bytes([function | 0x80, 3])
        if any(place not in self.registers for place in places):
            return bytes([function | 0x80, 2])
        words = b"".join(self.registers[place].to_bytes(2, "big") for place in places)
        return bytes([function, len(words)]) + words

    def reply(self, request: bytes, framing: Framing) -> Reply:
        """What comes back on the wire for one request frame."""
        if framing == "rtu":
            assert crc(request[:-2]) == request[-2:], request.hex()
            answer = self.answer(request[0], request[1:-2])
            head = request[:1]
        else:
            answer = self.answer(request[6], request[7:])
            head = request[:4] + struct.pack(">HB", 1 + len(answer or b""), request[6])
        if answer is None:
            return []
        whole = head + answer
        whole += crc(whole) if framing == "rtu" else b""
        fault = self.faults.popleft() if self.faults else self.always
        return fault(request, whole) if fault else [(0.0, whole)]


_SIZES = {"rtu": 8, "tcp": 12}


class _Sender:
    """Sends replies, each in its time and none before an earlier one."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._last_s = 0.0

    @property
    def busy(self) -> bool:
        return self._last_s > self._loop.time()

    def send(self, reply: Reply) -> None:
        now_s = self._loop.time()
        for after_s, data in reply:
            self._last_s = max(self._last_s, now_s + after_s)
            if self._last_s <= now_s:
                self._write(data)
            else:
                self._last_s += 1e-6  # timers of the same time fire in any order
                self._loop.call_at(self._last_s, self._write, data)


@asynccontextmanager
async def on_serial(meter: ModbusMeter, pair: SerialPair) -> AsyncIterator[None]:
    """The meter answers at its end of `pair`."""
    tasks: set[asyncio.Task[None]] = set()

    def write(data: bytes) -> None:
        if served.done():  # the test has ended
            return
        task = asyncio.ensure_future(pair.play(data))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def serve() -> None:
        sender = _Sender(write)
        while True:
            request = await pair.heard(_SIZES["rtu"], within_s=300)
            if not (meter.deaf and sender.busy):
                sender.send(meter.reply(request, "rtu"))

    served = asyncio.ensure_future(serve())
    try:
        yield
    finally:
        for task in (served, *tasks):
            task.cancel()
        await asyncio.gather(served, *tasks, return_exceptions=True)


@asynccontextmanager
async def on_tcp(meter: ModbusMeter, framing: Framing = "tcp", *, port: int = 0) -> AsyncIterator[str]:
    """The meter answers on a TCP port; gives tcp://host:port. `rtu`: as a gateway that passes bytes on."""
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def write(data: bytes) -> None:
            if not writer.is_closing():
                writer.write(data)

        writers.add(writer)
        sender = _Sender(write)
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                request = await reader.readexactly(_SIZES[framing])
                if not (meter.deaf and sender.busy):
                    sender.send(meter.reply(request, framing))
        writers.discard(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0)


def learn(meter: ModbusMeter, exchanges: Iterable[dict[str, str]]) -> None:
    """Put the registers of recorded requests and responses into a meter, the last ones of each address."""
    for each in exchanges:
        request, response = bytes.fromhex(each["request"]), bytes.fromhex(each["response"])
        if each["transport"] == "tcp":
            request, response = request[6:], response[6:]
        else:
            request, response = request[:-2], response[:-2]
        meter.unit = request[0]
        meter.put(request[1], int.from_bytes(request[2:4], "big"), response[3:])
