"""Collects readings of a file's meters, places them in time, and makes a table of them.

Values are exact: integers in 1/SCALE Wh (of a power: in 1/MICRO W, until the step is known). Registers are
counted in 1/1000 Wh.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, TEXT
from gridhe.meter_agent.sources.files.registers import clean_register
from gridhe.meter_agent.sources.files.scale import MICRO, MILLI, SCALE, Kind
from gridhe.meter_agent.sources.files.table import (
    CONFLICT,
    ESTIMATED,
    EXCHANGED,
    Findings,
    Samples,
    Table,
)
from gridhe.meter_agent.sources.files.zones import AMBIGUOUS, NONE, local_to_utc, refuse_local_times

__all__ = ["Collector"]

_LIMIT = 2**62
_READINGS_MAX = 1 << 27  # a GiB of integers
_ONE_DAY_S = 86_400
_EMPTY = 255
_RISING_ROWS = 12  # fewer values that only rise may be a morning's energies


@dataclass(slots=True)
class _Series:
    stamps: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[int]" = field(default_factory=lambda: array("q"))
    flags: "array[int]" = field(default_factory=lambda: array("B"))
    lines: "array[int]" = field(default_factory=lambda: array("q"))


@dataclass(slots=True)
class _Placed:
    """One series in UTC, rising, without repetitions."""

    starts: NDArray[np.int64]
    values: NDArray[np.int64]
    flags: NDArray[np.uint8]
    lines: NDArray[np.int64]


class Collector:
    """All readings of a file."""

    def __init__(
        self,
        path: Path,
        findings: Findings,
        *,
        kind: Kind,
        zone: tzinfo | None,
        end: bool | None,
        step_s: int | None,
        unit_wh: int = 1,
        largest_w: int = 100_000,
        conflict: str = "missing",
    ) -> None:
        """`zone`: of local stamps; None: stamps are UTC.

        `end`: stamps are intervals' ends; None: find out.
        """
        self._path, self.findings, self._kind, self._zone, self._end = path, findings, kind, zone, end
        self._step_s, self._unit_wh, self._largest_w = step_s, unit_wh, largest_w
        self._conflict = conflict
        self._series: dict[tuple[str, str], _Series] = {}
        self._count = 0

    def add(
        self, meter: str, quantity: str, stamp_s: int, value: int, line: int, *, estimated: bool = False
    ) -> None:
        """One cell: an integer of `scaled`, ABSENT or TEXT, with its stamp (UTC or local seconds)."""
        series = self._series.get((meter, quantity))
        if series is None:
            series = self._series[meter, quantity] = _Series()
        self._count += 1
        if self._count > _READINGS_MAX or len(self._series) > 100_000:
            raise SourceError(f"{self._path} has more readings than fit in memory: cut it into pieces")
        series.stamps.append(stamp_s)
        series.values.append(value)
        series.flags.append(_EMPTY if value == ABSENT else ESTIMATED if estimated else 0)
        series.lines.append(line)

    def shape_of_values(self) -> tuple[bool, bool, bool]:
        """Whether values only rise, are larger than a household's, and rise by different amounts."""
        step_s = self._step_s or self._common_step() or 3600
        rising, varied, typical = True, True, []
        for series in self._series.values():
            values = np.frombuffer(series.values, np.int64)
            values = values[values > TEXT]
            steps = np.diff(values if not _newest_first(series) else values[::-1])
            if not steps.size:
                continue
            falls = int(np.count_nonzero(steps < 0))
            rising = rising and falls <= (1 if self._kind == "register" else 0) + len(values) // 50
            rising = rising and bool((steps > 0).any()) and len(values) >= _RISING_ROWS
            varied = varied and len(np.unique(steps)) >= 3 and len(values) >= 2 * _RISING_ROWS
            typical.append(float(np.median(np.abs(values))))
        units = {"interval": SCALE * step_s / 3600, "power": MICRO, "register": MILLI}[self._kind]
        implausible = bool(typical) and min(typical) > self._largest_w * units
        return rising and bool(typical), implausible, varied

    def refuse_local_times(self) -> None:
        """Refuse stamps that were only assumed to be UTC and are local. Raises SourceError."""
        step_s = self._step_s or self._common_step()
        for series in self._series.values():
            if step_s is not None:
                refuse_local_times(self._path, np.frombuffer(series.stamps, np.int64), step_s)
            break

    # -- the table -----------------------------------------------------------------------------

    def table(self, format_name: str, decided: Iterable[str]) -> Table:
        """All readings. Raises SourceError."""
        said = list(decided)
        if not self._series:
            raise SourceError(f"{self._path} has a header and no readings")
        if self._zone is not None or self._end is None:
            for series in self._series.values():
                _ascending(series)
        step_s = self._step_s or self._common_step()
        end = (
            self._find_end(step_s, said)
            if self._end is None and self._kind != "register"
            else bool(self._end)
        )
        placed = {
            key: found
            for key, series in self._series.items()
            if len((found := self._place(key[1], series, step_s, end)).starts)
        }
        if not placed:
            raise SourceError(f"{self._path} has no reading with a certain time: {self._reasons()}")
        if self._kind == "register":
            return self._registers(placed, step_s, format_name, said)
        if step_s is None:
            raise SourceError(f"{self._path} does not show how long an interval is; give --with step_s=3600")
        if _ONE_DAY_S % step_s and step_s % _ONE_DAY_S:
            raise SourceError(
                f"{self._path} has a row every {step_s} s, which is no part of a day; if they are instants "
                "of a "
                "register give --with kind=register, else the right --with step_s="
            )
        if self._kind == "power":
            for each in placed.values():
                real = each.values > TEXT
                each.values[real] *= step_s
        on_grid = {key: self._on_grid(key[1], each, step_s) for key, each in placed.items()}
        on_grid = {key: each for key, each in on_grid.items() if len(each.starts)}
        said.append(f"every {step_s} s" + (", stamped with the end" if end else ""))
        return self._pivot(on_grid, step_s, SCALE, format_name, said, {})

    def _reasons(self) -> str:
        return ", ".join(self.findings.counts) or "the file has none"

    def _common_step(self) -> int | None:
        """The usual distance of two stamps; None if there is none."""
        distances = [
            np.diff(np.unique(np.frombuffer(series.stamps, np.int64))) for series in self._series.values()
        ]
        rising = np.concatenate(distances) if distances else np.empty(0, np.int64)
        if not rising.size:
            return None
        steps, counts = np.unique(rising, return_counts=True)
        return int(steps[np.argmax(counts)])

    def _find_end(self, step_s: int | None, said: list[str]) -> bool:
        """Whether stamps are ends: the file's first and last stamps of whole local days show it."""
        first = min(min(series.stamps) for series in self._series.values()) % _ONE_DAY_S
        last = max(max(series.stamps) for series in self._series.values()) % _ONE_DAY_S
        if step_s is not None and step_s < _ONE_DAY_S and first == step_s and last == 0:
            return True
        if first != 0 or last == 0:
            said.append("stamps taken as starts (stamp=end if not)")
        return False

    def _place(self, quantity: str, series: _Series, step_s: int | None, end: bool) -> _Placed:
        stamps = np.frombuffer(series.stamps, np.int64)
        values = np.frombuffer(series.values, np.int64).copy()
        flags = np.frombuffer(series.flags, np.uint8).copy()
        lines = np.frombuffer(series.lines, np.int64)
        utc = stamps
        if self._zone is not None:
            at_end = end or self._kind == "register"
            utc = local_to_utc(stamps, self._zone, end=at_end, step_s=step_s or 3600)
            for code, reason in (
                (AMBIGUOUS, "this hour is there twice on the clock and only once in the file"),
                (NONE, "the clock skips this hour"),
            ):
                for at in np.flatnonzero(utc == code):
                    empty = values[at] == ABSENT
                    self.findings.add(int(lines[at]), quantity, reason, settled=bool(empty) and code == NONE)
        starts = utc - (step_s or 0) if end and self._kind != "register" else utc
        good = utc > NONE
        starts, values, flags, lines = starts[good], values[good], flags[good], lines[good]
        order = np.argsort(starts, kind="stable")
        starts, values, flags, lines = starts[order], values[order], flags[order], lines[order]
        keep = self._merge(quantity, starts, values, flags, lines)
        return _Placed(starts=starts[keep], values=values[keep], flags=flags[keep], lines=lines[keep])

    def _merge(
        self,
        quantity: str,
        starts: NDArray[np.int64],
        values: NDArray[np.int64],
        flags: NDArray[np.uint8],
        lines: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Merge rows for the same time into the first of them. Returns the mask of rows to keep."""
        keep = np.ones(len(starts), np.bool_)
        first = 0
        for at in map(int, np.flatnonzero(np.diff(starts) == 0) + 1):
            if starts[first] != starts[at]:
                first = int(np.searchsorted(starts, starts[at]))
            keep[at] = False
            if values[at] == ABSENT or values[at] == values[first] or values[first] == ABSENT:
                self.findings.add(int(lines[at]), quantity, "repeats a row", settled=True)
                if values[first] == ABSENT and values[at] != ABSENT and flags[first] != CONFLICT:
                    values[first], flags[first] = values[at], flags[at]
                continue
            if self._conflict == "last":
                values[first], flags[first] = values[at], flags[at]
                self.findings.add(
                    int(lines[at]), quantity, "replaces the value of an earlier row", settled=True
                )
            elif self._conflict == "first":
                self.findings.add(
                    int(lines[at]), quantity, "is left out: an earlier row has another value", settled=True
                )
            else:
                if flags[first] != CONFLICT:
                    self.findings.add(
                        int(lines[first]), quantity, "two rows have different values for one time"
                    )
                values[first], flags[first] = ABSENT, CONFLICT
        return keep

    def _on_grid(self, quantity: str, each: _Placed, step_s: int) -> _Placed:
        """Without the rows between two intervals."""
        grid_s = min(step_s, _ONE_DAY_S)
        phases, counts = np.unique(each.starts % grid_s, return_counts=True)
        good = each.starts % grid_s == phases[np.argmax(counts)]
        for at in np.flatnonzero(~good):
            empty = bool(each.values[at] == ABSENT)
            self.findings.add(int(each.lines[at]), quantity, "lies between two intervals", settled=empty)
        return _Placed(
            starts=each.starts[good], values=each.values[good], flags=each.flags[good], lines=each.lines[good]
        )

    # -- registers -----------------------------------------------------------------------------

    def _registers(
        self, placed: dict[tuple[str, str], _Placed], step_s: int | None, format_name: str, said: list[str]
    ) -> Table:
        samples: dict[tuple[str, str], Samples] = {}
        lines: dict[tuple[str, str], NDArray[np.int64]] = {}
        regular = step_s is not None and not (_ONE_DAY_S % step_s and step_s % _ONE_DAY_S)
        for (meter, quantity), each in placed.items():
            real = each.values > TEXT
            if not real.any():
                continue
            found, index = clean_register(
                each.starts[real],
                each.values[real],
                each.lines[real],
                unit_wh=self._unit_wh,
                largest_w=self._largest_w,
                column=quantity,
                findings=self.findings,
            )
            samples[quantity, meter] = found
            lines[quantity, meter] = each.lines[real][index]
            steps = np.diff(found.times_s)
            regular = regular and steps.size > 0 and float(np.mean(steps == step_s)) >= 0.8
        if not samples:
            raise SourceError(f"{self._path} has no register that can be read: {self._reasons()}")
        said.append("registers become differences")
        if not regular or step_s is None:
            said.append("read at irregular times")
            return self._irregular(samples, lines, format_name, said)
        differences: dict[tuple[str, str], _Placed] = {}
        for (quantity, meter), each_samples in samples.items():
            steps = np.diff(each_samples.times_s)
            value = np.diff(each_samples.wh)
            known = ~each_samples.breaks[1:]
            flags = np.where(known, 0, EXCHANGED).astype(np.uint8)
            value = np.where(known, value, ABSENT)
            good = steps == step_s
            for at in np.flatnonzero(~good):
                where = int(lines[quantity, meter][at + 1])
                self.findings.add(
                    where, quantity, "no register at an interval's end; it is missing", settled=True
                )
            differences[meter, quantity] = _Placed(
                starts=each_samples.times_s[:-1][good],
                values=value[good],
                flags=flags[good],
                lines=lines[quantity, meter][1:][good],
            )
        said.append(f"every {step_s} s")
        return self._pivot(differences, step_s, 1, format_name, said, {})

    def _irregular(
        self,
        samples: dict[tuple[str, str], Samples],
        lines: dict[tuple[str, str], NDArray[np.int64]],
        format_name: str,
        said: list[str],
    ) -> Table:
        meters = tuple(dict.fromkeys(meter for _, meter in samples))
        times = np.unique(np.concatenate([each.times_s for each in samples.values()]))
        first = next(iter(lines.values()))
        names = dict.fromkeys(quantity for quantity, _ in samples)
        return Table(
            path=self._path,
            columns=meters,
            values={name: np.full((len(times), len(meters)), ABSENT, np.int64) for name in names},
            times_s=times,
            lines=np.resize(first, len(times)),
            samples=samples,
            format=format_name,
            decided="; ".join(said),
            findings=self.findings,
        )

    # -- many series as a matrix ---------------------------------------------------------------

    def _pivot(
        self,
        placed: dict[tuple[str, str], _Placed],
        step_s: int,
        per_wh: int,
        format_name: str,
        said: list[str],
        samples: dict[tuple[str, str], Samples],
    ) -> Table:
        times = np.unique(np.concatenate([each.starts for each in placed.values()]))
        meters = tuple(dict.fromkeys(meter for meter, _ in placed))
        quantities = tuple(dict.fromkeys(quantity for _, quantity in placed))
        if len(times) * len(meters) * len(quantities) > _READINGS_MAX:
            raise SourceError(f"{self._path} has more readings than fit in memory: cut it into pieces")
        shape = (len(times), len(meters))
        values = {name: np.full(shape, ABSENT, np.int64) for name in quantities}
        flags = {name: np.zeros(shape, np.uint8) for name in quantities}
        lines = np.zeros(len(times), np.int64)
        column = {meter: at for at, meter in enumerate(meters)}
        for (meter, quantity), each in placed.items():
            rows = np.searchsorted(times, each.starts)
            values[quantity][rows, column[meter]] = each.values
            flags[quantity][rows, column[meter]] = each.flags
            unset = lines[rows] == 0
            lines[rows[unset]] = each.lines[unset]
        return Table(
            path=self._path,
            columns=meters,
            values=values,
            per_wh=per_wh,
            times_s=times,
            step_s=step_s,
            lines=lines,
            flags=flags,
            samples=samples,
            format=format_name,
            decided="; ".join(said),
            findings=self.findings,
        )


def _newest_first(series: _Series) -> bool:
    steps = np.diff(np.frombuffer(series.stamps, np.int64))
    return int(np.count_nonzero(steps < 0)) > int(np.count_nonzero(steps > 0))


def _ascending(series: _Series) -> None:
    """Turn a series that is listed newest first."""
    if _newest_first(series):
        series.stamps = series.stamps[::-1]
        series.values, series.flags, series.lines = (
            series.values[::-1],
            series.flags[::-1],
            series.lines[::-1],
        )
