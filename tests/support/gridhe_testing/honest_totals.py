"""Honest totals: none may be refused, and every released integer must be exact.

    python -m gridhe_testing.honest_totals --count 10000 --seed 1

A try takes a fresh copy of an authority's home and folds sealed batches into the totals of a window, as an
aggregator does: leaf parts with missing meters, late parts and parts that are too small in the totals of
their region, roll-ups of regions and the grid, and meters that were moved, revoked or enrolled after the
window. All of them go through the release path of `gridhe-keyring release`. It prints the figures as JSON,
and fails if a total was refused or wrong, or if a slot was off the grid by half of the tolerance.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from gridhe.aggregator.fold.accumulator import Accumulator
from gridhe.keyring.home.authority import AuthorityHome
from gridhe.keyring.release.decrypt import Decryptor
from gridhe.keyring.release.queue import ReleaseOutcome
from gridhe.keyring.release.service import ReleaseService
from gridhe.plan.exactness import grid_tolerance
from gridhe.plan.guards import GuardSums
from gridhe.plan.names import ROOT_GROUP
from gridhe.plan.plan import Plan
from gridhe.wire.total import Piece, TotalKey, open_total
from gridhe_testing.honest_worlds import WINDOW, WORLDS, HonestWorld, WorldOptions
from gridhe_testing.released import released_slots
from gridhe_testing.totals import folded, member_list, signed_total

__all__ = ["Figures", "measure"]

_GROUPS_A_TRY = 5
_RECEIVED = "2026-01-01T00:00:00Z"


@dataclass
class Figures:
    """What was found. `strays` is the largest distance from the grid over the tolerance, by ring."""

    totals: int = 0
    rollups: int = 0
    decrypted: int = 0
    shown: int = 0
    withheld: int = 0
    largest: int = 0
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    rings: Counter[str] = field(default_factory=Counter)
    strays: dict[str, float] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Whether nothing was refused or wrong, and nothing came near the tolerance."""
        return not self.refused and not self.wrong and max(self.strays.values()) < 0.5

    def record(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return {
            "totals": self.totals,
            "rollups": self.rollups,
            "decrypted": self.decrypted,
            "refused": self.refused[:20],
            "wrong": self.wrong[:20],
            "largest_total_meters": self.largest,
            "intervals_shown": self.shown,
            "intervals_withheld": self.withheld,
            "totals_by_ring": dict(self.rings),
            "worst_stray_by_tolerance": {ring: round(stray, 4) for ring, stray in self.strays.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A leaf part: its members, and their sum."""

    group: str
    number: int
    meters: Sequence[str]
    ciphertext: bytes
    sums: NDArray[np.int64]


class _Try:
    """The totals of one window in one copy of the home."""

    def __init__(self, world: HonestWorld, authority: AuthorityHome, rng: np.random.Generator) -> None:
        self._world, self._authority, self._rng = world, authority, rng
        self.expected: dict[TotalKey, NDArray[np.int64]] = {}
        self.stages: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])  # leaves, regions, grid

    def make(self) -> None:
        """Change the roster, and make all totals."""
        world, rng = self._world, self._rng
        usual = [group for group in world.groups if "small" not in group]
        chosen = set(rng.choice(usual, min(_GROUPS_A_TRY, len(usual)), replace=False))
        chosen |= {group for group in world.groups if "small" in group}
        absent = self._change_roster(chosen) if rng.random() < 0.5 else set()
        self._roster = self._authority.enrolment.version
        opened: list[_Part] = []
        others: list[_Part] = []
        for group in sorted(chosen):
            meters = [meter for meter in world.groups[group] if meter not in absent]
            for part in self._parts(group, meters):
                alone = part.number == 0 and len(part.meters) >= world.plan.minimum_meters
                (opened if alone else others).append(part)
        for part in opened:
            self._add(part.group, [], [part])
        # Sometimes all pieces of the roll-ups were opened: the others stay out, as if they came too late.
        listed = others if rng.random() < 0.8 else []
        for group in ("north", "south", ROOT_GROUP):
            self._add(group, _within(group, opened), _within(group, listed))

    def _change_roster(self, groups: Iterable[str]) -> set[str]:
        """Move, revoke and enrol meters; their batches of the window were sent before. Returns newcomers."""
        enrolment, rng = self._authority.enrolment, self._rng
        order = sorted(groups)
        for group in rng.choice(order, 3, replace=False):
            meter = str(rng.choice(self._world.groups[group]))
            other = str(rng.choice([each for each in order if each != group]))
            if rng.random() < 0.5:
                enrolment.enrol_meters([(meter, other)], from_s=1, move=True)
            else:
                enrolment.revoke([meter])
        newcomer = f"{order[0].replace('/', '-')}-a-newcomer"  # the first in its group's list
        enrolment.enrol_meters([(newcomer, order[0])], from_s=1)
        return {newcomer}

    def _parts(self, group: str, meters: Sequence[str]) -> list[_Part]:
        """Part 0, and a late part of some of the meters that are not in it."""
        rng = self._rng
        if "small" in group:
            return [self._part(group, 0, meters)]
        missing = int(rng.integers(0, max(1, len(meters) - max(5, len(meters) * 2 // 3)) + 1))
        order = list(rng.permutation(meters))
        parts = [self._part(group, 0, order[missing:])]
        late = int(rng.integers(0, missing + 1))
        return [*parts, self._part(group, 1, order[:late])] if late else parts

    def _part(self, group: str, number: int, meters: Sequence[str]) -> _Part:
        batches = [self._world.batches[meter] for meter in meters]
        used = self._world.plan.layout.used
        return _Part(
            group=group,
            number=number,
            meters=tuple(meters),
            ciphertext=folded(self._world.plan, (batch.ciphertext for batch in batches)),
            sums=np.sum([batch.slots[:used] for batch in batches], 0),
        )

    def _add(self, group: str, opened: Sequence[_Part], listed: Sequence[_Part]) -> None:
        """Add a total of parts whose own totals were opened, and of parts that bring their lists."""
        world = self._world
        if not opened and not listed:
            return
        total = Accumulator(world.planes)
        for part in (*opened, *listed):
            total.fold(world.planes.views(part.ciphertext))
        pieces = [Piece(part.group, part.number, len(part.meters)) for part in opened]
        pieces += [self._with_list(part) for part in listed]
        stage = 2 if group == ROOT_GROUP else 0 if "/" in group else 1
        self.stages[stage].append(
            signed_total(
                world.plan,
                world.signer,
                sorted(pieces),
                total.pack(),
                group=group,
                window=WINDOW,
                roster=self._roster,
            )
        )
        key = TotalKey(world.plan.plan_id, group, WINDOW, 0)
        self.expected[key] = np.sum([part.sums for part in (*opened, *listed)], 0)

    def _with_list(self, part: _Part) -> Piece:
        meters = self._authority.enrolment.group_meters(part.group, self._roster)
        proofs = {meter: self._world.batches[meter].proof for meter in part.meters}
        return Piece(part.group, part.number, len(part.meters), member_list(meters, proofs))


def _within(group: str, parts: Sequence[_Part]) -> list[_Part]:
    return [part for part in parts if group == ROOT_GROUP or part.group.startswith(f"{group}/")]


def _one_try(world: HonestWorld, folder: Path, rng: np.random.Generator, figures: Figures) -> None:
    shutil.copytree(world.home.paths.home, folder)
    authority = AuthorityHome(folder, world.home.vault)
    try:
        honest = _Try(world, authority, rng)
        honest.make()
        outcomes: list[ReleaseOutcome] = []
        with ReleaseService(authority, world.settings, emit=lambda outcome: None) as service:
            for (
                stage
            ) in honest.stages:  # the aggregator closes a wider group when the narrower ones are stored
                service._inbox.store(
                    [(open_total(each, len(each)).header, each) for each in stage], _RECEIVED
                )
                outcomes += service.offline()
    finally:
        authority.close()
        shutil.rmtree(folder)
    if len(outcomes) != len(honest.expected):
        figures.refused.append(f"{len(honest.expected)} totals, {len(outcomes)} outcomes")
    for outcome in outcomes:
        _compare(world.plan, outcome, honest.expected[outcome.stored.total], figures)


def _compare(plan: Plan, outcome: ReleaseOutcome, expected: NDArray[np.int64], figures: Figures) -> None:
    stored = outcome.stored
    figures.totals += 1
    figures.rings[str(plan.parameters)] += 1
    figures.rollups += "/" not in stored.group
    figures.largest = max(figures.largest, stored.meters)
    if outcome.record is None:
        figures.refused.append(f"{plan.parameters}, {stored.total}: {outcome.message}")
        return
    slots, shown, reasons = released_slots(plan, outcome.record)
    if (slots[shown] != expected[shown]).any() or reasons - {"isolates"}:
        figures.wrong.append(f"{plan.parameters}, {stored.total}: {sorted(reasons)}")
    present = np.concatenate(
        [np.arange(plan.layout.used)[plan.layout.block(q.name, "present")] for q in plan.quantities]
    )
    figures.shown += int(shown[present].sum())
    figures.withheld += int((~shown[present]).sum())


def measure(count: int, seed: int, *, worlds: Sequence[WorldOptions] = WORLDS) -> Figures:
    """Make at least `count` honest totals, evenly over the worlds, and release them."""
    rng, figures = np.random.default_rng(seed), Figures()
    original = Decryptor.check

    def watched(self: Decryptor, slots: NDArray[np.complex128], *, window: int, sums: GuardSums) -> None:
        off = max(np.abs(slots.real - np.rint(slots.real)).max(), np.abs(slots.imag).max())
        ring = str(self.plan.parameters)
        stray = float(off / grid_tolerance(self.plan, sums.meters))
        figures.strays[ring] = max(figures.strays.get(ring, 0.0), stray)
        figures.decrypted += 1
        original(self, slots, window=window, sums=sums)

    with patch.object(Decryptor, "check", watched):
        for number, options in enumerate(worlds, 1):
            with tempfile.TemporaryDirectory() as folder:
                world = HonestWorld(Path(folder), options, rng)
                while figures.totals < count * number // len(worlds):
                    _one_try(world, Path(folder) / "try", rng, figures)
                world.close()
    return figures


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    figures = measure(options.count, options.seed)
    print(json.dumps(figures.record(), indent=1))
    return 0 if figures.fine else 1


if __name__ == "__main__":
    sys.exit(main())
