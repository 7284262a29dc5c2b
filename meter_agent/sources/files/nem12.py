"""Australian NEM12 interval data (AEMO "Meter Data File Format Specification NEM12 & NEM13").

    100  header          200  a meter's stream: NMI, suffix, unit, interval length
    300  a day's values  400  the quality of some intervals of the day above     500  ignored     900  end

Times are AEST (UTC+10) all year. Suffix E is import, B is export. A day that comes again with a later update
time replaces the earlier one.
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from gridhe.errors import SourceError
from gridhe.meter_agent.policy import ABSENT, TEXT
from gridhe.meter_agent.sources.files.collector import Collector
from gridhe.meter_agent.sources.files.moments import parse_stamp
from gridhe.meter_agent.sources.files.numerals import UNITS, Unit, parse_number
from gridhe.meter_agent.sources.files.scale import scaled
from gridhe.meter_agent.sources.files.survey import csv_rows
from gridhe.meter_agent.sources.files.table import Findings, Table

__all__ = ["read_nem12"]

_DAY_S = 86_400
_AEST_S = 10 * 3600
_ESTIMATED = ("E", "F", "S")
_NULL = "N"
_DAYS_MAX = 500_000


@dataclass(slots=True)
class _Stream:
    meter: str
    quantity: str | None  # None: reactive energy and the like
    unit: Unit | None
    step_s: int


@dataclass(slots=True)
class _Day:
    line: int
    stream: _Stream
    values: list[str]
    quality: str
    updated: str
    parts: list[tuple[int, int, str]] = field(default_factory=list)  # first, last interval, quality


def read_nem12(path: Path, encoding: str, whole_lines: bool = False) -> Table:
    """The file's readings. Raises SourceError."""
    findings = Findings()
    days: dict[tuple[str, str | None, int], _Day] = {}
    suffixes: dict[str, list[str]] = {}
    stream: _Stream | None = None
    day: _Day | None = None
    ended = False
    for line, row in csv_rows(path, encoding, ",", whole_lines):
        record = row[0].strip()
        if record == "200":
            stream, day = _stream(path, line, row, suffixes), None
        elif record == "300":
            day = _day(path, line, row, stream, findings, days)
        elif record == "400" and day is not None and len(row) > 3:
            first, last = row[1].strip(), row[2].strip()
            if not (first.isdigit() and last.isdigit() and len(first + last) < 9):
                raise SourceError(f"{path}, line {line}: record 400 has no interval numbers")
            day.parts.append((int(first), int(last), row[3].strip()))
        elif record == "900":
            ended = True
        elif record not in ("100", "500", "400"):
            findings.add(line, "", "is no record of NEM12")
    if not ended:
        findings.add(0, "", "the file has no end record (900): it is cut off")
    if not days:
        raise SourceError(f"{path} has no day of readings (record 300) of energy")
    out = Collector(
        path,
        findings,
        kind="interval",
        zone=None,
        end=False,
        step_s=min(d.stream.step_s for d in days.values()),
    )
    if len({d.stream.step_s for d in days.values()}) > 1:
        raise SourceError(f"{path} has intervals of different lengths: cut it into one file for each")
    for (_, _, number), each in days.items():
        _add(out, findings, number, each)
    return out.table("au_nem12", ["Australian NEM12 (UTC+10)"])


def _stream(path: Path, line: int, row: list[str], suffixes: dict[str, list[str]]) -> _Stream:
    if len(row) < 9:
        raise SourceError(f"{path}, line {line}: record 200 has {len(row)} cells, not 10")
    nmi, suffix, uom, length = (row[at].strip() for at in (1, 4, 7, 8))
    if length not in ("1", "5", "15", "30"):
        raise SourceError(f"{path}, line {line}: an interval length of minutes that NEM12 does not have")
    quantity = None
    unit = UNITS.get(uom.lower())
    if unit is not None and not unit.power and suffix[:1] in ("E", "B"):
        quantity = "import" if suffix[0] == "E" else "export"
        known = suffixes.setdefault(nmi + suffix[0], [])
        if suffix not in known:
            known.append(suffix)
        if known.index(suffix):
            quantity = f"{quantity}_{suffix.lower()[:8]}"  # such as import_e2: a controlled load
    return _Stream(meter=nmi[:32] or "meter", quantity=quantity, unit=unit, step_s=int(length) * 60)


def _day(
    path: Path,
    line: int,
    row: list[str],
    stream: _Stream | None,
    findings: Findings,
    days: dict[tuple[str, str | None, int], _Day],
) -> _Day | None:
    if stream is None:
        raise SourceError(f"{path}, line {line}: a record 300 without a record 200 above it")
    count = _DAY_S // stream.step_s
    stamp = parse_stamp(row[1]) if len(row) > 1 else None
    if stamp is None or stamp.day is None or len(row) < count + 3:
        raise SourceError(f"{path}, line {line}: record 300 needs a date, {count} values and a quality")
    if stream.quantity is None:
        findings.add(line, "", "is no energy in Wh", settled=True)
        return None
    found = _Day(
        line=line,
        stream=stream,
        values=row[2 : 2 + count],
        quality=row[2 + count].strip(),
        updated=row[5 + count].strip() if len(row) > 5 + count else "",
    )
    key = (stream.meter, stream.quantity, stamp.day)
    if key in days:
        if days[key].values == found.values:
            findings.add(line, "", "repeats a row", settled=True)
            return found
        if not found.updated or found.updated == days[key].updated:
            raise SourceError(f"{path}, line {line}: this day is there twice, and neither is the newer one")
        findings.add(line, "", "a revised day: the newer one counts", settled=True)
        if found.updated < days[key].updated:
            return found
    if len(days) >= _DAYS_MAX:
        raise SourceError(f"{path} has more readings than fit in memory: cut it into pieces")
    days[key] = found
    return found


def _add(out: Collector, findings: Findings, number: int, day: _Day) -> None:
    qualities = [day.quality] * len(day.values)
    for first, last, quality in day.parts:
        for at in range(max(first, 1) - 1, min(last, len(qualities))):
            qualities[at] = quality
    start_s = number * _DAY_S - _AEST_S
    quantity, unit = day.stream.quantity, day.stream.unit
    if quantity is None or unit is None:
        return
    for at, (text, quality) in enumerate(itertools.zip_longest(day.values, qualities)):
        parsed = parse_number(text, ".", "")
        if not text.strip() or quality[:1] == _NULL:
            value = ABSENT
        elif parsed is None:
            findings.add(day.line, f"interval {at + 1}", "is no number")
            value = TEXT
        else:
            value = scaled(parsed[0], unit.factor, "interval")
        estimated = quality[:1] in _ESTIMATED and value > TEXT
        out.add(
            day.stream.meter, quantity, start_s + at * day.stream.step_s, value, day.line, estimated=estimated
        )
