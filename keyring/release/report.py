"""Released totals as JSON records and as a table."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from gridhe.base.table import aligned
from gridhe.base.times import iso
from gridhe.errors import ConfigError
from gridhe.keyring.release.answers import Answer
from gridhe.keyring.release.policy import Claim
from gridhe.keyring.release.statistics import statistics_of
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity

__all__ = ["parse_window", "record_of", "summary_of", "table"]


def parse_window(text: str, window_s: int) -> int:
    """A window's index, from its index or its start time (2026-01-31, 2026-01-31T00:00Z).

    Times without a zone are UTC. Raises ConfigError.
    """
    if text.isdecimal() and text.isascii() and len(text) < 16:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
        at_s = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{text[:40]!r} is not a window: give its index, or its start as 2026-01-31T00:00Z"
        ) from None
    if at_s < 0 or at_s % window_s:
        raise ConfigError(f"no window starts at {text}: windows start at multiples of {window_s} s, UTC")
    return int(at_s // window_s)


def record_of(plan: Plan, claim: Claim, answer: Answer, probabilities: Sequence[float]) -> dict[str, Any]:
    """A released total, ready for JSON."""
    statistics = statistics_of(plan, answer.blocks, probabilities=probabilities, withheld=answer.withheld)
    start_s = plan.window_start_s(claim.window)
    return {
        "plan": claim.plan,
        "group": claim.group,
        "window": claim.window,
        "window_start": iso(start_s),
        "part": claim.part,
        "meters": claim.meters,
        "expected": answer.expected,
        "pieces": [list(piece) for piece in claim.pieces],
        "intervals": [
            {
                "start": iso(start_s + i * plan.interval_s),
                **{
                    q.name: {**statistics[q.name][i].record(q), **_counts(q, answer, i)}
                    for q in plan.quantities
                },
            }
            for i in range(plan.intervals)
        ],
    }


def _counts(quantity: Quantity, answer: Answer, interval: int) -> dict[str, Any]:
    """The released integers besides sum and present: sum of squares and bins."""
    if answer.withheld[quantity.name][interval]:
        return {}
    blocks = answer.blocks[quantity.name]
    counts: dict[str, Any] = {}
    if quantity.squares:
        counts["squares"] = blocks["square"][interval]
    if quantity.bins:
        counts["bins"] = [blocks[f"bin:{i}"][interval] for i in range(quantity.bins)]
    return counts


def summary_of(record: dict[str, Any], plan: Plan) -> dict[str, str]:
    """One table row: the first quantity's sum and peak, and the number of withheld values."""
    name, unit = plan.quantities[0].name, plan.quantities[0].unit
    values = [interval[name] for interval in record["intervals"]]
    shown = [
        (each["sum"], record["intervals"][i]["start"])
        for i, each in enumerate(values)
        if each["sum"] is not None
    ]
    withheld = sum(each["sum"] is None for interval in record["intervals"] for each in _quantities(interval))
    peak = max(shown, key=lambda pair: pair[0], default=None)
    return {
        "group": record["group"],
        "window": record["window_start"].replace("T00:00:00Z", ""),
        "part": str(record["part"]),
        "meters": f"{record['meters']}/{record['expected']}",
        "sum": f"{sum(value for value, _ in shown)} {unit}" if shown else "-",
        "peak": f"{peak[1][11:16]} {peak[0]} {unit}" if peak else "-",
        "notes": f"{withheld} withheld" if withheld else "",
    }


def _quantities(interval: dict[str, Any]) -> Iterable[dict[str, Any]]:
    return (value for key, value in interval.items() if key != "start")


def table(rows: Sequence[dict[str, str]]) -> list[str]:
    """The rows as aligned lines, with a heading; numbers are aligned to the right."""
    if not rows:
        return []
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    numbers = {names.index(name) for name in ("part", "meters", "sum") if name in names}
    return aligned(names, [[row[name] for name in names] for row in rows], right=numbers).splitlines()
