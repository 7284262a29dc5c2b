"""Forged totals against the release path: each is refused, and each check is needed.

For each forgery and each number of meters: the authority refuses it as `unsound`, and its ledger names a
check that the table lists. With only one of the listed checks it is refused by that check. Without any of
them it is opened, and what comes out is what the forger has computed. (Many forgeries would still be noticed
by the contradictions in their numbers, `inconsistent`, which withholds single intervals.)
"""

from pathlib import Path

import numpy as np
import pytest

from gridhe_testing.forgeries.attack import Attack, Forged
from gridhe_testing.forgeries.mutants import unchecked
from gridhe_testing.forgeries.table import CHECKS, FORGERIES, Forgery
from gridhe_testing.forgeries.targets import NAME, SIZES, Target, Targets
from gridhe_testing.forgeries.trial import Verdict, try_totals
from gridhe_testing.released import released_slots

REFUSED = [each for each in FORGERIES if each.checks]
ACCEPTED = [each for each in FORGERIES if not each.checks]
by_size = pytest.mark.parametrize("size", SIZES)


def by_forgery(forgeries: list[Forgery]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("forgery", [pytest.param(each, id=each.name) for each in forgeries])


def named(name: str) -> Forgery:
    [forgery] = [each for each in FORGERIES if each.name == name]
    return forgery


def forge(targets: Targets, size: int, forgery: Forgery) -> Forged:
    return forgery.make(Attack(targets, targets.targets[size]))


def verdict_on(targets: Targets, size: int, forged: Forged, folder: Path, *left_out: str) -> Verdict:
    """The verdict on a forged total if the authority leaves out these checks."""
    total = targets.total(targets.targets[size], forged.residues, dict(forged.proofs))
    with unchecked(*left_out):
        [verdict] = try_totals(targets, folder / "home", total)
    return verdict


@by_size
@by_forgery(REFUSED)
def test_repro_a_forged_total_is_refused(
    targets: Targets, tmp_path: Path, forgery: Forgery, size: int
) -> None:
    verdict = verdict_on(targets, size, forge(targets, size, forgery), tmp_path)
    assert (verdict.rule, verdict.record) == ("unsound", None)
    assert verdict.check in forgery.checks


# One size for each check alone: the sizes differ in the tolerance, and `make hostile` runs them all.
@pytest.mark.parametrize(
    ("forgery", "check"),
    [pytest.param(each, check, id=f"{each.name}: {check}") for each in REFUSED for check in each.checks],
)
def test_each_check_alone_refuses_it(targets: Targets, tmp_path: Path, forgery: Forgery, check: str) -> None:
    others = [each for each in CHECKS if each != check]
    verdict = verdict_on(targets, SIZES[0], forge(targets, SIZES[0], forgery), tmp_path, *others)
    assert (verdict.rule, verdict.check) == ("unsound", check)


@by_size
@by_forgery(REFUSED)
def test_without_the_checks_it_is_opened(
    targets: Targets, tmp_path: Path, forgery: Forgery, size: int
) -> None:
    forged = forge(targets, size, forgery)
    verdict = verdict_on(targets, size, forged, tmp_path, *CHECKS, "inconsistent")
    assert verdict.record is not None
    slots, shown, _ = released_slots(targets.plan, verdict.record)
    if forged.opened is None:  # what comes out depends on the secret key, or is garbage
        # A sixteenth of the key's value at one root rounds to 0 under some keys: then nothing came out.
        small = forgery.name == "(0, D): D = 1/16 in one data slot"
        assert small or (slots != targets.targets[size].sums)[shown].any()
        return
    assert (slots[shown] == forged.opened[shown]).all()
    present = forged.opened[targets.plan.layout.block(NAME, "present")]
    assert shown.any() or (present < targets.plan.minimum_meters).all()  # the policy withholds so few


def readings_of(targets: Targets, size: int, verdict: Verdict) -> tuple[np.ndarray, np.ndarray]:
    """The released readings int64[intervals], and the victim's; each must have been released."""
    assert verdict.record is not None
    slots, shown, _ = released_slots(targets.plan, verdict.record)
    block = targets.plan.layout.block(NAME, "reading")
    assert shown[block].all()
    return slots[block], targets.targets[size].victim.used[block]


@by_size
def test_without_the_checks_the_victim_alone_is_read_exactly(
    targets: Targets, tmp_path: Path, size: int
) -> None:
    forged = forge(targets, size, named("victim alone, present += K - 1"))
    verdict = verdict_on(targets, size, forged, tmp_path, "guards", "tags", "presence")
    readings, victim = readings_of(targets, size, verdict)
    assert (readings == victim).all()


@by_size
@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("victim and absent meters, present mended", "presence"),
        ("rogue meter says present = minimum - 1", "presence"),
        ("members' sealed presence changed", "guards tags"),
    ],
)
def test_without_the_checks_the_one_household_with_power_is_read_exactly(
    targets: Targets, tmp_path: Path, size: int, name: str, left_out: str
) -> None:
    forged = forge(targets, size, named(name))
    verdict = verdict_on(targets, size, forged, tmp_path, *left_out.split())
    readings, victim = readings_of(targets, size, verdict)
    assert (readings[targets.cut] == victim[targets.cut]).all()


@by_size
@by_forgery(ACCEPTED)
def test_a_lie_about_the_sum_is_accepted_and_shows_no_household(
    targets: Targets, tmp_path: Path, forgery: Forgery, size: int
) -> None:
    """Not promised (docs/proven-totals.md): what comes out is the sum, and a number that the forger knows."""
    forged = forge(targets, size, forgery)
    verdict = verdict_on(targets, size, forged, tmp_path)
    assert verdict.record is not None
    slots, shown, _ = released_slots(targets.plan, verdict.record)
    assert forged.opened is not None
    assert (slots[shown] == forged.opened[shown]).all()


# -- member lists --------------------------------------------------------------------------------


def total_of(targets: Targets, target: Target, *meters: str, part: int = 0) -> bytes:
    """A good total: the target's members, with these outsiders in place of as many members."""
    attack = Attack(targets, target)
    proofs, residues = dict(target.proofs), target.whole
    for meter in meters:
        assert meter == target.outsider.meter
        del proofs[target.other.meter]
        proofs[meter] = target.outsider.proof
        residues = attack.instead(target.other.residues, target.outsider.residues)
    return targets.total(target, residues, proofs, part=part, aggregator="second" if meters else "main")


@by_size
@pytest.mark.parametrize(("part", "rule"), [(0, "changed_members"), (1, "members_twice")])
def test_repro_two_aggregators_with_different_members(
    targets: Targets, tmp_path: Path, size: int, part: int, rule: str
) -> None:
    target = targets.targets[size]
    first = total_of(targets, target)
    second = total_of(targets, target, target.outsider.meter, part=part)
    one, other = try_totals(targets, tmp_path / "home", first, second)
    assert one.record is not None
    assert (other.rule, other.record) == (rule, None)
    assert other.check == ""  # it was not decrypted


@by_size
def test_without_lists_their_difference_is_that_of_two_households(
    targets: Targets, tmp_path: Path, size: int
) -> None:
    target = targets.targets[size]
    first = total_of(targets, target)
    second = total_of(targets, target, target.outsider.meter, part=1)
    with unchecked("lists"):
        verdicts = try_totals(targets, tmp_path / "home", first, second)
    pairs = [released_slots(targets.plan, each.record or {})[:2] for each in verdicts]
    shown = pairs[0][1] & pairs[1][1]
    assert shown.any()
    difference = pairs[1][0] - pairs[0][0]
    assert (difference[shown] == (target.outsider.used - target.other.used)[shown]).all()


@by_size
def test_an_honest_total_is_released_exactly(targets: Targets, tmp_path: Path, size: int) -> None:
    target = targets.targets[size]
    [verdict] = try_totals(targets, tmp_path / "home", targets.total(target, target.whole))
    assert verdict.record is not None
    slots, shown, reasons = released_slots(targets.plan, verdict.record)
    assert shown.any()
    assert (slots[shown] == target.sums[shown]).all()
    assert reasons == {"isolates"}  # the power cut: one household has readings
