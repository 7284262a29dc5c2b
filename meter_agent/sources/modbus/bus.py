"""The one owner of a bus: one request at a time, and each answer judged before the next request.

On a serial line an answer does not say which request it answers. Bytes that arrived before a request are
dropped. After a request that failed, an answer to it may still come; it would be taken for the answer to the
next request, and registers would change places. So before the next real request the line has to be silent,
and then to answer a request of a length that was never asked before: late answers have other lengths. Modbus
TCP has transaction ids for this.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from gridhe.errors import RemoteError, SourceError
from gridhe.meter_agent.sources.driver import Sink
from gridhe.meter_agent.sources.modbus.answers import REFUSED, Request, RtuAnswer, TcpAnswers
from gridhe.meter_agent.sources.transports.line import Line

__all__ = ["Bus", "Framing"]

# rtu: on a serial line, or passed on by a gateway; tcp: Modbus TCP; tcp_without_ids: Modbus TCP of a gateway
# that answers with transaction ids of its own.
Framing = Literal["rtu", "tcp", "tcp_without_ids"]

_QUIET_S = 0.05  # an answer has ended: USB adapters hold bytes back for up to 16 ms
_BUSY_RETRIES = 3
_BUSY_S = 0.25
_DRAINS = 5
_PROBES = 2  # some meters take no odd number of registers, and say nothing
_FORGOTTEN = 10  # timeouts without a byte after which an answer is not late but lost
_UNUSABLE = {
    "frame": "for a gateway that passes RTU frames on, set framing=rtu",
    "transaction": "if this comes each time, the gateway has transaction ids of its own: set "
    "framing=tcp_without_ids",
}


class Bus:
    """An open line, and what is known about it."""

    def __init__(self, line: Line, sink: Sink, framing: Framing, timeout_s: float) -> None:
        self._line, self._sink = line, sink
        self._framing, self._timeout_s = framing, timeout_s
        self._answers = TcpAnswers()
        self._transaction = 0
        self._in_step = True
        self._counts: set[int] = set()  # of registers in all requests so far
        self._heard_s = time.monotonic()  # of the last byte
        self.answered_s = time.monotonic()  # of the last whole answer of the meter, a refusal too

    @property
    def name(self) -> str:
        """The line."""
        return self._line.name

    def count(self, error: RemoteError) -> None:
        """Report a fault that the meter's reader does not see."""
        self._sink.fault(error.reason, f"{self.name}: {error}")

    async def ask(self, request: Request) -> bytes:
        """The bytes of the asked registers, 2 for each.

        Raises RemoteError: no answer, a refusal, or an answer that is not to be trusted; `reason` says which.
        Raises SourceError if the line is lost, or is of no more use and has to be opened again.
        """
        for _ in range(_BUSY_RETRIES):
            try:
                return await self._once(request)
            except RemoteError as error:
                if error.reason != "busy":
                    raise
                self.count(error)
            await asyncio.sleep(_BUSY_S)
        return await self._once(request)

    async def _once(self, request: Request) -> bytes:
        try:
            if self._framing == "tcp":
                registers = await self._by_id(request)
            else:
                if not self._in_step:
                    await self._get_in_step(request)
                self._counts.add(request.count)
                registers = await self._alone(request)
        except RemoteError as error:
            if error.reason in REFUSED and error.reason != "gateway":
                self.answered_s = time.monotonic()
            raise
        self.answered_s = time.monotonic()
        return registers

    async def _get_in_step(self, request: Request) -> None:
        """Drop what is late, then ask for unusual numbers of registers until one is answered or refused."""
        heard = False
        for _ in range(_DRAINS):
            if not await self._drain(self._timeout_s):
                break
            heard = True
        if heard:
            self._sink.fault(
                "late", f"{self.name}: answers came after timeout_s={self._timeout_s:g}; raise it"
            )
        for count in [each for each in range(1, 125) if each not in self._counts][:_PROBES]:
            try:
                await self._alone(replace(request, count=count))
            except RemoteError as error:
                if error.reason == "timeout":
                    continue
                if error.reason not in REFUSED:
                    raise
            return
        if time.monotonic() - self._heard_s < _FORGOTTEN * self._timeout_s:
            raise RemoteError("timeout", f"{request}: no answer")

    async def _drain(self, within_s: float) -> bool:
        """Drop what has arrived or arrives within this time; whether there was something."""
        if self._framing == "rtu":
            if within_s and await self._line.read(within_s):
                self._heard_s = time.monotonic()
                return True
            await self._line.discard()
            return False
        data = await self._line.read(within_s)
        while data:
            self._feed(data)
            data = await self._line.read(0)
        with self._usable():
            return self._answers.drop() > 0

    async def _alone(self, request: Request) -> bytes:
        """Ask where only the moment ties an answer to its request."""
        self._in_step = False
        try:
            registers = await (self._rtu(request) if self._framing == "rtu" else self._without_ids(request))
        except RemoteError as error:
            self._in_step = error.reason in REFUSED
            raise
        self._in_step = True
        return registers

    async def _rtu(self, request: Request) -> bytes:
        answer = RtuAnswer(request)

        def take(data: bytes) -> bool:
            answer.feed(data)
            return answer.complete

        await self._drain(0)
        await self._line.write(request.rtu())
        await self._listen(take)
        return answer.registers()

    async def _without_ids(self, request: Request) -> bytes:
        def take(data: bytes) -> bool:
            self._feed(data)
            with self._usable():
                return self._answers.waiting

        await self._drain(0)
        await self._line.write(request.tcp(self._next_transaction()))
        await self._listen(take)
        with self._usable():
            return self._answers.only(request)

    async def _listen(self, take: Callable[[bytes], bool]) -> None:
        """Give `take` what arrives until it has an answer and the line is quiet, or the time is over."""
        deadline = time.monotonic() + self._timeout_s
        complete = False
        while (left_s := deadline - time.monotonic()) > 0:
            data = await self._line.read(min(left_s, _QUIET_S) if complete else left_s)
            if not data:
                return
            self._heard_s = time.monotonic()
            self._sink.bytes_seen(len(data), "an answer with a valid checksum")
            complete = take(data)

    async def _by_id(self, request: Request) -> bytes:
        transaction = self._next_transaction()
        await self._line.write(request.tcp(transaction))
        deadline = time.monotonic() + self._timeout_s
        while True:
            data = await self._line.read(max(deadline - time.monotonic(), 0))
            self._feed(data)
            try:
                with self._usable():
                    registers = self._answers.registers(request, transaction)
            finally:
                self._count_late()
            if registers is not None:
                return registers
            if not data:
                raise RemoteError("timeout", f"{request}: no answer")

    def _next_transaction(self) -> int:
        self._transaction = self._transaction % 65_535 + 1
        return self._transaction

    def _feed(self, data: bytes) -> None:
        if data:
            self._heard_s = time.monotonic()
            self._sink.bytes_seen(len(data), "a whole answer")
        with self._usable():
            self._answers.feed(data)

    def _count_late(self) -> None:
        if self._answers.late:
            self._sink.fault("late", count=self._answers.late)
            self._answers.late = 0

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Raises SourceError in place of a RemoteError that says that the connection is of no more use."""
        try:
            yield
        except RemoteError as error:
            if error.reason not in _UNUSABLE:
                raise
            self.count(error)
            raise SourceError(f"{self.name}: {error}; {_UNUSABLE[error.reason]}") from None
