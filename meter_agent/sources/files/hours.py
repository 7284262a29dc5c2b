"""The header of a file with a row a day: which column is which part of the day."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gridhe.meter_agent.sources.files.format import FileFormat
from gridhe.meter_agent.sources.files.moments import parse_stamp

__all__ = ["HourColumns", "hour_columns", "step_of_count"]

_RANGE = re.compile(
    r"([0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?)\s*(?:-|\u2013|to|bis|a)\s*([0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?)"
)
_NUMBER = re.compile(r"(?:hh|h|q|e|v|p|hour|hora|ora|godz\.?|stunde|hr)?[ _]?0?([0-9]{1,3})", re.IGNORECASE)
_AT_LEAST = 23
_DAY_S = 86_400
# Periods of a day: the usual number, and those of the days on which clocks change.
_COUNTS = {23: 3600, 24: 3600, 25: 3600, 46: 1800, 48: 1800, 50: 1800, 92: 900, 96: 900, 100: 900}
_COUNTS |= {138: 600, 144: 600, 150: 600, 276: 300, 288: 300, 300: 300}


@dataclass(frozen=True, slots=True, kw_only=True)
class HourColumns:
    """(column, seconds from the day's start) of each interval's start, and the length of an interval."""

    columns: tuple[tuple[int, int], ...]
    step_s: int
    by_clock: bool  # a time of day; else the n-th period


def step_of_count(count: int) -> int | None:
    """Seconds of a period if a day has so many; None for a number that no day has."""
    return _COUNTS.get(count)


def hour_columns(header: Sequence[str], settings: FileFormat) -> HourColumns | None:
    """The columns of the day's parts; None if the header has none."""
    ranges, clocks, numbers = [], [], []
    for at, name in enumerate(header):
        found = _RANGE.fullmatch(name.strip())
        if found is not None:
            first, last = parse_stamp(found[1]), parse_stamp(found[2])
            if first and last and first.second is not None and last.second is not None:
                ranges.append((at, first.second, (last.second - first.second) % _DAY_S))
            continue
        stamp = parse_stamp(name)
        if stamp is not None and stamp.day is None and stamp.second is not None and stamp.second <= _DAY_S:
            clocks.append((at, stamp.second))
            continue
        numbered = _NUMBER.fullmatch(name.strip())
        if numbered is not None:
            numbers.append((at, int(numbered[1])))
    if len(ranges) >= _AT_LEAST:
        step_s = min(length for _, _, length in ranges)
        return HourColumns(
            columns=tuple((at, start) for at, start, _ in ranges), step_s=step_s, by_clock=True
        )
    if len(clocks) >= _AT_LEAST:
        step_s = (clocks[1][1] - clocks[0][1]) % _DAY_S
        end = settings.stamp == "end" or (
            settings.stamp == "auto" and clocks[0][1] == step_s and clocks[-1][1] in (0, _DAY_S)
        )
        starts = ((at, (second - step_s) % _DAY_S if end else second % _DAY_S) for at, second in clocks)
        return HourColumns(columns=tuple(starts), step_s=step_s, by_clock=True)
    step = step_of_count(len(numbers))
    wanted = [number for _, number in numbers]
    if step is not None and wanted == list(range(wanted[0], wanted[0] + len(wanted))) and wanted[0] in (0, 1):
        return HourColumns(
            columns=tuple((at, (number - wanted[0]) * step) for at, number in numbers),
            step_s=step,
            by_clock=False,
        )
    return None
