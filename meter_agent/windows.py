"""Builds windows of integer readings from samples. Pure: no clock, no disk.

    kind       an interval's reading                                       missing when
    energy     the sample stamped with its start                           there is none
    register   register(end) - register(start)                             a break lies in it, or a boundary's
                                                                           value is not known
    power      floor(E(end)) - floor(E(start)), E the energy since the     two samples around a boundary are
               first sample; a power stands until the next sample          further apart than `patience_s`

A register is an integer, and a sample says itself where a register does not continue the samples before it
(`Sample.breaks`, decided by `gridhe.meter_agent.sources.tracker`). Its value at a boundary is that of a
sample on it. Else it is interpolated, in integers and rounded down, if the two samples around it are equal,
or at most half an interval apart, or one of them is within a 60th of an interval of the boundary; after a
longer silence the share of each interval would be a guess. A power's energy is rounded down at boundaries
only. So the readings of consecutive known intervals add up exactly to what the meter counted. For a quantity
in W (`mean_power`) a reading is the interval's mean: of a register, its energy * 3600 // interval_s.

Rules for time (UTC epoch seconds in the samples):

1. Time is the latest stamp seen. An earlier sample is late, one with the same stamp a duplicate; both
   are ignored.
2. An interval is closed once, when time passes its end. A window closes when its last interval does,
   or when `advance` is called `patience_s` after its end.
3. After a jump forward of the clock the intervals between are missing; after a jump back samples are
   late until the clock has passed the earlier time.
4. A window without any sample is not produced.

`state()` is the whole state: a WindowBuilder restored from it continues without a difference. The state of
the device that gives the samples (`device_state`) is kept with it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import msgpack

from gridhe.errors import StateError
from gridhe.meter_agent.policy import ABSENT, TEXT
from gridhe.meter_agent.sources.protocol import Kind, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ClosedWindow", "WindowBuilder", "WindowCounts"]

_NEAR_S = 2.0  # samples at most this far apart are near, however short the interval
_VERSION = 2  # 2: registers are integers, with the state of the device


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedWindow:
    """Raw readings of one window: int64[intervals] by quantity, with ABSENT and TEXT as special values."""

    window: int
    readings: "Mapping[str, Sequence[int] | NDArray[np.int64]]"


@dataclass(slots=True)
class WindowCounts:
    """Counts of a device's samples and their irregularities."""

    samples: int = 0
    late: int = 0  # earlier than the latest stamp; ignored
    duplicate: int = 0  # the same stamp as the latest; ignored
    breaks: int = 0  # a register did not continue: another meter, a reset
    gaps: int = 0  # two samples were more than `patience_s` apart
    unknown: int = 0  # boundaries too far from the samples of a register around them

    def plus(self, other: "WindowCounts") -> "WindowCounts":
        """The sums of both."""
        return WindowCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def _integer(value: int | float) -> int:
    """An interval's energy unchanged; TEXT if it is not a 64-bit integer."""
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        return TEXT
    return int(value) if ABSENT <= value < 2**63 else TEXT


@dataclass(slots=True)
class _Meter:
    """One quantity's register or power: the last sample, and the value at the start of its interval."""

    at_s: float | None = None
    value: float = 0  # the register (an int), or the power
    energy: float = 0.0  # of a power source, since its first sample
    start: int | None = None  # the cumulative integer at the start of the interval that holds at_s


class WindowBuilder:
    """Collects one meter's samples into windows."""

    def __init__(
        self,
        *,
        quantities: Sequence[str],
        kind: Kind,
        window_s: int,
        interval_s: int,
        patience_s: float | None = None,
        mean_power: Sequence[str] = (),
    ) -> None:
        """`patience_s` (default: one and a half intervals) is the longest wait between two samples."""
        self.quantities = tuple(quantities)
        self.kind: Kind = kind
        self.window_s, self.interval_s = window_s, interval_s
        self.patience_s = 1.5 * interval_s if patience_s is None else patience_s
        self.counts = WindowCounts()
        self.mean_power = tuple(mean_power)
        self.device_state = b""  # of the device that gives the samples, at its last sample
        self._seconds_per_unit = {
            name: float(interval_s if name in mean_power else 3600) for name in self.quantities
        }
        self._time_s: float | None = None
        self._closed_until = -(2**62)  # the first window that is still open
        self._meters = {name: _Meter() for name in self.quantities}
        self._open: dict[int, dict[str, list[int]]] = {}
        self._closed: list[ClosedWindow] = []

    # -- samples -------------------------------------------------------------------------------

    @property
    def time_s(self) -> float | None:
        """The latest stamp seen; None before the first sample."""
        return self._time_s

    def add(self, sample: Sample) -> None:
        """Take one sample. Its windows may then be `closed`."""
        self.counts.samples += 1
        at_s = sample.at_s
        if self.kind == "energy":
            at_s = at_s // self.interval_s * self.interval_s  # any stamp within the interval counts for it
        if self._time_s is not None and at_s <= self._time_s:
            if at_s == self._time_s:
                self.counts.duplicate += 1
            else:
                self.counts.late += 1
            self._forget(sample.breaks)
            return
        if int(at_s // self.window_s) < self._closed_until:
            self.counts.late += 1
            self._forget(sample.breaks)
            return
        self._time_s = at_s
        interval = int(at_s // self.interval_s)
        if self.kind == "energy":
            self._touch(interval)
            for name, value in sample.values.items():
                if name in self._meters:
                    self._put(name, interval, _integer(value))
            self._close_until((interval + 1) * self.interval_s)
            return
        self._touch(interval)
        for name, value in sample.values.items():
            if name in self._meters and math.isfinite(value):
                if self.kind == "register":
                    self._count(name, at_s, math.floor(value), broken=name in sample.breaks)
                else:
                    self._measure(name, at_s, float(value))
        # A quantity that this sample left out may still be interpolated by the next one.
        waiting = [m.at_s for m in self._meters.values() if m.at_s is not None and m.at_s < at_s]
        if not waiting:
            self._close_until(interval * self.interval_s)
        else:
            known_s = max(min(waiting), at_s - self.patience_s)
            self._close_until(int(known_s // self.interval_s) * self.interval_s)

    def advance(self, now_s: float) -> None:
        """Close windows that ended at least `patience_s` before `now_s`, without a sample."""
        self._close_until(now_s - self.patience_s)

    def finish(self, *, partial: bool) -> None:
        """The source ended. With `partial`, close open windows as they are; else drop them."""
        for window in sorted(self._open):
            if partial:
                self._close(window)
        self._open.clear()

    # -- windows -------------------------------------------------------------------------------

    @property
    def closed(self) -> tuple[ClosedWindow, ...]:
        """Closed windows, oldest first, until `discard` removes them."""
        return tuple(self._closed)

    @property
    def closed_until_s(self) -> int:
        """All windows before this time (UTC epoch seconds) are closed."""
        return self._closed_until * self.window_s

    def discard(self, window: int) -> None:
        """Remove a closed window: its batch is committed."""
        self._closed = [closed for closed in self._closed if closed.window != window]

    # -- inside --------------------------------------------------------------------------------

    def _forget(self, names: Iterable[str]) -> None:
        """Registers that broke in an ignored sample: the next one starts them again."""
        for name in self._meters.keys() & set(names):
            self._meters[name] = _Meter()

    def _touch(self, interval: int) -> None:
        window = interval * self.interval_s // self.window_s
        if window >= self._closed_until and window not in self._open:
            intervals = self.window_s // self.interval_s
            self._open[window] = {name: [ABSENT] * intervals for name in self.quantities}

    def _put(self, name: str, interval: int, value: int) -> None:
        window, offset_s = divmod(interval * self.interval_s, self.window_s)
        if window < self._closed_until:
            return
        self._touch(interval)
        self._open[window][name][offset_s // self.interval_s] = value

    def _count(self, name: str, at_s: float, value: int, *, broken: bool) -> None:
        """Take a register's value."""
        meter = self._meters[name]
        before_s, before = meter.at_s, int(meter.value)
        meter.at_s, meter.value = at_s, value
        if self._starts(before_s, at_s, broken=broken):
            meter.start = value if at_s % self.interval_s == 0 else None
            return
        assert before_s is not None  # noqa: S101 - `_starts` returned False
        after_ms, before_ms = round(at_s * 1000), round(before_s * 1000)
        near = at_s - before_s <= max(self.interval_s / 2, _NEAR_S) or value == before
        for interval, boundary_s in self._ended_intervals(before_s, at_s):
            cumulative: int | None = value
            if boundary_s * 1000 < after_ms:
                cumulative = before + (value - before) * (boundary_s * 1000 - before_ms) // (
                    after_ms - before_ms
                )
                if not near and min(boundary_s - before_s, at_s - boundary_s) * 60 > self.interval_s:
                    cumulative = None
                    self.counts.unknown += 1
            if meter.start is not None and cumulative is not None:
                energy = cumulative - meter.start
                mean = name in self.mean_power
                self._put(name, interval, energy * 3600 // self.interval_s if mean else energy)
            meter.start = cumulative

    def _measure(self, name: str, at_s: float, value: float) -> None:
        """Take a power."""
        meter = self._meters[name]
        before_s, slope, base = meter.at_s, meter.value / self._seconds_per_unit[name], meter.energy
        meter.at_s, meter.value = at_s, value
        if self._starts(before_s, at_s, broken=False):
            meter.start = self._whole(base) if at_s % self.interval_s == 0 else None
            return
        assert before_s is not None  # noqa: S101 - `_starts` returned False
        for interval, boundary_s in self._ended_intervals(before_s, at_s):
            cumulative = self._whole(base + slope * (boundary_s - before_s))
            if meter.start is not None:
                self._put(name, interval, cumulative - meter.start)
            meter.start = cumulative
        meter.energy = base + slope * (at_s - before_s)

    def _starts(self, before_s: float | None, at_s: float, *, broken: bool) -> bool:
        """Whether the energy since the last sample is unknown, so that counting starts again."""
        apart = before_s is not None and at_s - before_s > self.patience_s
        self.counts.gaps += apart
        self.counts.breaks += broken and before_s is not None
        return before_s is None or broken or apart

    def _ended_intervals(self, before_s: float, at_s: float) -> Iterator[tuple[int, int]]:
        """(interval, its end) of the intervals that end after `before_s` and not after `at_s`."""
        for interval in range(int(before_s // self.interval_s), int(at_s // self.interval_s)):
            yield interval, (interval + 1) * self.interval_s

    @staticmethod
    def _whole(value: float) -> int:
        # 1e-9 more, so that a boundary value of 7.0 computed as 6.9999999999 is not rounded to 6.
        return int((value + 1e-9) // 1)

    def _close_until(self, until_s: float) -> None:
        until = int(until_s // self.window_s)
        if until <= self._closed_until:
            return
        for window in sorted(self._open):
            if window < until:
                self._close(window)
        self._closed_until = until

    def _close(self, window: int) -> None:
        self._closed.append(ClosedWindow(window=window, readings=self._open.pop(window)))
        self._closed_until = max(self._closed_until, window + 1)

    # -- state ---------------------------------------------------------------------------------

    def state(self) -> bytes:
        """The whole state, as msgpack."""
        record: dict[str, Any] = {
            "v": _VERSION,
            "quantities": list(self.quantities),
            "kind": self.kind,
            "window_s": self.window_s,
            "interval_s": self.interval_s,
            "patience_s": self.patience_s,
            "mean_power": list(self.mean_power),
            "time_s": self._time_s,
            "closed_until": self._closed_until,
            "meters": [[m.at_s, m.value, m.energy, m.start] for m in self._meters.values()],
            "open": [[window, list(rows.values())] for window, rows in self._open.items()],
            "closed": [[closed.window, list(closed.readings.values())] for closed in self._closed],
            "counts": list(astuple(self.counts)),
            "device": self.device_state,
        }
        packed: bytes = msgpack.packb(record)
        return packed

    @classmethod
    def from_state(cls, state: bytes) -> "WindowBuilder":
        """The WindowBuilder whose `state()` this is. Raises StateError."""
        try:
            record: dict[str, Any] = msgpack.unpackb(state)
            if record["v"] != _VERSION:
                raise StateError(
                    f"the journal of open readings is of version {record['v']}, not {_VERSION}: another "
                    "version of gridhe wrote it; run that one, or begin with a new --state-dir"
                )
            window_builder = cls(
                quantities=record["quantities"],
                kind=record["kind"],
                window_s=record["window_s"],
                interval_s=record["interval_s"],
                patience_s=record["patience_s"],
                mean_power=record["mean_power"],
            )
            names = window_builder.quantities
            window_builder._time_s, window_builder._closed_until = record["time_s"], record["closed_until"]
            window_builder._meters = {
                name: _Meter(at_s=at_s, value=value, energy=energy, start=start)
                for name, (at_s, value, energy, start) in zip(names, record["meters"], strict=True)
            }
            window_builder._open = {
                window: dict(zip(names, rows, strict=True)) for window, rows in record["open"]
            }
            window_builder._closed = [
                ClosedWindow(window=window, readings=dict(zip(names, rows, strict=True)))
                for window, rows in record["closed"]
            ]
            window_builder.counts = WindowCounts(*record["counts"])
            window_builder.device_state = bytes(record["device"])
        except StateError:
            raise
        # Damaged bytes can raise any exception, depending on where they are first used.
        except Exception as error:
            raise StateError(f"the journal of open readings is damaged ({type(error).__name__})") from None
        return window_builder
