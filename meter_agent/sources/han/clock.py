"""A meter's clock: COSEM date-time (IEC 62056-6-2, 4.1.6.1), and the moment that it means.

    year (2) | month | day | weekday | hour | minute | second | hundredths | deviation (2, minutes) | status

UTC is local time + deviation; 0x8000 is "not specified". The deviation is often wrong: Aidon writes 0 and
sends Norwegian normal time, Kamstrup leaves it out, some meters have the opposite sign. So the deviation has
to be an offset of the zone that the settings name, and a stamp with two possible moments has no date. (A
device's time is then compared with this computer's, before it dates anything.)
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

__all__ = ["Season", "Stamp", "moment_s", "parse_stamp"]

# standard: the meter stays on normal time in summer. local: it follows the zone. None: not known.
Season = str | None

_YEARS = range(1970, 2200)
_UNSET = 0xFF
_NO_DEVIATION = -0x8000
_INVALID, _SUMMER = 0x01, 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """A local time as a meter states it."""

    local: datetime  # naive
    deviation_min: int | None
    summer: bool | None  # the status byte's opinion; None: no status


def parse_stamp(data: bytes) -> Stamp | None:
    """The 12 bytes of a date-time. None: a wildcard in place of a number, no real time, or marked invalid."""
    if len(data) != 12:
        return None
    year = int.from_bytes(data[:2], "big")
    month, day, _, hour, minute, second, hundredths = data[2:9]
    deviation = int.from_bytes(data[9:11], "big", signed=True)
    status = data[11]
    if year not in _YEARS or (status != _UNSET and status & _INVALID):
        return None
    try:
        local = datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    if hundredths < 100:
        local += timedelta(milliseconds=10 * hundredths)
    known = deviation != _NO_DEVIATION and -720 <= deviation <= 840
    return Stamp(
        local=local,
        deviation_min=deviation if known else None,
        summer=None if status == _UNSET else bool(status & _SUMMER),
    )


def moment_s(stamp: Stamp, zone: ZoneInfo | None, season: Season) -> float | None:
    """UTC epoch seconds, if they are certain."""
    if zone is None:
        # A deviation of 0 or none says nothing; one to the west is another maker's sign.
        if stamp.deviation_min is None or stamp.deviation_min >= 0:
            return None
        return _epoch_s(stamp.local, timedelta(minutes=-stamp.deviation_min))
    standard, summer = _offsets(stamp.local, zone)
    if stamp.deviation_min:
        for minutes in (-stamp.deviation_min, stamp.deviation_min):
            stated = timedelta(minutes=minutes)
            if stated == summer or (stated == standard and not stamp.summer):
                return _epoch_s(stamp.local, stated)
        return None
    if season == "standard":
        return _epoch_s(stamp.local, standard)
    offset = _offset(stamp.local, zone)
    if offset is None or (season is None and offset != standard):
        return None
    return _epoch_s(stamp.local, offset)


def _epoch_s(local: datetime, offset: timedelta) -> float:
    return (local - offset).replace(tzinfo=UTC).timestamp()


def _offsets(local: datetime, zone: ZoneInfo) -> tuple[timedelta, timedelta]:
    """Normal and summer time's offset in that year: the lesser and the greater of January's and July's."""
    both = [datetime(local.year, month, 1, tzinfo=zone).utcoffset() or timedelta() for month in (1, 7)]
    return min(both), max(both)


def _offset(local: datetime, zone: ZoneInfo) -> timedelta | None:
    """The offset of a local time; None if that time occurs twice or not at all."""
    first = local.replace(tzinfo=zone, fold=0).utcoffset()
    second = local.replace(tzinfo=zone, fold=1).utcoffset()
    return first if first == second else None
