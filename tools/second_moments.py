"""How often do released numbers of a small group determine its readings? Measured on real households.

    python tools/second_moments.py                                   # the readings shipped with gridhe
    python tools/second_moments.py folder/ --sum-rows 4 --step 10    # a folder of CSV files, a column a meter

A release gives, for each interval, the number of meters, the sum of their readings, perhaps the sum of their
squares and perhaps a histogram. This tool draws groups of meters and intervals, computes these numbers from
the true readings, and searches all groups of readings that have the same numbers:

    all     the readings are determined: no second multiset of readings has the same numbers
    one     some reading is determined: its value is in every multiset that has the same numbers
    alone   some bin holds exactly one meter, so that the release gives this reading to a bin's width
    width   the possible range of the largest of such readings, in Wh (median): squares narrow it further
    narrow  this range is 100 Wh or less
    open    neither proven nor refuted within the time limit

The search is exhaustive. Readings are ordered within a bin. A partial group is extended by every next reading
that the remaining sum and squares allow (variance >= 0, and the bins' edges); the last two readings are the
roots of a quadratic. It stops at a second solution, or where no value is left that all solutions have.
Its order is random, because most groups have many solutions. `--step 10` takes only meters that count in
steps of 10 Wh, and searches only multiples of 10: a reader of releases may know the meters' type.

Readings are trimmed as a meter does it: negative ones are missing, those above --largest are --largest.
"""

import argparse
import csv
import gzip
import io
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGED = Path(__file__).resolve().parents[1] / "meter_agent" / "data"
NIGHT = range(5)  # hours, if rows are hours that start at midnight
NARROW_WH = 100
_ROWS = 2**16  # partial groups that are extended at once
_MISSING = -1

Ints = NDArray[np.int64]


# -- readings --------------------------------------------------------------------------------------------
def load(path: Path, *, sum_rows: int, largest: int) -> Ints:
    """int64[rows][meters], -1 where a reading is missing. Every CSV has a first column that is ignored."""
    files = [path] if path.is_file() else sorted([*path.glob("*.csv"), *path.glob("*.csv.gz")])
    if not files:
        raise SystemExit(f"error: no .csv or .csv.gz in {path}")
    tables = []
    for file in files:
        data = file.read_bytes()
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8")
        _, *rows = csv.reader(io.StringIO(text))
        tables.append(np.array([[_reading(cell) for cell in row[1:]] for row in rows], np.int64))
    length = min(len(table) for table in tables) // sum_rows * sum_rows
    raw = np.concatenate([table[:length] for table in tables], axis=1).reshape(
        -1, sum_rows, tables[0].shape[1]
    )
    missing = (raw < 0).any(axis=1)
    return np.where(missing, _MISSING, np.minimum(raw.sum(axis=1), largest))


def _reading(cell: str) -> int:
    try:
        return max(_MISSING, int(cell))
    except ValueError:
        return _MISSING


def steps(readings: Ints) -> Ints:
    """int64[meters]: the greatest common divisor of each meter's readings."""
    return np.gcd.reduce(np.maximum(readings, 0), axis=0)


# -- what a release tells --------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Statistics:
    """The statistics of a plan: `bins` equal bins (1: no histogram); squares of reading >> shift, or None."""

    bins: int
    shift: int | None

    def __str__(self) -> str:
        squares = (
            "no squares" if self.shift is None else f"squares >> {self.shift}" if self.shift else "squares"
        )
        return f"{squares}, {self.bins} bins" if self.bins > 1 else f"{squares}, no bins"


@dataclass(frozen=True, slots=True)
class Released:
    """The numbers of one interval, in units of `step`: a box (lowest, highest) a member, largest first."""

    boxes: tuple[tuple[int, int], ...]
    total: int
    squares: int | None
    shift: int


def release(readings: Ints, statistics: Statistics, *, largest: int, step: int) -> Released:
    """The released numbers of a group, with readings and sums divided by `step`."""
    edges = [(largest + 1) * i // statistics.bins for i in range(statistics.bins + 1)]
    bins = np.searchsorted(edges, readings, side="right") - 1
    boxes = [(-(-edges[b] // step), (edges[b + 1] - 1) // step) for b in sorted(bins.tolist(), reverse=True)]
    small = readings // step
    shift = statistics.shift
    squares = None if shift is None else int(((readings >> shift) ** 2).sum())
    if squares is not None and shift == 0:
        squares //= step * step
    return Released(tuple(boxes), int(small.sum()), squares, shift or 0)


# -- the search ------------------------------------------------------------------------------------------
class TooLong(Exception):
    """The time limit has passed."""


def groups(
    boxes: tuple[tuple[int, int], ...], total: int, squares: int, *, until: float, seed: int
) -> Iterator[Ints]:
    """Every group of readings, one row each, in batches int64[k][n] and in random order.

    A group has one reading in each box, equal boxes in falling order, with this sum and sum of squares.
    Raises TooLong after `until` (time.monotonic).
    """
    n = len(boxes)
    rng = np.random.default_rng(seed)
    if n == 1:
        if boxes[0][0] <= total <= boxes[0][1] and total * total == squares:
            yield np.array([[total]], np.int64)
        return
    low = np.array([box[0] for box in boxes])
    high = np.array([box[1] for box in boxes])
    low_after = np.concatenate((np.cumsum(low[::-1])[::-1][1:], [0]))  # sums over the boxes after each
    high_after = np.concatenate((np.cumsum(high[::-1])[::-1][1:], [0]))
    same_after = np.array([sum(1 for box in boxes[i:] if box == boxes[i]) for i in range(n)])
    high_beyond = np.array([sum(box[1] for box in boxes[i:] if box != boxes[i]) for i in range(n)])
    most = [_most_squares(boxes[i:]) for i in range(n)]
    stack = [np.empty((1, 0), np.int64)]
    while stack:
        if time.monotonic() > until:
            raise TooLong
        rows = stack.pop()
        i = rows.shape[1]
        s, q = total - rows.sum(axis=1), squares - (rows * rows).sum(axis=1)
        top = np.full(len(rows), high[i])
        if i and boxes[i - 1] == boxes[i]:
            top = np.minimum(top, rows[:, -1])
        if i == n - 2:
            yield from _last_two(rows, s, q, top, boxes)
            continue
        left = n - i
        # (v - mean)^2 <= (left - 1) / left * (q - s^2 / left), rounded outwards.
        spread = np.sqrt(np.maximum(0.0, (left - 1) * (left * q - s * s))) / left + 1e-6
        possible = (left * q >= s * s) & (q <= np.interp(s, *most[i]) + 0.5)
        if same_after[i] == left:
            possible &= q <= (low[i] + top) * s - left * low[i] * top
        top = np.minimum.reduce([top, np.floor(s / left + spread).astype(np.int64), s - low_after[i]])
        bottom = np.maximum.reduce(
            [
                np.full(len(rows), low[i]),
                np.ceil(s / left - spread).astype(np.int64),
                s - high_after[i],
                -(-(s - high_beyond[i]) // same_after[i]),
            ]
        )
        count = np.where(possible, np.maximum(0, top - bottom + 1), 0)
        rows, bottom, count = rows[count > 0], bottom[count > 0], count[count > 0]
        if not len(rows):
            continue
        ends = np.cumsum(count)
        keep = max(1, int(np.searchsorted(ends, _ROWS, side="right")))
        if keep < len(rows):  # the others stay on the stack
            stack.append(rows[keep:])
            rows, bottom, count, ends = rows[:keep], bottom[:keep], count[:keep], ends[:keep]
        value = np.arange(ends[-1]) - np.repeat(ends - count - bottom, count)
        extended = np.column_stack((np.repeat(rows, count, axis=0), value))
        extended = extended[rng.permutation(len(extended))]
        # Small pieces first go deep: where there are many groups, some are found at once.
        piece = 256 if i < n - 3 else len(extended)
        stack += [extended[at : at + piece] for at in range(0, len(extended), piece)]


def _most_squares(boxes: tuple[tuple[int, int], ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and the most squares for each, linear between them: (low + high) x - low high in each box."""
    low, high = np.array(boxes, np.float64).T
    width = np.concatenate(([0.0], high - low))
    gain = np.concatenate(([0.0], (high - low) * (high + low)))  # falling boxes: the steepest first
    return low.sum() + np.cumsum(width), (low**2).sum() + np.cumsum(gain)


def _last_two(rows: Ints, s: Ints, q: Ints, top: Ints, boxes: tuple[tuple[int, int], ...]) -> Iterator[Ints]:
    """x + y = s and x^2 + y^2 = q: (x - y)^2 = 2 q - s^2, x >= y because boxes fall."""
    squared = 2 * q - s * s
    difference = np.rint(np.sqrt(np.maximum(squared, 0))).astype(np.int64)
    x, y = (s + difference) // 2, (s - difference) // 2
    fits = (difference * difference == squared) & ((s - difference) % 2 == 0)
    fits &= (x <= top) & (x >= boxes[-2][0]) & (y >= boxes[-1][0]) & (y <= boxes[-1][1])
    if fits.any():
        yield np.column_stack((rows[fits], x[fits], y[fits]))


def solutions(given: Released, *, step: int, until: float, seed: int) -> Iterator[tuple[int, ...]]:
    """Groups of readings with these numbers, sorted, in units of `step`. Raises TooLong.

    With shifted squares, or none, groups that differ in free bits only are too many: a few of them are given
    (`_spread`), so that a value can count as determined that is not, but never the reverse.
    """
    if given.squares is None:
        yield from _spread(given.boxes, given.total)
        return
    if given.shift == 0:
        for batch in groups(given.boxes, given.total, given.squares, until=until, seed=seed):
            for row in batch.tolist():
                yield tuple(sorted(row))
        return
    # A coarse reading y = (step x) >> shift stands for the readings of a range.
    cells = tuple(((low * step) >> given.shift, (high * step) >> given.shift) for low, high in given.boxes)
    exact = given.total * step
    n = len(cells)
    for total in range(-(-(exact - n * ((1 << given.shift) - 1)) >> given.shift), (exact >> given.shift) + 1):
        for batch in groups(cells, total, given.squares, until=until, seed=seed):
            for row in batch.tolist():
                ranges = [
                    (
                        max(low, -(-(y << given.shift) // step)),
                        min(high, (((y + 1) << given.shift) - 1) // step),
                    )
                    for y, (low, high) in zip(row, given.boxes, strict=True)
                ]
                if all(low <= high for low, high in ranges):
                    yield from _spread(tuple(ranges), given.total)


def _spread(ranges: tuple[tuple[int, int], ...], total: int) -> Iterator[tuple[int, ...]]:
    """Some groups with this sum, a reading in each range: each as large as possible, as small, in between."""
    rest = total - sum(low for low, _ in ranges)
    if rest < 0 or rest > sum(high - low for low, high in ranges):
        return
    n = len(ranges)
    orders = [[*range(i, n), *range(i)] for i in range(n)]
    for order in (*orders, *(order[::-1] for order in orders)):
        left, row = rest, [low for low, _ in ranges]
        for i in order:
            more = min(left, ranges[i][1] - ranges[i][0])
            row[i], left = row[i] + more, left - more
        yield tuple(sorted(row))
    left, row = rest, [low for low, _ in ranges]
    while left:
        able = [i for i in range(n) if row[i] < ranges[i][1]]
        share = max(1, left // len(able))
        for i in able:
            more = min(left, share, ranges[i][1] - row[i])
            row[i], left = row[i] + more, left - more
    yield tuple(sorted(row))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a release determines; None: open."""

    every: bool | None
    one: bool | None
    alone: bool
    width: int | None  # of the largest reading that is alone in its bin, in Wh


def judge(readings: Ints, statistics: Statistics, *, largest: int, step: int, limit_s: float) -> Verdict:
    """What the released numbers of a group determine about its readings."""
    given = release(readings, statistics, largest=largest, step=step)
    truth = tuple(sorted((readings // step).tolist()))
    common, second = set(truth), False
    alone = statistics.bins > 1 and 1 in Counter(given.boxes).values()
    width = _width(given, step) if alone else None
    # A search that starts in a bad place seldom leaves it in time: some short ones first, then a long one.
    for seed, seconds in enumerate((*[limit_s / 20] * 6, limit_s)):
        try:
            for group in solutions(given, step=step, until=time.monotonic() + seconds, seed=seed):
                second = second or group != truth
                common.intersection_update(group)
                if not common:
                    break
        except TooLong:
            continue
        return Verdict(not second, bool(common), alone, width)
    return Verdict(False if second else None, None, alone, width)


def _width(given: Released, step: int) -> int:
    """The range of the largest member that is alone in its bin, in Wh: its bin, cut by sum and squares.

    A value is possible if the others, in their bins and with the remaining sum, can have the remaining
    squares: least where they are as equal as their edges allow, most where all but one are at an edge.
    """
    low, high = own = next(box for box in given.boxes if given.boxes.count(box) == 1)
    others = [box for box in given.boxes if box != own]
    if not others:
        return 0
    values = np.unique(np.linspace(low, high, 400).astype(np.int64)).tolist()
    possible = [v for v in values if _possible(others, given, v, step)]
    return (max(possible) - min(possible)) * step if possible else 0


def _possible(others: list[tuple[int, int]], given: Released, value: int, step: int) -> bool:
    s = given.total - value
    if not sum(low for low, _ in others) <= s <= sum(high for _, high in others):
        return False
    if given.squares is None:
        return True
    level_low, level_high = 0.0, float(others[0][1])
    for _ in range(50):
        level = (level_low + level_high) / 2
        if sum(min(max(level, low), high) for low, high in others) < s:
            level_low = level
        else:
            level_high = level
    least = sum(min(max(level_high, low), high) ** 2 for low, high in others)
    left, most = s - sum(low for low, _ in others), 0.0
    for low, high in others:  # the highest boxes gain most
        more = min(left, high - low)
        most, left = most + (low + more) ** 2, left - more
    unit = step / 2.0**given.shift if given.shift else 1.0
    # A shift loses less than one unit of each reading.
    loss = 2 * (s + value) * unit + len(others) + 1 if given.shift else 0.0
    scaled = given.squares - (value * unit) ** 2
    return least * unit**2 - loss <= scaled * (1 + 1e-9) and scaled <= most * unit**2 + loss


# -- the table -------------------------------------------------------------------------------------------
def draw(readings: Ints, meters: int, rng: np.random.Generator, *, night: bool) -> Ints:
    """The readings of `meters` random meters in a random interval in which none of them is missing."""
    while True:
        at = rng.integers(len(readings))
        row = readings[at // 24 * 24 + at % len(NIGHT) if night else at]
        there = np.flatnonzero(row != _MISSING)
        if len(there) >= meters:
            return row[rng.choice(there, meters, replace=False)]


def measure(readings: Ints, meters: int, statistics: Statistics, options: argparse.Namespace) -> str:
    """One row of the table."""
    verdicts = []
    for seed in range(options.seeds):
        rng = np.random.default_rng([seed, meters])
        for _ in range(options.intervals):
            group = draw(readings, meters, rng, night=options.night)
            verdicts.append(
                judge(group, statistics, largest=options.largest, step=options.step, limit_s=options.limit_s)
            )
    widths = [verdict.width for verdict in verdicts if verdict.width is not None]
    cells = [
        meters,
        statistics,
        len(verdicts),
        sum(verdict.every is True for verdict in verdicts),
        sum(verdict.one is True for verdict in verdicts),
        sum(verdict.alone for verdict in verdicts),
        int(np.median(widths)) if widths else "-",
        sum(width <= NARROW_WH for width in widths),
        sum(verdict.one is None for verdict in verdicts),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, nargs="?", default=PACKAGED)
    parser.add_argument("--meters", type=int, nargs="+", default=[3, 4, 5, 6, 8, 10, 15])
    parser.add_argument("--bins", type=int, nargs="+", default=[16], help="1: no histogram")
    parser.add_argument("--shifts", type=int, nargs="+", default=[0], help="-1: no squares")
    parser.add_argument("--step", type=int, default=1, help="only meters that count in steps of so many Wh")
    parser.add_argument("--sum-rows", type=int, default=1, help="rows to an interval: 4 for quarter-hours")
    parser.add_argument("--largest", type=int, default=20_000)
    parser.add_argument("--night", action="store_true", help="only the first five hours of days")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--intervals", type=int, default=100, help="for each seed")
    parser.add_argument("--limit-s", type=float, default=10.0, help="for each interval")
    options = parser.parse_args()
    readings = load(options.path, sum_rows=options.sum_rows, largest=options.largest)
    if options.step > 1:
        readings = readings[:, steps(readings) % options.step == 0]
    print(f"{readings.shape[1]} meters, {len(readings)} intervals", file=sys.stderr)
    print("| meters | statistics | intervals | all | one | alone | width | narrow | open |")
    print("|---|---|---|---|---|---|---|---|---|")
    for meters, bins, shift in itertools.product(options.meters, options.bins, options.shifts):
        statistics = Statistics(bins, None if shift < 0 else shift)
        print(measure(readings, meters, statistics, options), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
