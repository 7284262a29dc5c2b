"""What a file holds, as integers, and what was set aside."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gridhe.meter_agent.policy import ABSENT, TEXT

__all__ = [
    "CONFLICT",
    "ESTIMATED",
    "EXCHANGED",
    "FLAGS",
    "Finding",
    "Findings",
    "Interval",
    "Samples",
    "Table",
    "round_wh",
]

_KEPT = 200

# Flags of a reading.
ESTIMATED, CONFLICT, EXCHANGED = 1, 2, 3
FLAGS = ("", "estimated", "conflict", "meter swap: unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something in a file that is not a reading. `settled`: its meaning is certain, so nothing is lost."""

    line: int
    column: str
    reason: str
    settled: bool = False

    def __str__(self) -> str:
        place = f"line {self.line}" + (f", column {self.column!r}" if self.column else "")
        return f"{place}: {self.reason}"


@dataclass(slots=True)
class Findings:
    """All findings by reason, and the first ones with their places. Holds nothing of the cells' content."""

    counts: Counter[str] = field(default_factory=Counter)
    open_counts: Counter[str] = field(default_factory=Counter)  # those that are not settled
    kept: list[Finding] = field(default_factory=list)

    def add(self, line: int, column: str, reason: str, *, settled: bool = False) -> None:
        """Count one, and keep its place if it is among the first of its reason."""
        self.counts[reason] += 1
        if not settled:
            self.open_counts[reason] += 1
        if len(self.kept) < _KEPT and self.counts[reason] <= _KEPT // 5:
            self.kept.append(Finding(line=line, column=column, reason=reason, settled=settled))


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """A register that was read at irregular times."""

    times_s: NDArray[np.int64]  # UTC epoch seconds, rising
    wh: NDArray[np.int64]  # the register in whole Wh; never falls
    breaks: NDArray[np.bool_]  # True: the difference to the sample before is unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """One reading as it would be counted: whole Wh, None if missing."""

    start_s: int
    end_s: int
    meter: str
    quantity: str
    wh: int | None
    flag: str


def round_wh(raw: NDArray[np.int64], per_wh: int) -> NDArray[np.int64]:
    """Whole Wh of readings in 1/per_wh Wh: to the nearest, halves to the even one. ABSENT and TEXT stay."""
    if per_wh == 1:
        return raw
    whole, rest = np.divmod(raw, per_wh)
    whole = whole + ((2 * rest > per_wh) | ((2 * rest == per_wh) & (whole % 2 == 1)))
    return np.where(raw <= TEXT, raw, whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The readings of a file: each quantity int64[rows][columns], in 1/per_wh Wh, with ABSENT and TEXT.

    Quantities are import, export, net (import minus export), generation and import_controlled_load. A row
    is the interval of `step_s` seconds that starts at its time. Without times, rows follow each other.
    """

    path: Path
    columns: tuple[str, ...]  # the meters
    values: Mapping[str, NDArray[np.int64]]
    per_wh: int = 1
    times_s: NDArray[np.int64] | None  # [rows] UTC epoch seconds, rising
    step_s: int | None = None
    lines: NDArray[np.int64]  # [rows] each row's line number in the file
    flags: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    samples: Mapping[tuple[str, str], Samples] = field(default_factory=dict)  # by (quantity, meter)
    format: str = "gridhe"
    decided: str = ""  # one line for people
    findings: Findings = field(default_factory=Findings)

    @property
    def raw(self) -> NDArray[np.int64]:
        """The first quantity's readings."""
        return next(iter(self.values.values()))

    def where(self, row: int, column: int) -> str:
        """The place of a cell, with the line number that an editor shows."""
        return f"{self.path}, line {int(self.lines[row])}, column {self.columns[column]!r}"

    def intervals(self) -> Iterator[Interval]:
        """Every interval from each meter's first to its last one, the missing ones too."""
        if self.times_s is None or self.step_s is None:
            return
        for quantity, raw in self.values.items():
            whole = round_wh(raw, self.per_wh)
            for at, meter in enumerate(self.columns):
                flags = self.flags.get(quantity)
                rows = np.flatnonzero(raw[:, at] != ABSENT)
                if flags is not None:
                    rows = np.flatnonzero((raw[:, at] != ABSENT) | (flags[:, at] == _EMPTY))
                if not rows.size:
                    continue
                before = None
                for row in range(int(rows[0]), int(rows[-1]) + 1):
                    start_s = int(self.times_s[row])
                    expected_s = start_s if before is None else before + self.step_s
                    for gap_s in range(expected_s, start_s, self.step_s):
                        yield self._interval(gap_s, meter, quantity, None, "missing")
                    before = start_s
                    wh = int(whole[row, at])
                    code = 0 if flags is None else int(flags[row, at])
                    flag = FLAGS[code] if code < len(FLAGS) else ""
                    missing = wh <= TEXT
                    yield self._interval(
                        start_s,
                        meter,
                        quantity,
                        None if missing else wh,
                        flag or ("missing" if missing else ""),
                    )

    def _interval(self, start_s: int, meter: str, quantity: str, wh: int | None, flag: str) -> Interval:
        step_s = self.step_s or 0
        return Interval(
            start_s=start_s, end_s=start_s + step_s, meter=meter, quantity=quantity, wh=wh, flag=flag
        )


_EMPTY = 255  # the file has a cell for this interval, and it is empty
