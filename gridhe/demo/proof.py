"""The proof: the expected integers, computed from the plaintext with numpy, independently of gridhe's code.

The readings' policy is implemented here a second time, independently of the meter agent's, so that the two
must agree. Integers are compared with `==`. Mean and variance are floats computed from integers, compared
to 1 part in 10^9; min and max bins are compared as integers.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridhe.config.settings import MeterSettings
from gridhe.demo.isolation import isolated, unjustified
from gridhe.demo.releases import Release
from gridhe.demo.workload import Workload
from gridhe.errors import SourceError
from gridhe.meter_agent.sources.protocol import WindowSource
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity

__all__ = ["ExpectedTotals", "Plaintext", "Proof", "compare", "plaintext_of_cells", "plaintext_of_source"]

Blocks = Mapping[str, NDArray[np.int64]]  # kind -> int64[intervals]

_EXACT_FLOAT = 2.0**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Plaintext:
    """Every meter's readings after the policy, in plaintext."""

    readings: NDArray[np.int64]  # [windows * intervals][meters]; 0 for a missing reading
    present: NDArray[np.bool_]  # [windows * intervals][meters]
    counts: Mapping[str, int]  # kind (good, absent, text, ...) -> number of readings


def _number(cell: str) -> int | None:
    """The integer in a cell that is not empty; None if it is not an integer."""
    if "_" in cell or not cell.isascii():  # Python accepts 1_000 and other scripts' digits; meters do not
        return None
    with contextlib.suppress(ValueError):
        return int(cell)
    try:
        number = float(cell)
    except ValueError:
        return None
    return int(number) if number.is_integer() and abs(number) <= _EXACT_FLOAT else None


def plaintext_of_cells(workload: Workload, largest: int, settings: MeterSettings) -> Plaintext:
    """The workload's cells under the documented policy (docs/operations.md).

    Empty: missing. Text, fractions: `on_text`. Below 0: `on_negative`. Above `largest`: `on_too_large`.
    Raises SourceError for such a reading if its policy is `refuse`.
    """
    shape = (workload.windows * workload.intervals, len(workload.meters))
    readings = np.zeros(shape, np.int64)
    present = np.zeros(shape, np.bool_)
    counts = {"good": 0, "absent": 0, "text": 0, "negative": 0, "too_large": 0}
    taken: set[int] = set()
    policy: str
    for time_s, cells in zip(workload.times_s, workload.cells, strict=True):
        row = (time_s - workload.start_s) // workload.interval_s
        if row in taken:
            continue  # of two rows for one interval, the first is used
        taken.add(row)
        values: list[int] = []
        for cell in cells:
            stripped = cell.strip()
            if not stripped:
                counts["absent"] += 1
                values.append(-1)
                continue
            number = _number(stripped)
            kind, policy, clipped = "good", "clip", -1
            if number is None:
                kind, policy = "text", settings.on_text
            elif number < 0:
                kind, policy, clipped = "negative", settings.on_negative, 0
            elif number > largest:
                kind, policy, clipped = "too_large", settings.on_too_large, largest
            else:
                clipped = number
            if policy == "refuse":
                raise SourceError(
                    f"reading {stripped!r} is {kind} and meter.on_{kind} is `refuse`: correct the reading"
                )
            counts[kind] += 1
            values.append(clipped if policy == "clip" else -1)
        array = np.array(values, np.int64)
        present[row] = array >= 0
        readings[row] = np.maximum(array, 0)
    counts["absent"] += (shape[0] - len(taken)) * shape[1]
    return Plaintext(readings=readings, present=present, counts=counts)


def plaintext_of_source(workload: Workload, quantity: str, source: WindowSource) -> Plaintext:
    """The readings of a synthetic fleet: they depend only on seed, meter and time."""
    windows = range(workload.first_window, workload.first_window + workload.windows)
    readings = np.stack(
        [
            np.concatenate([source.window(meter, window)[quantity] for window in windows])
            for meter in workload.meters
        ],
        axis=1,
    )
    present = np.ones(readings.shape, np.bool_)
    return Plaintext(readings=readings, present=present, counts={"good": readings.size})


@dataclass(slots=True, kw_only=True)
class Proof:
    """The result of comparing every released total with the plaintext."""

    expected: int  # totals: groups x windows
    released: int = 0  # totals that arrived
    integers: int = 0  # released integers that were compared
    statistics: int = 0  # means, variances, bins and sets of quantiles that were compared
    withheld: int = 0  # intervals that the policy withheld: too few meters had a reading
    missing: list[str] = field(default_factory=list)  # expected totals that are not complete
    mismatches: list[str] = field(default_factory=list)  # differences, one line each

    @property
    def exact(self) -> bool:
        """Whether everything expected was released and every integer is equal."""
        return self.released == self.expected and not self.missing and not self.mismatches


class ExpectedTotals:
    """The expected totals of each group."""

    def __init__(self, workload: Workload, plan: Plan, plaintext: Plaintext) -> None:
        self._workload = workload
        self._plan = plan
        self._plain = plaintext
        self._members = workload.members()
        self._blocks: dict[str, dict[str, NDArray[np.int64]]] = {}  # group -> kind -> [windows * intervals]

    @property
    def expected(self) -> tuple[tuple[str, int], ...]:
        """Every (group, window) that must be released."""
        first = self._workload.first_window
        return tuple((g, first + w) for g in self._members for w in range(self._workload.windows))

    def meters(self, group: str) -> int:
        """The number of meters of a group."""
        return len(self._members[group])

    def blocks(self, group: str, window: int, quantity: Quantity) -> Blocks:
        """The expected sums by kind, int64[intervals] each."""
        if quantity is not self._plan.quantities[0]:  # the fleet measures only the first quantity
            zeros = np.zeros(self._workload.intervals, np.int64)
            kinds = ["reading", "present", *(["square"] if quantity.squares else [])]
            return dict.fromkeys([*kinds, *(f"bin:{i}" for i in range(quantity.bins))], zeros)
        if group not in self._blocks:
            self._blocks[group] = self._sum(group, quantity)
        at = self._slice(window)
        return {kind: sums[at] for kind, sums in self._blocks[group].items()}

    def _slice(self, window: int) -> slice:
        start = (window - self._workload.first_window) * self._workload.intervals
        return slice(start, start + self._workload.intervals)

    def _sum(self, group: str, quantity: Quantity) -> dict[str, NDArray[np.int64]]:
        columns = list(self._members[group])
        readings, present = self._plain.readings[:, columns], self._plain.present[:, columns]
        sums = {"reading": readings.sum(axis=1), "present": present.sum(axis=1, dtype=np.int64)}
        if quantity.squares:
            sums["square"] = ((readings >> quantity.square_shift) ** 2).sum(axis=1)
        for i in range(quantity.bins):
            low, high = quantity.bin_edges[i], quantity.bin_edges[i + 1]
            sums[f"bin:{i}"] = ((readings >= low) & (readings < high) & present).sum(axis=1, dtype=np.int64)
        return sums

    def statistics(
        self, group: str, window: int, interval: int, quantity: Quantity, probabilities: Iterable[str]
    ) -> dict[str, Any]:
        """The expected statistics of one interval, by numpy; None without readings.

        Bins are [smallest, largest] value; quantile p is the bin of the k-th smallest reading,
        k = ceil(p * present).
        """
        measured = quantity is self._plan.quantities[0]
        row = (window - self._workload.first_window) * self._workload.intervals + interval
        columns = list(self._members[group])
        values = np.sort(self._plain.readings[row, columns][self._plain.present[row, columns]])
        some = measured and values.size > 0
        inner = np.array(quantity.bin_edges[1:-1], np.int64)

        def bin_of(value: np.int64) -> list[int]:
            at = int(np.digitize(value, inner))
            return [quantity.bin_edges[at], quantity.bin_edges[at + 1] - 1]

        expected: dict[str, Any] = {}
        if "mean" in quantity.statistics:
            expected["mean"] = float(np.mean(values)) if some else None
        if "variance" in quantity.statistics:
            expected["variance"] = float(np.var(values)) if some else None
        if "min" in quantity.statistics:
            expected["min"] = bin_of(values[0]) if some else None
        if "max" in quantity.statistics:
            expected["max"] = bin_of(values[-1]) if some else None
        if "quantiles" in quantity.statistics and some:
            ranks = {p: math.ceil(Fraction(p) * values.size) for p in probabilities}
            expected["quantiles"] = {p: bin_of(values[max(1, k) - 1]) for p, k in ranks.items()}
        return expected


def compare(oracle: ExpectedTotals, plan: Plan, releases: Sequence[Release], *, minimum_meters: int) -> Proof:
    """Compare every released integer with the plaintext's sums, and every statistic with numpy's.

    The parts of a (group, window) have disjoint meters, so their sums are added before the comparison.
    Statistics are compared if there is a single part. The released intervals must not isolate fewer than
    `minimum_meters`, and an interval may be withheld only if its release would (`gridhe.demo.isolation`).
    """
    proof = Proof(expected=len(oracle.expected))
    released: dict[tuple[str, int], list[Release]] = {}
    for release in releases:
        released.setdefault((release.group, release.window), []).append(release)
    whole: dict[int, dict[str, list[Release]]] = {}
    for group, window in oracle.expected:
        parts = released.pop((group, window), [])
        meters = sum(part.meters for part in parts)
        if meters != oracle.meters(group):
            proof.missing.append(
                f"{group} window {window}: {meters} of {oracle.meters(group)} meters released"
            )
            continue
        proof.released += 1
        whole.setdefault(window, {})[group] = parts
        for quantity in plan.quantities:
            _compare_blocks(proof, oracle, quantity, parts)
            if len(parts) == 1:
                _compare_statistics(proof, oracle, quantity, parts[0])
    for group, window in released:
        proof.mismatches.append(f"{group} window {window}: released, and not expected")
    groups_expected = {group for group, _ in oracle.expected}
    for window, groups in whole.items():
        if set(groups) == groups_expected:  # checked only for complete windows
            for quantity in plan.quantities:
                _compare_withheld(proof, oracle, quantity, window, groups, minimum_meters)
    return proof


def _compare_blocks(
    proof: Proof, oracle: ExpectedTotals, quantity: Quantity, parts: Sequence[Release]
) -> None:
    group, window = parts[0].group, parts[0].window
    for kind, wanted in oracle.blocks(group, window, quantity).items():
        blocks = [part.blocks[quantity.name].get(kind) for part in parts]
        where = f"{group} window {window} {quantity.name} {kind}"
        if any(values is None or len(values) != len(wanted) for values in blocks):
            proof.mismatches.append(f"{where}: not released completely")
            continue
        for i, want in enumerate(wanted.tolist()):
            values = [block[i] for block in blocks if block is not None]
            numbers = [value for value in values if value is not None]
            if len(numbers) < len(values):
                continue  # withheld: checked together with the other groups
            proof.integers += 1
            if sum(numbers) != want:
                proof.mismatches.append(f"{where} interval {i}: released {sum(numbers)}, plaintext {want}")


def _compare_withheld(
    proof: Proof,
    oracle: ExpectedTotals,
    quantity: Quantity,
    window: int,
    groups: Mapping[str, Sequence[Release]],
    minimum: int,
) -> None:
    present = {group: oracle.blocks(group, window, quantity)["present"] for group in groups}
    given = {
        group: np.array(
            [
                all(part.blocks[quantity.name]["present"][i] is not None for part in parts)
                for i in range(len(present[group]))
            ]
        )
        for group, parts in groups.items()
    }
    proof.withheld += sum(int(np.count_nonzero(~shown)) for shown in given.values())
    where = f"window {window} {quantity.name}"
    for i in np.flatnonzero(isolated(present, given, minimum)):
        proof.mismatches.append(f"{where} interval {i}: the released sums isolate fewer than {minimum}")
    for group, intervals in unjustified(present, given, minimum).items():
        for i in np.flatnonzero(intervals):
            proof.mismatches.append(f"{group} {where} interval {i}: withheld without need")


def _compare_statistics(proof: Proof, oracle: ExpectedTotals, quantity: Quantity, release: Release) -> None:
    shift = quantity.square_shift
    for i, record in enumerate(release.statistics[quantity.name]):
        if record["sum"] is None:
            continue  # withheld: checked with the blocks
        wanted = oracle.statistics(release.group, release.window, i, quantity, record.get("quantiles") or {})
        for name, want in wanted.items():
            if name not in record:
                proof.mismatches.append(f"{release.group} window {release.window} interval {i}: no {name}")
                continue
            got = record[name]
            proof.statistics += 1
            if isinstance(want, float) and got is not None:
                # The error of a variance is bounded by the dropped bits of squares (docs/parameters.md).
                slack = (
                    ((1 << shift) - 1) * ((record["mean"] or 0.0) + (1 << shift))
                    if name == "variance"
                    else 0.0
                )
                same = abs(got - want) <= max(1e-9 * max(1.0, abs(want)), slack)
            else:
                same = got == want
            if not same:
                proof.mismatches.append(
                    f"{release.group} window {release.window} interval {i} {name}: "
                    f"released {got}, plaintext {want}"
                )
