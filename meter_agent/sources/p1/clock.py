"""The meter's clock in P1 telegrams. Only a time whose offset from UTC is certain is a time here.

    0-0:1.0.0(YYMMDDhhmmssX)          X: W standard time, S summer time (DSMR 4 and later, e-MUCS, HAN-P1)
    0-0:1.0.0(YYMMDDhhmmss)           local time without a mark
    0-0:1.0.0(YYYYMMDD hh:mm:ss)      the same (Denmark, NES)
    0-0:0.9.2(YYMMDD), 0.9.1(hhmmss)  the same (Croatia, Iskraemeco; IEC 62056-21 has them)

W and S are UTC+1 and UTC+2 unless a zone is set. Swedish meters stay on W in summer, so the letter decides
and not the season. A local time without a mark needs the zone; in the hour that autumn repeats and in the
one that spring skips it is not certain.
"""

import re
from datetime import UTC, datetime, timedelta, tzinfo

__all__ = ["at_s"]

_SHORT = re.compile(r"([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([A-Za-z]?)")
_LONG = re.compile(r"(20[0-9]{2})-?([0-9]{2})-?([0-9]{2})[ T]([0-9]{2}):([0-9]{2}):([0-9]{2})([A-Za-z]?)")
_MARKS = re.compile(r"[-:. ]")
_HOUR = timedelta(hours=1)


def at_s(clock: str | None, date: str | None, time: str | None, zone: tzinfo | None) -> float | None:
    """UTC epoch seconds of the clock line, else of date and time (0.9.2 and 0.9.1); None if not certain."""
    if clock is None:
        if date is None or time is None:
            return None
        clock = _MARKS.sub("", date) + _MARKS.sub("", time)
    match = _SHORT.fullmatch(clock) or _LONG.fullmatch(clock)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    try:
        local = datetime(year if year >= 2000 else 2000 + year, month, day, hour, minute, second)
    except ValueError:
        return None
    letter = match[7].upper()
    if letter in ("W", "S"):
        utc = local - _standard_offset(local.year, zone) - (_HOUR if letter == "S" else timedelta(0))
        return utc.replace(tzinfo=UTC).timestamp()
    return _of_zone(local, zone) if not letter else None


def _standard_offset(year: int, zone: tzinfo | None) -> timedelta:
    """The offset outside summer time: the smaller one (`dst()` has it the other way round for Ireland)."""
    if zone is None:
        return _HOUR
    offsets = (datetime(year, month, 1, tzinfo=zone).utcoffset() for month in (1, 7))
    return min(offset or timedelta(0) for offset in offsets)


def _of_zone(local: datetime, zone: tzinfo | None) -> float | None:
    if zone is None:
        return None
    moments = {local.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1)}
    return moments.pop() if len(moments) == 1 else None  # skipped and repeated times have two
