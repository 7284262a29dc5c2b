"""Reads the rows of a CSV file whose layout is decided, into a Collector."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from gridhe.meter_agent.policy import ABSENT, TEXT
from gridhe.meter_agent.sources.files.collector import Collector
from gridhe.meter_agent.sources.files.format import FileFormat
from gridhe.meter_agent.sources.files.hours import step_of_count
from gridhe.meter_agent.sources.files.layout import Layout, ValueColumn
from gridhe.meter_agent.sources.files.moments import Stamp, parse_stamp
from gridhe.meter_agent.sources.files.numerals import UNITS, Unit, parse_number
from gridhe.meter_agent.sources.files.scale import scaled
from gridhe.meter_agent.sources.files.survey import Survey, csv_rows
from gridhe.meter_agent.sources.files.table import Findings
from gridhe.meter_agent.sources.files.timing import row_duration_s
from gridhe.meter_agent.sources.files.vocabulary import ESTIMATED_WORD, MISSING_WORDS, is_sum, plain_words
from gridhe.meter_agent.sources.files.zones import is_shift_day, local_to_utc

if TYPE_CHECKING:
    from datetime import tzinfo

__all__ = ["read_rows"]

_DAY_S = 86_400
_EXCEL_EPOCH_DAY = -25_569  # 1899-12-30, in days since 1970
_ONE_METER = "meter"


def read_rows(found: Survey, layout: Layout, settings: FileFormat, whole_lines: bool = False) -> Collector:
    """Every reading of the file. Raises SourceError."""
    return _Rows(found, layout, settings).read(whole_lines)


class _Rows:
    def __init__(self, found: Survey, layout: Layout, settings: FileFormat) -> None:
        self._found, self._layout, self._settings = found, layout, settings
        self._findings = Findings()
        self._missing = MISSING_WORDS | {word.lower() for word in settings.missing}
        factors = {each.unit.factor for each in layout.values if each.unit is not None}
        self._out = Collector(
            found.path,
            self._findings,
            kind=layout.kind,
            zone=None if self._in_utc() else layout.zone,
            end=layout.end,
            step_s=(layout.step_s or 3600)
            if layout.times.clock == "rows"
            else layout.step_s or self._period_s(),
            unit_wh=max(factors, default=1000),
            largest_w=settings.largest_w,
            conflict=settings.conflict,
        )
        self._bad: Counter[str] = Counter()
        self._good: Counter[str] = Counter()
        self._day_starts: dict[int, tuple[int, int]] = {}
        self._midnights = self._prints_midnight()
        self._number_step_s = self._period_s() or 3600
        self._row_count = 0

    def read(self, whole_lines: bool) -> Collector:
        """All rows."""
        found = self._found
        width = len(found.header)
        for line, row in csv_rows(found.path, found.encoding, found.delimiter, whole_lines):
            if line <= found.header_line:
                continue
            if row[0].startswith("#"):
                self._findings.add(line, "", "a comment", settled=True)
                continue
            cells = [cell.strip() for cell in row]
            if cells == found.header:
                self._findings.add(line, "", "the header again", settled=True)
                continue
            if any(cells[width:]):
                self._findings.add(line, "", f"has {len(row)} cells, not {width}")
                continue
            cells += [""] * (width - len(cells))
            if self._layout.shape == "hours":
                self._day(line, cells)
            else:
                self._row(line, cells)
        for name, bad in self._bad.items():
            if 2 * bad > bad + self._good[name]:
                self._findings.add(found.header_line, name, "more than half of this column is set aside")
        return self._out

    # -- time ----------------------------------------------------------------------------------

    def _prints_midnight(self) -> bool:
        """Whether stamps at 00:00 have a time of day in this file, so that a date alone is no stamp."""
        at = self._layout.times.date
        return at is not None and any(
            code.startswith("t dt") and "midnight" in code for code in self._found.columns[at].codes
        )

    def _in_utc(self) -> bool:
        """Whether stamps are placed in UTC here: numbered periods, and rows without stamps."""
        layout = self._layout
        numbered = layout.times.number is not None or (layout.shape == "hours" and not layout.hours_by_clock)
        return numbered or layout.times.clock == "rows"

    def _period_s(self) -> int | None:
        """The length of a numbered period, by the largest number; None if there are no numbers."""
        at = self._layout.times.number
        if at is None or self._settings.step_s:
            return self._settings.step_s
        numbers = [int(row[at]) for row in self._found.head if at < len(row) and row[at].strip().isdigit()]
        largest = max(numbers, default=24)
        return 3600 if largest <= 25 else step_of_count(largest) or 900

    def _stamp(self, cells: Sequence[str]) -> int | str:
        """Seconds on the clock that the Collector expects, or why there are none."""
        times = self._layout.times
        if times.clock == "rows":
            if is_sum(cells[0]):
                return "has no time"
            self._row_count += 1
            return (self._row_count - 1) * (self._layout.step_s or 3600)
        text = cells[times.date] if times.date is not None else ""
        if times.clock != "text":
            return self._number_stamp(text, times.clock)
        stamp = parse_stamp(text, times.order)
        if stamp is None or stamp.day is None:
            return "has no time"
        if times.number is not None:
            return self._numbered(stamp, cells[times.number])
        if times.time is not None:
            hour = parse_stamp(cells[times.time])
            if hour is None or hour.second is None or hour.day is not None:
                return "has no time of day"
            stamp = stamp._replace(second=hour.second, offset_s=hour.offset_s)
        elif stamp.second is None and self._midnights:
            return "has no time of day"
        if (stamp.second or 0) > _DAY_S:
            return "has an hour after 24:00"
        return self._clock_s(stamp)

    def _clock_s(self, stamp: Stamp) -> int | str:
        if self._layout.zone is None:
            if stamp.offset_s is None:
                return "has a time without an offset"
            return stamp.local_s - stamp.offset_s
        if stamp.offset_s is not None:  # to the file's zone, so that one rule places all
            moment = datetime.fromtimestamp(stamp.local_s - stamp.offset_s, self._layout.zone)
            return stamp.local_s - stamp.offset_s + int((moment.utcoffset() or timedelta()).total_seconds())
        return stamp.local_s

    def _number_stamp(self, text: str, clock: str) -> int | str:
        number = parse_number(text.replace(",", "."), ".", "")
        if number is None:
            return "has no time"
        value = number[0]
        if clock == "excel":
            if not 1 <= value <= 200_000:
                return "has no time"
            minutes = int((value * 1440).to_integral_value())  # a spreadsheet's fraction of a day is rounded
            return minutes * 60 + _EXCEL_EPOCH_DAY * _DAY_S
        seconds = int(value / 1000 if clock == "epoch_ms" else value)
        return seconds if 10**8 <= seconds <= 10**11 else "has no time"

    def _numbered(self, day: Stamp, text: str) -> int | str:
        """The n-th period of the local day, in UTC."""
        text = text.strip()
        hour = parse_stamp(text)
        if text.isdigit() and len(text) <= 3:
            number = int(text)
        elif hour is not None and hour.second is not None and hour.second % 3600 == 0:
            number = hour.second // 3600
        else:
            return "has no hour number"
        start_s, length_s = self._day_start(day.day or 0)
        step_s = self._number_step_s
        if not 1 <= number <= length_s // step_s:
            return "has an hour that this day does not have"
        return start_s + (number - 1) * step_s

    def _day_start(self, day: int) -> tuple[int, int]:
        """UTC second of the local day's start, and its length."""
        found = self._day_starts.get(day)
        if found is None:
            edges = np.array([day * _DAY_S, (day + 1) * _DAY_S], np.int64)
            zone: tzinfo | None = self._layout.zone
            if zone is not None:
                edges = np.concatenate(
                    [local_to_utc(edge, zone, end=False, step_s=_DAY_S) for edge in np.split(edges, 2)]
                )
            found = self._day_starts[day] = (int(edges[0]), int(edges[1] - edges[0]))
        return found

    # -- rows ----------------------------------------------------------------------------------

    def _row(self, line: int, cells: list[str]) -> None:
        """A row with one stamp."""
        layout = self._layout
        stamp_s = self._stamp(cells)
        if isinstance(stamp_s, str):
            self._without_time(line, cells, stamp_s)
            return
        if layout.row_step_s is not None and not self._lasts(cells, layout.row_step_s):
            self._findings.add(line, "", f"does not last {layout.row_step_s} s")
            return
        quantity_by_row = None
        if layout.direction is not None:
            word = plain_words(cells[layout.direction]) or cells[layout.direction]
            quantity_by_row = layout.directions.get(word)
            if quantity_by_row is None:
                self._findings.add(line, self._found.header[layout.direction], "is no known direction")
                return
        meter = self._meter(cells)
        sums: dict[tuple[str, str], int] = {}
        judged: set[tuple[str, str]] = set()
        for column in layout.values:
            key = (column.meter or meter, quantity_by_row or column.quantity)
            value = self._cell(line, column, cells, cells[column.at])
            if value is not None:
                sums[key] = value if key not in sums else _plus(sums[key], value)
                if self._speaks_of(column):
                    judged.add(key)
        estimated = layout.quality is not None and _is_estimated(cells[layout.quality])
        for key, value in sums.items():
            self._out.add(*key, stamp_s, value, line, estimated=estimated and key in judged and value > TEXT)

    def _speaks_of(self, column: ValueColumn) -> bool:
        """Whether the quality column is about this one: those to its left, or all if none is."""
        quality = self._layout.quality
        return quality is not None and (
            column.at < quality or all(each.at > quality for each in self._layout.values)
        )

    def _without_time(self, line: int, cells: list[str], why: str) -> None:
        values = [cells[column.at] for column in self._layout.values if column.at >= 0]
        if any(is_sum(cell) for cell in cells if cell):
            self._findings.add(line, "", "a sum, no reading", settled=True)
        elif self._layout.shape != "hours" and not any(values):
            self._findings.add(line, "", "has neither a time nor a value", settled=True)
        else:
            at = self._layout.times.date
            self._findings.add(line, "" if at is None else self._found.header[at], why)

    def _lasts(self, cells: list[str], step_s: int) -> bool:
        """Whether the row's two stamps are one interval apart, counting clocks that jump."""
        length = row_duration_s(cells, self._layout.times)
        if length is None or length == step_s:
            return True
        stamp = parse_stamp(cells[self._layout.times.date or 0], self._layout.times.order)
        zone = self._layout.zone
        if zone is None or stamp is None or stamp.day is None:
            return False
        return length == step_s + is_shift_day(zone, stamp.day)

    def _meter(self, cells: list[str]) -> str:
        at = self._layout.meter
        return (cells[at] or _ONE_METER)[:128] if at is not None else _ONE_METER

    def _cell(self, line: int, column: ValueColumn, cells: list[str], text: str) -> int | None:
        """An integer for the Collector; None if the cell was set aside without a place in time."""
        if not text or text.lower() in self._missing:
            return ABSENT
        name = self._found.header[column.at] if column.at >= 0 else ""
        number = parse_number(text, self._layout.decimal, self._layout.thousands)
        unit = self._unit(column, cells, number)
        if number is None or unit is None or (unit.power != (self._layout.kind == "power")):
            self._bad[name] += 1
            why = (
                "is no number" if number is None else "has no unit" if unit is None else "is of another kind"
            )
            self._findings.add(line, name, why)
            return TEXT
        amount: Decimal = -number[0] if self._layout.negate and column.quantity == "net" else number[0]
        value = scaled(amount, unit.factor, self._layout.kind)
        if value == TEXT:
            self._bad[name] += 1
            self._findings.add(line, name, "is larger than any meter counts")
        else:
            self._good[name] += 1
        return value

    def _unit(self, column: ValueColumn, cells: list[str], number: tuple[Decimal, str] | None) -> Unit | None:
        if number is not None and number[1]:
            return UNITS.get(number[1])
        if self._layout.unit is not None and cells[self._layout.unit]:
            return UNITS.get(cells[self._layout.unit].lower())
        return column.unit

    # -- days ----------------------------------------------------------------------------------

    def _day(self, line: int, cells: list[str]) -> None:
        """A row with the readings of a whole day."""
        layout = self._layout
        times = layout.times
        stamp = parse_stamp(cells[times.date] if times.date is not None else "", times.order)
        if stamp is None or stamp.day is None:
            self._without_time(line, cells, "has no date")
            return
        quantity = "import"
        if layout.direction is not None:
            word = plain_words(cells[layout.direction]) or cells[layout.direction]
            found = layout.directions.get(word)
            if found is None:
                self._findings.add(line, self._found.header[layout.direction], "is no known direction")
                return
            quantity = found
        meter = self._meter(cells)
        estimated = layout.quality is not None and _is_estimated(cells[layout.quality])
        base = layout.values[0]
        shift_s = 0 if layout.zone is None else is_shift_day(layout.zone, stamp.day)
        start_s, length_s = self._day_start(stamp.day)
        for at, second in layout.hours:
            column = ValueColumn(at=at, quantity=quantity, unit=base.unit)
            value = self._cell(line, column, cells, cells[at])
            if value is None:
                continue
            if not layout.hours_by_clock:
                if second >= length_s:
                    if value != ABSENT:
                        self._findings.add(line, self._found.header[at], "is after the end of this day")
                    continue
                self._out.add(
                    meter, quantity, start_s + second, value, line, estimated=estimated and value > TEXT
                )
                continue
            if shift_s > 0 and value == ABSENT and self._skipped(stamp.day * _DAY_S + second):
                continue  # this hour does not exist, so the empty cell misses nothing
            self._out.add(
                meter,
                quantity,
                stamp.day * _DAY_S + second,
                value,
                line,
                estimated=estimated and value > TEXT,
            )

    def _skipped(self, local_s: int) -> bool:
        zone = self._layout.zone
        return zone is not None and bool(
            local_to_utc(np.array([local_s], np.int64), zone, end=False, step_s=3600)[0] < -(2**61)
        )


def _plus(one: int, other: int) -> int:
    """The sum of two tariffs: missing if one is."""
    return min(one, other) if min(one, other) <= TEXT else one + other


def _is_estimated(cell: str) -> bool:
    return ESTIMATED_WORD.fullmatch(plain_words(cell)) is not None
