"""Finds a CSV file's time columns, the order of its dates, its zone, and how long a row lasts."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, tzinfo

from gridhe.errors import SourceError
from gridhe.meter_agent.sources.files.format import FileFormat
from gridhe.meter_agent.sources.files.layout import TimeColumns
from gridhe.meter_agent.sources.files.moments import Order, parse_stamp
from gridhe.meter_agent.sources.files.numerals import parse_number
from gridhe.meter_agent.sources.files.survey import Column, Survey
from gridhe.meter_agent.sources.files.vocabulary import Role, language_zone, plain_words
from gridhe.meter_agent.sources.files.zones import zone_named

__all__ = ["find_times", "find_zone", "row_duration_s", "row_length_s"]

_DAY_S = 86_400
_HOUR_NAME = re.compile(r"\b(hora|hour|ora|godzina|stunde|heure|time|hodina|periodo?|period|interval|slot)\b")


def find_times(
    found: Survey,
    settings: FileFormat,
    roles: Sequence[Role | None],
    at: Callable[[str], int | None],
    *,
    skip: set[int],
) -> TimeColumns:
    """The columns that date a row. Raises SourceError if there is none, or if they can be read two ways."""
    if settings.stamp == "rows":
        return TimeColumns(clock="rows")
    both, dates, times = _stamped(found.columns, roles, skip)
    first, date, end = at("time_column"), at("date_column"), at("end_column")
    if first is not None and first not in both and first not in times and not _numeric(found.columns[first]):
        raise SourceError(f"{found.path}: most cells of column {settings.time_column!r} are no times")
    if first is not None and first in both:
        both = [first] + ([end] if end is not None else [])
    if date is not None:
        dates = [date]
        both = []
    if first is not None and first in times:
        times = [first] + ([end] if end is not None else [])
    order = _order(found, settings, [*both, *dates])
    if settings.clock in ("epoch", "excel") or (not both and not dates):
        return _numbers(found, settings, roles, first)
    if both and not (dates and times and min(dates) < min(both)):
        starts = [c for c in both if roles[c] != "to"] or both
        starts = [c for c in starts if roles[c] == "from"] or starts
        later = [c for c in both if c != starts[0] and (roles[c] == "to" or c > starts[0])]
        return TimeColumns(date=starts[0], time=None, end_date=later[0] if later else None, order=order)
    day = dates[0]
    if skip:
        return TimeColumns(date=day, order=order)
    marks = {code for c in times for code in found.columns[c].codes}
    number = _number_column(found, settings, roles, times, skip | {day})
    if settings.stamp == "number" or any(" 25" in code for code in marks):
        if number is None and not times:
            raise SourceError(
                f"{found.path} has no column with the hour's number; name it: --with time_column=..."
            )
        return TimeColumns(date=day, number=times[0] if number is None else number, order=order)
    if number is not None and not times:
        return TimeColumns(date=day, number=number, order=order)
    if len(dates) > 1 and len(times) > 1:
        return TimeColumns(date=day, time=times[0], end_date=dates[1], end_time=times[1], order=order)
    if len(times) > 1:
        return TimeColumns(date=day, time=times[0], end_time=times[1], order=order)
    return TimeColumns(date=day, time=times[0] if times else None, order=order)


def _stamped(
    columns: Sequence[Column], roles: Sequence[Role | None], skip: set[int]
) -> tuple[list[int], list[int], list[int]]:
    both, dates, times = [], [], []
    for at, column in enumerate(columns):
        if at in skip or roles[at] in ("other", "quality") or not column.mostly("t"):
            continue
        kinds = {kind: column.count(f"t {kind}") for kind in ("dt", "d", "t")}
        kinds["d"] -= kinds["dt"]
        if kinds["dt"]:
            both.append(at)
        elif kinds["d"] >= kinds["t"]:
            dates.append(at)
        else:
            times.append(at)
    return both, dates, times


def _order(found: Survey, settings: FileFormat, ats: Sequence[int]) -> Order:
    if "date" in settings.model_fields_set and settings.date != "auto":
        return settings.date
    seen: Counter[str] = Counter()
    for at in ats:
        for code, count in found.columns[at].codes.items():
            for word in code.split():
                seen[word] += count
    if settings.date != "auto":
        return settings.date
    if seen["dmy"] and seen["mdy"]:
        raise SourceError(
            f"{found.path} has dates with the day first and others with the month first; give --with "
            "date=dmy or "
            "date=mdy, and the others are set aside"
        )
    if seen["dmy"]:
        return "dmy"
    if seen["mdy"]:
        return "mdy"
    if not seen["any"]:
        return "dmy"
    shown = next(
        (row[at] for row in found.head for at in ats if (at < len(row) and "/" in row[at]) or "-" in row[at]),
        "",
    )
    cells = [row[at] for row in found.head for at in ats if at < len(row)]
    if cells and all("." in cell.split(" ")[0] for cell in cells if cell.strip()):
        return "dmy"  # dots are written in no country that puts the month first
    if language_zone(found.header) is not None:
        return "dmy"
    if any(re.search(r"[0-9]\s?[AaPp]\.?[Mm]", cell) for row in found.head for cell in row):
        return "mdy"
    del shown
    raise SourceError(
        f"{found.path} has dates such as 3/4/2024, with the day or the month first; give --with date=dmy or "
        "date=mdy"
    )


def _numeric(column: Column) -> bool:
    return column.mostly("n")


def _numbers(
    found: Survey, settings: FileFormat, roles: Sequence[Role | None], chosen: int | None
) -> TimeColumns:
    """A column of epoch seconds or of a spreadsheet's day numbers."""
    ats = [chosen] if chosen is not None else [
        at for at, column in enumerate(found.columns)
        if _numeric(column) and (roles[at] in ("time", "from", "to") or at == 0)
    ]  # fmt: skip
    for at in ats:
        assert at is not None  # noqa: S101 - for the type checker
        cells = [row[at].strip() for row in found.head if at < len(row) and row[at].strip()]
        numbers = [n for cell in cells if (n := parse_number(cell.replace(",", "."), ".", ""))]
        if not numbers or 2 * len(numbers) < len(cells):
            continue
        typical = sorted(float(number) for number, _ in numbers)[len(numbers) // 2]
        if settings.clock != "excel" and 1e8 <= typical <= 4.2e9:
            if any("e" in cell.lower() for cell in cells) and len({n for n, _ in numbers}) < len(numbers):
                raise SourceError(
                    f"{found.path} has stamps such as 1.71E+09 that a spreadsheet has cut off: export it "
                    "again; or "
                    "give --start TIME and --with stamp=rows if no row is missing"
                )
            return TimeColumns(date=at, clock="epoch")
        if settings.clock != "excel" and 1e11 <= typical <= 4.2e12:
            return TimeColumns(date=at, clock="epoch_ms")
        named_time = roles[at] in ("time", "from", "to") or settings.clock == "excel"
        if named_time and 20_000 <= typical <= 80_000:
            return TimeColumns(date=at, clock="excel")
    raise SourceError(
        f"{found.path} has no column of times that can be read; name it with --with time_column=..., or "
        "give --with "
        "stamp=rows and --start TIME if no row is missing"
    )


def _number_column(
    found: Survey, settings: FileFormat, roles: Sequence[Role | None], times: Sequence[int], skip: set[int]
) -> int | None:
    for at, column in enumerate(found.columns):
        if at in skip or at in times or settings.stamp not in ("auto", "number"):
            continue
        whole = column.count("n bare") == column.count("n") > 0
        if (
            whole
            and roles[at] in ("time", None, "other")
            and _HOUR_NAME.search(plain_words(found.header[at]))
        ):
            return at
    return None


def find_zone(
    found: Survey, settings: FileFormat, times: TimeColumns, shape: str, said: list[str]
) -> tuple[tzinfo | None, bool]:
    """The zone of stamps without an offset (None: all have one), and whether it is only assumed."""
    if times.clock in ("epoch", "epoch_ms", "rows"):
        return (zone_named(settings.zone) if settings.zone and times.clock == "rows" else None), False
    codes: Counter[str] = Counter()
    if times.clock == "text" and times.date is not None:
        codes.update(found.columns[times.date if times.time is None else times.time].codes)
    stamps = sum(count for code, count in codes.items() if code.startswith("t"))
    with_offset = sum(count for code, count in codes.items() if code.startswith("t") and "offset" in code)
    if stamps and 2 * with_offset >= stamps:
        return None, False
    if settings.zone is not None:
        said.append(f"times of {settings.zone}")
        return zone_named(settings.zone), False
    header = [found.header[at] for at in (times.date, times.time) if at is not None]
    if any({"utc", "gmt"} & set(plain_words(name).split()) for name in header):
        said.append("times in UTC")
        return UTC, False
    guess = language_zone(found.header)
    if guess is not None:
        said.append(f"times of {guess}, by the header's language")
        return zone_named(guess), False
    if shape == "meters" and times.clock == "text" and times.time is None:
        cells = [row[times.date] for row in found.head if times.date is not None and times.date < len(row)]
        if all(re.match(r"[0-9]{4}-", cell.strip()) for cell in cells if parse_stamp(cell)):
            said.append("times without an offset taken as UTC (zone=... if they are local)")
            return UTC, True
    raise SourceError(
        f"{found.path} has local times and does not say of which zone; give --with zone=Europe/Berlin (or "
        "UTC, +10:00)"
    )


def row_duration_s(row: Sequence[str], times: TimeColumns) -> int | None:
    """How long a row lasts by its two stamps, on the clock; None if it has no two."""
    if times.date is None or (times.end_date is None and times.end_time is None):
        return None

    def cell(at: int | None) -> str:
        return row[at] if at is not None and at < len(row) else ""

    first = parse_stamp(cell(times.date), times.order)
    if first is None or first.day is None:
        return None
    if times.time is not None:
        hour = parse_stamp(cell(times.time))
        if hour is None or hour.second is None:
            return None
        first = first._replace(second=hour.second)
    if times.end_date is not None:
        last = parse_stamp(cell(times.end_date), times.order)
        if last is None or last.day is None:
            return None
        if times.end_time is not None:
            hour = parse_stamp(cell(times.end_time))
            last = last._replace(second=None if hour is None else hour.second)
        length = last.local_s - first.local_s
        if first.offset_s is not None and last.offset_s is not None:
            length += first.offset_s - last.offset_s
    else:
        hour = parse_stamp(cell(times.end_time))
        if hour is None or hour.second is None:
            return None
        length = hour.second - (first.second or 0)
        length += _DAY_S if length < -7200 else 0
    if length % 60 == 59:
        return length + 1
    return length + 60 if length % 900 == 840 else length  # 00:00 to 00:59, or 00:14


def row_length_s(found: Survey, times: TimeColumns) -> int | None:
    """The usual length of a row by its two stamps; None if rows have one stamp only."""
    lengths = Counter(
        length for row in found.head if (length := row_duration_s(row, times)) is not None and length > 0
    )
    return lengths.most_common(1)[0][0] if lengths else None
