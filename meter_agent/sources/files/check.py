"""What would be read from a file, for people and for machines: `gridhe-meter check`."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from gridhe.meter_agent.policy import ABSENT, TEXT
from gridhe.meter_agent.sources.files.table import ESTIMATED, Table, round_wh

__all__ = ["as_lines", "as_record", "understood"]

_METERS_SHOWN = 20
_GAPS_SHOWN = 20
_FINDINGS_SHOWN = 40
_HOUSEHOLD_W = (1, 20_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    meter: str
    quantity: str
    first_s: int | None
    end_s: int | None
    intervals: int
    missing: int
    estimated: int
    total_wh: int
    gaps: tuple[tuple[int, int], ...]  # start and end, UTC epoch seconds


def understood(table: Table) -> bool:
    """Whether nothing of the file was set aside without knowing what it means."""
    return not table.findings.open_counts


def _series(table: Table) -> Iterator[_Series]:
    for (quantity, meter), each in table.samples.items():
        rises = np.where(each.breaks[1:], 0, np.diff(each.wh))
        yield _Series(
            meter=meter, quantity=quantity, first_s=int(each.times_s[0]), end_s=int(each.times_s[-1]),
            intervals=len(each.wh), missing=int(each.breaks[1:].sum()), estimated=0,
            total_wh=int(rises.sum()), gaps=(),
        )  # fmt: skip
    if table.samples:
        return
    step_s = table.step_s
    for quantity, raw in table.values.items():
        for at, meter in enumerate(table.columns):
            column = round_wh(raw[:, at], table.per_wh)
            good = column > TEXT
            if not good.any():
                yield _Series(
                    meter=meter, quantity=quantity, first_s=None, end_s=None, intervals=0,
                    missing=len(column), estimated=0, total_wh=0, gaps=(),
                )  # fmt: skip
                continue
            flags = table.flags.get(quantity)
            estimated = 0 if flags is None else int(np.count_nonzero(flags[:, at] == ESTIMATED))
            total = int(column[good].astype(object).sum())
            count = int(np.count_nonzero(good))
            if table.times_s is None or step_s is None:
                missing = len(column) - count
                first = None if table.times_s is None else int(table.times_s[0])
                yield _Series(
                    meter=meter, quantity=quantity, first_s=first, end_s=None, intervals=count,
                    missing=missing, estimated=estimated, total_wh=total, gaps=(),
                )  # fmt: skip
                continue
            times = table.times_s[good]
            holes = np.flatnonzero(np.diff(times) > step_s)
            gaps = [(int(times[i]) + step_s, int(times[i + 1])) for i in holes]
            end_s = int(times[-1]) + step_s
            # Intervals that stand in the file without a value after the last one: not there yet.
            cells = np.flatnonzero(raw[:, at] != ABSENT) if flags is None else np.flatnonzero(
                (raw[:, at] != ABSENT) | (flags[:, at] != 0)
            )  # fmt: skip
            tail_s = int(table.times_s[cells[-1]]) + step_s
            if tail_s > end_s:
                gaps.append((end_s, tail_s))
            yield _Series(
                meter=meter, quantity=quantity, first_s=int(times[0]), end_s=end_s, intervals=count,
                missing=sum((b - a) // step_s for a, b in gaps), estimated=estimated, total_wh=total,
                gaps=tuple(gaps),
            )  # fmt: skip


def _iso(at_s: int | None) -> str | None:
    return None if at_s is None else datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _mean_w(table: Table, series: list[_Series]) -> float | None:
    """The mean power of a meter, to see whether the unit is right."""
    hours = sum(each.intervals for each in series) * (table.step_s or 0) / 3600
    if table.samples:
        hours = sum(((each.end_s or 0) - (each.first_s or 0)) / 3600 for each in series)
    return sum(abs(each.total_wh) for each in series) / hours if hours else None


def as_record(table: Table) -> dict[str, Any]:
    """The whole report as a JSON object."""
    series = list(_series(table))
    findings = table.findings
    return {
        "file": str(table.path),
        "understood": understood(table),
        "format": table.format,
        "decided": table.decided,
        "step_s": table.step_s,
        "mean_w": _mean_w(table, series),
        "series": [
            {
                "meter": each.meter,
                "quantity": each.quantity,
                "first": _iso(each.first_s),
                "end": _iso(each.end_s),
                "intervals": each.intervals,
                "missing": each.missing,
                "estimated": each.estimated,
                "total_wh": each.total_wh,
                "gaps": [[_iso(first), _iso(end)] for first, end in each.gaps],
            }
            for each in series
        ],
        "repeated_rows": findings.counts["repeats a row"],
        "counts": dict(findings.counts),
        "findings": [
            {"line": each.line, "column": each.column, "reason": each.reason, "settled": each.settled}
            for each in findings.kept
        ],
    }


def as_lines(table: Table) -> Iterator[str]:
    """The report for people."""
    series = list(_series(table))
    yield f"format    {table.format}: {table.decided}"
    step = "rows without times" if table.times_s is None else (
        "irregular" if table.step_s is None else f"{table.step_s} s"
    )  # fmt: skip
    yield f"step      {step}"
    mean_w = _mean_w(table, series)
    if mean_w is not None:
        usual = _HOUSEHOLD_W[0] <= mean_w <= _HOUSEHOLD_W[1]
        yield f"mean      {mean_w:,.0f} W a meter" + (
            "" if usual else ": is the unit right? (--with unit=...)"
        )
    yield f"meters    {len(table.columns)}"
    for each in series[:_METERS_SHOWN]:
        span = f"{_iso(each.first_s)} to {_iso(each.end_s)}, " if each.end_s is not None else ""
        rest = f", {each.estimated} estimated" if each.estimated else ""
        yield (
            f"  {each.meter}  {each.quantity}: {span}{each.intervals} readings, {each.missing} "
            f"missing{rest}, "
            f"{each.total_wh} Wh"
        )
    if len(series) > _METERS_SHOWN:
        yield f"  ... and {len(series) - _METERS_SHOWN} more"
    gaps = [(each.meter, gap) for each in series for gap in each.gaps]
    yield f"gaps      {len(gaps)}"
    for meter, (first, end) in gaps[:_GAPS_SHOWN]:
        yield f"  {meter}  {_iso(first)} to {_iso(end)}"
    findings = table.findings
    yield f"repeated  {findings.counts['repeats a row']} rows"
    aside = sum(findings.open_counts.values())
    yield f"set aside {aside}" + ("" if aside else ": all is understood")
    for reason, count in findings.counts.items():
        if reason != "repeats a row":
            yield f"  {count} times: {reason}" + ("" if findings.open_counts[reason] else " (understood)")
    for each_finding in [each for each in findings.kept if not each.settled][:_FINDINGS_SHOWN]:
        yield f"  {each_finding}"
