"""Places local times in UTC: days of 23 and 25 hours, the repeated hour without a mark, the hour that is not.

A local time in the repeated hour has two instants. A run of such rows is placed as a whole: the first k
rows in the first pass of the hour, the others in the second, for the k that leaves the fewest gaps and
repetitions. If two k are equally good (the hour is there only once), the run gives no readings.
"""

import functools
import itertools
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from gridhe.errors import ConfigError, SourceError

__all__ = ["AMBIGUOUS", "NONE", "is_shift_day", "local_to_utc", "refuse_local_times", "zone_named"]

_DAY_S = 86_400
_RUN_MAX = 4_000
_SPRINGS_MAX = 50
# In place of a UTC second: the hour is there only once / a time that no clock showed.
AMBIGUOUS, NONE = -(2**62), -(2**62) + 1


@functools.cache
def zone_named(name: str) -> tzinfo:
    """An IANA zone (Europe/Berlin), UTC, or a fixed offset (+10:00). Raises ConfigError."""
    if name.upper() in ("UTC", "GMT", "Z"):
        return UTC
    if name[:1] in "+-" and len(name) == 6 and name[3] == ":" and (name[1:3] + name[4:]).isdigit():
        hours, minutes = int(name[1:3]), int(name[4:])
        if hours <= 14 and minutes < 60:
            offset = timedelta(hours=hours, minutes=minutes)
            return timezone(-offset if name[0] == "-" else offset)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"zone: there is no time zone {name!r}; write one as Europe/Berlin or +10:00"
        ) from None


@functools.lru_cache(1 << 14)
def _offset(zone: tzinfo, utc_s: int) -> int:
    offset = datetime.fromtimestamp(utc_s, UTC).astimezone(zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def is_shift_day(zone: tzinfo, day: int) -> int:
    """Seconds by which clocks jump on a local day (days since 1970): 3600 in spring, -3600 in autumn."""
    return _offset(zone, (day + 1) * _DAY_S + _DAY_S // 2) - _offset(zone, (day - 1) * _DAY_S + _DAY_S // 2)


def _candidates(zone: tzinfo, local_s: int, end: bool) -> tuple[int, ...]:
    """The instants at which the clock shows this time; for an end stamp also just before a jump."""
    offsets = {_offset(zone, local_s - _DAY_S), _offset(zone, local_s + _DAY_S)}
    found = set()
    for offset in offsets:
        at_s = local_s - offset
        if _offset(zone, at_s) == offset or (end and _offset(zone, at_s - 1) == offset):
            found.add(at_s)
    return tuple(sorted(found))


def local_to_utc(local: NDArray[np.int64], zone: tzinfo, *, end: bool, step_s: int) -> NDArray[np.int64]:
    """UTC seconds of one meter's local times, in ascending order; AMBIGUOUS or NONE where unknown."""
    days, inverse = np.unique(local // _DAY_S, return_inverse=True)
    before = np.array([_offset(zone, int(day - 1) * _DAY_S) for day in days], np.int64)
    after = np.array([_offset(zone, int(day + 2) * _DAY_S) for day in days], np.int64)
    utc: NDArray[np.int64] = local - before[inverse]
    unsettled = np.flatnonzero((before != after)[inverse])
    run: list[int] = []
    options: dict[int, tuple[int, ...]] = {}
    for at in map(int, unsettled):
        found = _candidates(zone, int(local[at]), end)
        if len(found) > 1:
            if run and run[-1] != at - 1:
                _place(run, options, utc, step_s)
                run = []
            run.append(at)
            options[at] = found
            continue
        if run:
            utc[at] = found[0] if found else NONE
            _place(run, options, utc, step_s)
            run = []
        utc[at] = found[0] if found else NONE
    if run:
        _place(run, options, utc, step_s)
    return utc


def _place(run: list[int], options: dict[int, tuple[int, ...]], utc: NDArray[np.int64], step_s: int) -> None:
    """Choose among the instants of a run of rows."""
    low = [options[at][0] for at in run]
    high = [options[at][-1] for at in run]
    previous = int(utc[run[0] - 1]) if run[0] > 0 else None
    following = int(utc[run[-1] + 1]) if run[-1] + 1 < len(utc) else None
    tries = [(low[:k] + high[k:],) * 2 for k in range(len(run) + 1)] if len(run) <= _RUN_MAX else []
    if len(run) % 2 == 0 and low[::2] == low[1::2]:  # a file sorted by local time: each time twice
        paired = [each for pair in zip(low[::2], high[1::2], strict=True) for each in pair]
        tries.append((paired, sorted(paired)))
    scored: dict[tuple[int, ...], int] = {}
    for chosen, ordered in tries:
        steps = [later - earlier for earlier, later in itertools.pairwise(ordered)]
        if any(step < 0 for step in steps):
            continue
        if previous is not None and previous > NONE:
            steps.append(ordered[0] - previous)
        if following is not None and following > NONE:
            steps.append(following - ordered[-1])
        scored[tuple(chosen)] = sum(step != step_s for step in steps)
    best = min(scored.values(), default=None)
    winners = [chosen for chosen, score in scored.items() if score == best]
    utc[run] = winners[0] if len(winners) == 1 else AMBIGUOUS


def refuse_local_times(path: Path, stamps: NDArray[np.int64], step_s: int) -> None:
    """Refuse stamps that were taken as UTC and behave like a clock that is set forward or back.

    An hour that comes twice, or gaps of exactly the hour that clocks skip in spring and no others. Raises
    SourceError.
    """
    steps = np.diff(stamps)
    back = steps[steps < 0]
    if step_s > 3600:
        return
    if back.size and bool(((back == step_s - 3600) | (back == -3600)).all()) and len(back) <= _SPRINGS_MAX:
        raise SourceError(
            f"{path} has an hour twice, so its times are local; give --with zone=Europe/Berlin (or the "
            "right one)"
        )
    gaps = np.flatnonzero(steps > step_s)
    if back.size or not 0 < len(gaps) <= _SPRINGS_MAX:
        return
    for at in map(int, gaps):
        skipped = datetime.fromtimestamp(int(stamps[at]) + step_s, UTC)
        spring = skipped.month == 3 and skipped.weekday() == 6 and skipped.hour in (1, 2)
        if stamps[at + 1] - stamps[at] != step_s + 3600 or not spring:
            return
    raise SourceError(
        f"{path} lacks exactly the hour that clocks skip in spring, so its times seem to be local; give "
        "--with "
        "zone=Europe/Berlin (or the right one), or --with zone=UTC"
    )
