"""One simulated meter, its cable and its agent's process."""

import asyncio
import fcntl
import functools
import os
import random
import signal
import struct
import termios
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from gridhe.base.processes import Child
from gridhe_testing.devices.faults import FaultyLine, Shown
from gridhe_testing.devices.kinds import Kind
from gridhe_testing.devices.register import TrueRegister
from gridhe_testing.serial_pair import SerialPair

__all__ = ["SimulatedMeter"]

_UNREAD_MAX = 2_048  # bytes: nobody reads, so what is older is dropped, as a UART drops it
_CALM = 20  # telegrams without wrong values after a new meter
_MARGIN_S = 3.0  # readings just before an interruption may not be committed, on a busy machine
_REQUEST = 8  # bytes of a Modbus request


@dataclass(slots=True)
class Swap:
    """The meter that hangs there now."""

    serial: int = 1
    less_wh: int = 0  # its register is lower than the first one's by this


class SimulatedMeter:
    """Sends telegrams with faults; its cable is pulled and its agent killed now and then."""

    def __init__(
        self,
        kind: Kind,
        register: TrueRegister,
        pair: SerialPair,
        start_agent: Callable[[], Child],
        *,
        seed: str,
    ) -> None:
        self.kind, self.register, self.pair = kind, register, pair
        self.line = FaultyLine(seed)
        self._random = random.Random(f"{seed}/interruptions")
        self._start_agent = start_agent
        self.agent = start_agent()
        self._swap = Swap()
        self.sent = 0
        self.swaps: list[float] = []
        self.interrupted: list[tuple[float, float]] = []  # (from, until), UTC epoch seconds
        self._since: float | None = time.time()  # of an interruption that lasts
        self._down = False  # the agent is stopped and not started again yet
        self._answered = 0  # telegrams that were read since then
        self.counts: Counter[str] = Counter()  # interruptions by kind

    @property
    def is_read(self) -> bool:
        """Whether its agent reads it now."""
        return self._since is None

    # -- telegrams -----------------------------------------------------------------------------

    async def send(self, until: Callable[[], bool], per_second: float) -> None:
        """Send telegrams until `until()`."""
        period_s = 1 / per_second
        due_s = time.monotonic()
        while not until():
            if self.kind.polled:
                await self._answer()
                continue
            due_s = max(due_s + period_s, time.monotonic() - 10 * period_s)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if self.pair.terminal >= 0:
                self._push()

    def _push(self) -> None:
        unread = _unread(self.pair.terminal)
        self._note_reader(read=not unread)
        if unread > _UNREAD_MAX:
            termios.tcflush(self.pair.terminal, termios.TCIFLUSH)
            self._answered = 0
            return
        self._say(self.line.next(self._shown(), self.kind.write))

    async def _answer(self) -> None:
        """Answer the agent's next request, if one has come."""
        try:
            request = os.read(self.pair.meter_end, 256)[-_REQUEST:] if self.pair.terminal >= 0 else b""
        except OSError:
            request = b""
        if len(request) < _REQUEST:
            await asyncio.sleep(0.005)
            return
        self._note_reader(read=True)
        write = functools.partial(self.kind.write, request=request)
        self._say(self.line.next(self._shown(), write))

    def _say(self, data: bytes) -> None:
        self.sent += 1
        with suppress(OSError):  # full, or just pulled out
            os.write(self.pair.meter_end, data)

    def _shown(self) -> Shown:
        now_s = time.time()
        wh = self.register.wh(now_s) - self._swap.less_wh
        return Shown(wh=wh, serial=self._swap.serial, at_s=now_s)

    # -- interruptions -------------------------------------------------------------------------

    def _note_reader(self, *, read: bool) -> None:
        if self._since is None:
            return
        if not self.interrupted:
            self.line.calm(_CALM)
        self._answered += read and not self._down
        if self._answered > 5:
            self.interrupted.append((self._since, time.time()))
            self._since = None

    def _interrupt(self, kind: str) -> None:
        self.counts[kind] += 1
        self._answered = 0
        if self._since is None:
            self._since = time.time() - _MARGIN_S

    async def suffer(self, until: Callable[[], bool], every_s: float) -> None:
        """Interruptions, one about every `every_s`, until `until()`."""
        kinds = ["kill", "stop", "pull", *(["swap"] if self.kind.has_id else [])]
        order = [kind for _ in range(1_000) for kind in self._random.sample(kinds, len(kinds))]
        for kind in order:
            await self._wait(self._random.uniform(0.7, 1.3) * every_s, until)
            while not (self.is_read or until()):
                await asyncio.sleep(0.1)
            if until():
                return
            await self._do(kind)

    @staticmethod
    async def _wait(seconds: float, until: Callable[[], bool]) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and not until():
            await asyncio.sleep(0.1)

    async def _do(self, kind: str) -> None:
        if kind == "swap":
            self.counts["swap"] += 1
            self.swaps.append(time.time())
            shown = self._shown()
            self._swap = Swap(
                serial=self._swap.serial + 1,
                less_wh=self._swap.less_wh + shown.wh - self._random.randrange(10_000, 1_000_000),
            )
            self.line.calm(_CALM)
        elif kind == "pull":
            self._interrupt(kind)
            self.pair.unplug()
            await asyncio.sleep(self._random.uniform(0.2, 3))
            self.pair.plug()
        else:
            self._interrupt(kind)
            self._down = True
            os.kill(self.agent.pid, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
            while self.agent.exit_code is None:
                await asyncio.sleep(0.02)
            wanted = -signal.SIGKILL if kind == "kill" else 0
            assert self.agent.exit_code == wanted, self.agent.tail()
            self.agent = self._start_agent()
            self._down = False

    def disturbed(self, end_s: float) -> list[tuple[float, float]]:
        """All times at which readings may be missing, sorted."""
        still = [] if self._since is None else [(self._since, end_s)]
        around = [(at_s - _MARGIN_S, at_s + _MARGIN_S) for at_s in self.swaps]
        return sorted([*self.interrupted, *still, *around])


def _unread(terminal: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(terminal, termios.FIONREAD, b"\0" * 4))[0]
    return count
