"""Time stamps as people's programs print them. Local times stay local here; `zones` places them in UTC."""

import functools
import re
from datetime import UTC, date, datetime
from typing import Literal, NamedTuple

__all__ = ["Order", "Stamp", "parse_stamp", "parse_time", "stamp_kind"]

Order = Literal["dmy", "mdy"]
_DECIMAL = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?")
_EPOCH_MIN_S = 1e8  # smaller numbers are row numbers, not seconds (this is in 1973)
_DATE = (
    r"(?:(?P<y>[0-9]{4})(?P<s>[-/.]?)(?P<m>[0-9]{1,2})(?P=s)(?P<d>[0-9]{1,2})"
    r"|(?P<a>[0-9]{1,2})(?P<s2>[-/.])(?P<b>[0-9]{1,2})(?P=s2)(?P<y2>[0-9]{4}|[0-9]{2})"
    r"|(?P<d3>[0-9]{1,2})[- ](?P<m3>[A-Za-z]{3})[a-z]{0,6}[- ](?P<y3>[0-9]{4}))"
)
_TIME = (
    r"(?P<H>[0-9]{1,2}):(?P<M>[0-9]{2})(?::(?P<S>[0-9]{2})(?:[.,][0-9]{1,9})?)?"
    r"(?:\s?(?P<half>[AaPp])\.?[Mm]\.?)?(?:\s?(?P<zone>Z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?))?"
)
_STAMP = re.compile(rf"{_DATE}(?:(?:T|[ ]{{1,3}}){_TIME})?|(?:{_TIME.replace('?P<', '?P<t')})")
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: at for at, name in enumerate(_MONTH_NAMES, 1)}
_EPOCH_DAY = date(1970, 1, 1).toordinal()


class Stamp(NamedTuple):
    """A date, a time of day or both."""

    day: int | None  # days since 1970-01-01
    second: int | None  # of the day as printed; 24:00 is 86400
    offset_s: int | None  # from UTC, if it is printed

    @property
    def local_s(self) -> int:
        """Seconds since 1970-01-01T00:00 by the printed clock. A date alone is its midnight."""
        return (self.day or 0) * 86_400 + (self.second or 0)


def parse_time(text: str) -> float | None:
    """UTC epoch seconds of an ISO 8601 time (UTC without a zone) or of epoch seconds; None for other text."""
    text = text.strip()
    if _DECIMAL.fullmatch(text):
        seconds = float(text)
        return seconds if seconds >= _EPOCH_MIN_S else None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


@functools.lru_cache(4096)
def _day(year: int, month: int, day: int) -> int | None:
    try:
        return date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        return None


def _second(found: "re.Match[str]", prefix: str) -> tuple[int | None, int | None] | None:
    """Second of the day and offset; None if there is no such time."""
    hour_text = found[prefix + "H"]
    if hour_text is None:
        return None, None
    hour, minute, second = int(hour_text), int(found[prefix + "M"]), int(found[prefix + "S"] or 0)
    half, zone = found[prefix + "half"], found[prefix + "zone"]
    if half is not None:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half in "pP" else 0)
    if hour > 25 or minute > 59 or second > 59:
        return None
    if zone is None:
        offset = None
    elif zone in ("Z", "UTC", "GMT"):
        offset = 0
    else:
        digits = zone[1:].replace(":", "")
        offset = int(digits[:2]) * 3600 + int(digits[2:] or 0) * 60
        offset = -offset if zone[0] == "-" else offset
    return hour * 3600 + minute * 60 + second, offset


@functools.lru_cache(1 << 14)
def parse_stamp(text: str, order: Order = "dmy") -> Stamp | None:
    """A date, a time or both; `order` is that of dates such as 3/4/2024. None for other text.

    Hours up to 25 are read (24:00, and 25:00 of hour numbers); the caller decides whether they may be.
    """
    text = text.strip()
    if len(text) > 40:
        return None
    found = _STAMP.fullmatch(text)
    if found is None:
        return None
    if found["tH"] is not None:
        time = _second(found, "t")
        return None if time is None else Stamp(None, *time)
    if found["y"] is not None:
        day = _day(int(found["y"]), int(found["m"]), int(found["d"]))
    elif found["a"] is not None:
        year = int(found["y2"])
        first, second = int(found["a"]), int(found["b"])
        d, m = (first, second) if order == "dmy" else (second, first)
        day = _day(year + 2000 if year < 100 else year, m, d)
    else:
        day = _day(int(found["y3"]), _MONTHS.get(found["m3"].lower(), 0), int(found["d3"]))
    time = _second(found, "")
    return None if day is None or time is None else Stamp(day, *time)


@functools.lru_cache(1 << 14)
def stamp_kind(text: str) -> str | None:
    """What a cell tells about stamps: "dt" (date and time), "d" or "t", then marks; None for no stamp.

    Marks: dmy, mdy (only that order is possible), any (either), offset, 24 (a time of 24:00), 25 (25:00),
    midnight.
    """
    one, other = parse_stamp(text, "dmy"), parse_stamp(text, "mdy")
    stamp = one or other
    if stamp is None or (text.strip().isdigit() and len(text.strip()) != 8):
        return None
    kind = "t" if stamp.day is None else "d" if stamp.second is None else "dt"
    order = "" if one == other else " dmy" if other is None else " mdy" if one is None else " any"
    hour = "" if stamp.second is None else " 25" if stamp.second > 86_400 else ""
    hour = " 24" if stamp.second == 86_400 else " midnight" if stamp.second == 0 else hour
    return f"{kind}{order}{hour}{'' if stamp.offset_s is None else ' offset'}"
