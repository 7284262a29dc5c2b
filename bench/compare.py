"""Two runs side by side: ratios with their spread, and which of them are regressions.

A metric has changed when its median *and* its least value moved the same way by more than noise:
other work on the machine lifts a median, but seldom every repeat, and a change of the code moves
both. Noise is the larger of a floor and four standard errors of the two medians, where a median's
standard error is 1.25 * (interquartile range / 1.35) / sqrt(n).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gridhe.bench.record import Figures, Record
from gridhe.bench.table import aligned, figure

__all__ = ["Change", "compare", "shown"]

_FLOOR = 0.25  # runs of one commit, minutes apart on a busy machine, differ by this much
_ERRORS = 4.0
Verdict = Literal["regression", "improvement", "same", "not judged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one metric from run A to run B."""

    key: tuple[str, str, str, str]
    unit: str
    before: float
    after: float
    ratio: float  # after / before, of the medians
    noise: float  # a ratio within 1 / (1 + noise) .. 1 + noise says nothing
    verdict: Verdict


def compare(before: Sequence[Record], after: Sequence[Record]) -> list[Change]:
    """The metrics that both runs have, in the order of the first."""
    found = {record.key: record for record in after}
    return [_change(record, found[record.key]) for record in before if record.key in found]


def _change(before: Record, after: Record) -> Change:
    old, new = before.figures, after.figures
    noise = max(_FLOOR, _ERRORS * math.hypot(_error(old), _error(new)))
    judged = before.better != "neither" and old.median > 0 and new.median > 0 and _repeated(before, after)
    ratio = new.median / old.median if old.median else math.nan
    verdict: Verdict = "not judged"
    if judged:
        # What a lower-is-better metric shows at its best is its least value; for a rate, its most.
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
    )


def _repeated(before: Record, after: Record) -> bool:
    """Whether chance can be told from change: from repeats, or because bytes have no chance."""
    return before.unit.startswith("B") or min(before.figures.count, after.figures.count) >= 3


def _error(figures: Figures) -> float:
    """The standard error of the median, as a share of it."""
    return 1.25 * figures.spread / 1.35 / math.sqrt(figures.count)


def shown(changes: Sequence[Change]) -> str:
    """A table, what has changed first."""
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
    return aligned(headings, rows, 4)
