"""A sink that keeps what a driver gives it, for tests of drivers."""

import asyncio
from collections import Counter
from collections.abc import Callable

from gridhe.meter_agent.sources.reading import DeviceReading

__all__ = ["RecordingSink"]


class RecordingSink:
    """A `Sink`; `until` waits for a condition on what it holds."""

    def __init__(self) -> None:
        self.readings: list[DeviceReading] = []
        self.faults: Counter[str] = Counter()
        self.names: list[str] = []  # of `opened`
        self.losses: list[str] = []
        self.bytes = 0
        self.hint: str | None = None
        self._changed = asyncio.Event()

    def reading(self, reading: DeviceReading, *, arrived_s: float | None = None) -> None:
        self.readings.append(reading)
        self._changed.set()

    def fault(self, reason: str, detail: str = "", count: int = 1) -> None:
        self.faults[reason] += count
        self._changed.set()

    def opened(self, what: str) -> None:
        self.names.append(what)
        self._changed.set()

    def lost(self, why: str) -> None:
        self.losses.append(why)
        self._changed.set()

    def bytes_seen(self, count: int, hint: str | None) -> None:
        self.bytes += count
        self.hint = hint
        self._changed.set()

    async def until(self, condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
        """Wait until `condition()` holds; it is tried whenever something arrives."""
        async with asyncio.timeout(within_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()
