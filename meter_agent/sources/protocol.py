"""The interfaces of sources of readings, live or replayed.

A `DeviceSource` is one meter's device, read as time passes. A `WindowSource` holds whole windows of
many meters and gives the same ones on every call, so a restart loses nothing and any speed is
possible; `WindowDevice` adapts one of its meters to a DeviceSource.

Raw readings are int64 with the special values ABSENT and TEXT (`gridhe.meter_agent.policy`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gridhe.meter_agent.policy import ABSENT

__all__ = ["DeviceSource", "Kind", "Sample", "WindowDevice", "WindowSource"]

# energy: the integer of one whole interval, stamped with the interval's start.
# register: a cumulative counter (whole Wh), stamped with the moment it was read.
# power: W at a moment; it holds until the next sample.
Kind = Literal["energy", "register", "power"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A device's values at a moment (UTC epoch seconds), by quantity; an absent quantity is missing."""

    at_s: float
    values: Mapping[str, int | float]
    # Registers that do not continue the earlier samples (another meter, a reset): their increase since the
    # sample before is not known.
    breaks: frozenset[str] = frozenset()


class DeviceSource(Protocol):
    """One meter's device."""

    @property
    def kind(self) -> Kind:
        """The meaning of its values."""
        ...

    def read(self, after_s: float, until_s: float) -> Iterator[Sample]:
        """The samples stamped after `after_s` that are known at `until_s`, oldest first.

        A replayed source gives them again after a restart; a real device gives only newer ones.
        Raises SourceError.
        """
        ...

    def ended(self, at_s: float) -> bool:
        """Whether no sample stamped after `at_s` can come."""
        ...

    def state(self) -> bytes:
        """The device's own state after the samples that were read, for the journal; empty without any."""
        ...


class WindowSource(Protocol):
    """Whole windows of many meters."""

    @property
    def windows(self) -> tuple[int, int | None]:
        """The first window and one past the last; None if it has no end."""
        ...

    def window(self, meter: str, window: int) -> dict[str, NDArray[np.int64]]:
        """Raw readings int64[intervals] by quantity. Raises SourceError, also for an unknown meter."""
        ...

    def where(self, meter: str, window: int, interval: int) -> str:
        """The place of a reading, for messages."""
        ...


class WindowDevice:
    """One meter of a WindowSource, as a device that gives each interval's energy after its end."""

    def __init__(self, source: WindowSource, meter: str, *, window_s: int, interval_s: int) -> None:
        self._source, self._meter = source, meter
        self._window_s, self._interval_s = window_s, interval_s

    @property
    def kind(self) -> Kind:
        """Always energy."""
        return "energy"

    def read(self, after_s: float, until_s: float) -> Iterator[Sample]:
        """One sample per interval that starts after `after_s` and is over at `until_s`."""
        first, end = self._source.windows
        per_window = self._window_s // self._interval_s
        interval = max(int(after_s // self._interval_s) + 1, first * per_window)
        until = int(until_s // self._interval_s)
        if end is not None:
            until = min(until, end * per_window)
        while interval < until:
            window, at = divmod(interval, per_window)
            readings = self._source.window(self._meter, window)
            for i in range(at, min(per_window, until - window * per_window)):
                values = {name: int(raw[i]) for name, raw in readings.items() if raw[i] != ABSENT}
                yield Sample(at_s=float((window * per_window + i) * self._interval_s), values=values)
            interval = (window + 1) * per_window

    def ended(self, at_s: float) -> bool:
        """Whether the last window's last interval starts at or before `at_s`."""
        _, end = self._source.windows
        return end is not None and at_s >= end * self._window_s - self._interval_s

    def state(self) -> bytes:
        """Empty: windows are the same on every call."""
        return b""
