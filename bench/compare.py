"""Two runs side by side: ratios with their spread, and which of them are regressions.

A metric has changed if its median *and* its least value moved in the same direction by more than noise:
other work on the machine raises a median, but seldom every repeat, and a change of the code moves
both. Noise is the larger of a floor and four standard errors of the two medians, where a median's
standard error is 1.25 * (interquartile range / 1.35) / sqrt(n). Notes are not compared.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gridhe.base.table import aligned
from gridhe.bench.record import Figures, Record
from gridhe.bench.record_table import figure
from gridhe.bench.store import FAILED
from gridhe.errors import StoreError

__all__ = ["Change", "compare", "coverage", "differences", "shown"]

_FLOOR = 0.25  # runs of one commit, minutes apart on a busy machine, differ by this much
_ERRORS = 4.0
_LEAST_VALUES = 3
Verdict = Literal["regression", "improvement", "same", "not judged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The change of one metric from run A to run B."""

    key: tuple[str, str, str, str]
    unit: str
    before: float
    after: float
    ratio: float  # after / before, of the medians
    noise: float  # a ratio within 1 / (1 + noise) .. 1 + noise is no change
    verdict: Verdict
    repeated: bool  # whether there are enough values for a verdict


def compare(before: Sequence[Record], after: Sequence[Record]) -> list[Change]:
    """The metrics that both runs have, in the order of the first. Raises StoreError if there are none."""
    new = {record.key: record for record in _metrics(after)}
    changes = [_change(record, new[record.key]) for record in _metrics(before) if record.key in new]
    if not changes:
        raise StoreError(
            f"the runs have no metric in common: A has {_suites(_metrics(before))}; B has "
            f"{_suites(_metrics(after))}"
        )
    return changes


def coverage(before: Sequence[Record], after: Sequence[Record], changes: Sequence[Change]) -> list[str]:
    """The metrics of the two runs without a verdict, as lines of text."""
    shared = {change.key for change in changes}
    lines = []
    for name, run in (("A", before), ("B", after)):
        alone = [record for record in _metrics(run) if record.key not in shared]
        if alone:
            lines.append(f"only in {name}: {_suites(alone)}")
    left = [change for change in changes if change.verdict == "not judged"]
    few = sum(not change.repeated for change in left)
    if few:
        lines.append(f"not judged, too few values: {few} ({_LEAST_VALUES} are needed in both runs)")
    if len(left) > few:
        lines.append(f"not judged, neither more nor less is better, or a median is 0: {len(left) - few}")
    return lines


def differences(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """The differences of the runs, as lines of text: hosts, versions, presets, suites that failed."""
    lines = []
    for what in ("host", "version"):
        mine, theirs = ({str(getattr(record, what)) for record in run} for run in (before, after))
        if mine != theirs:
            lines.append(f"the {what}s differ: {_listed(mine)} in A, {_listed(theirs)} in B")
    presets: list[dict[tuple[str, str, str], set[str]]] = [{}, {}]
    for run, by_case in zip((before, after), presets, strict=True):
        for record in _metrics(run):
            by_case.setdefault((record.suite, record.case, record.metric), set()).add(record.preset)
    moved = [case for case in presets[0] if case in presets[1] and not presets[0][case] & presets[1][case]]
    if moved:
        mine, theirs = (set().union(*(by_case[case] for case in moved)) for by_case in presets)
        lines.append(
            f"the presets differ: {_listed(mine)} in A, {_listed(theirs)} in B, so {len(moved)} metrics are "
            "not compared"
        )
    for name, run in (("A", before), ("B", after)):
        lines += [
            f"in {name}, suite {record.suite} failed: {record.note}"
            for record in run
            if record.metric == FAILED and record.unit == "note"
        ]
    return lines


def _metrics(run: Sequence[Record]) -> list[Record]:
    return [record for record in run if record.unit != "note"]


def _suites(records: Sequence[Record]) -> str:
    """The number of metrics, in all and by suite."""
    if not records:
        return "no metrics"
    counts = Counter(record.suite for record in records)
    each = ", ".join(f"{suite} {count}" for suite, count in counts.items())
    return f"{len(records)} metric{'s' if len(records) > 1 else ''} ({each})"


def _listed(values: set[str]) -> str:
    return ", ".join(sorted(value or "none" for value in values))


def _change(before: Record, after: Record) -> Change:
    old, new = before.figures, after.figures
    noise = max(_FLOOR, _ERRORS * math.hypot(_error(old), _error(new)))
    repeated = _repeated(before, after)
    judged = before.better != "neither" and old.median > 0 and new.median > 0 and repeated
    ratio = new.median / old.median if old.median else math.nan
    verdict: Verdict = "not judged"
    if judged:
        # The best value is the least one if lower is better, and the largest for a rate.
        best = new.least / old.least if before.better == "lower" else new.most / old.most
        worse = min(ratio, best) if before.better == "lower" else 1 / max(ratio, best)
        better = max(ratio, best) if before.better == "lower" else 1 / min(ratio, best)
        verdict = "regression" if worse > 1 + noise else "improvement" if better < 1 / (1 + noise) else "same"
    return Change(
        key=before.key,
        unit=before.unit,
        before=old.median,
        after=new.median,
        ratio=ratio,
        noise=noise,
        verdict=verdict,
        repeated=repeated,
    )


def _repeated(before: Record, after: Record) -> bool:
    """Whether noise can be estimated: there are enough repeats, or the metric is in bytes (no noise)."""
    return before.unit.startswith("B") or min(before.figures.count, after.figures.count) >= _LEAST_VALUES


def _error(figures: Figures) -> float:
    """The standard error of the median, as a share of it."""
    return 1.25 * figures.spread / 1.35 / math.sqrt(figures.count)


def shown(changes: Sequence[Change]) -> str:
    """A table of the changes, regressions and improvements first."""
    order: list[Verdict] = ["regression", "improvement", "same", "not judged"]
    rows = [
        (
            change.verdict,
            " ".join(part for part in change.key[:3] if part),
            change.key[3],
            change.unit,
            figure(change.before),
            figure(change.after),
            f"{change.ratio:.2f}",
            f"{change.noise:.0%}",
        )
        for change in sorted(changes, key=lambda one: order.index(one.verdict))
    ]
    headings = ("verdict", "case", "metric", "unit", "before", "after", "ratio", "noise")
    return aligned(headings, rows, right=range(4, len(headings)))
