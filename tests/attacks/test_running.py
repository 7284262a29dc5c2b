"""The known attacks on a household, against running processes: a broker, an aggregator and the authority.

The victim's ciphertext comes from the aggregator's operator: envelopes are encrypted to the aggregator, so
the broker's operator has none. With `unchecked` the authority leaves out the checks that are named, to show
that the attack works without them.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from gridhe_testing.forgeries.attack import Attack, Forged
from gridhe_testing.forgeries.running import RunningGrid, running_grid
from gridhe_testing.forgeries.table import FORGERIES
from gridhe_testing.released import released_slots

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

Start = Callable[..., RunningGrid]


@pytest.fixture
def start(tmp_path: Path, mosquitto: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running_grid(tmp_path, mosquitto, **options))


def named(name: str) -> Callable[[Attack], Forged]:
    [forgery] = [each for each in FORGERIES if each.name == name]
    return forgery.make


def five_thousand_times(attack: Attack) -> Forged:
    """The others use less than 5,001 Wh together: the victim's reading is the sum divided by 5,001."""
    target, factor = attack.target, 5_000
    fewer = attack.numbers(attack.block("present"), -factor)
    total = attack.ring.sum(
        target.whole, attack.ring.scaled(target.victim.residues, factor), attack.adding(fewer)
    )
    return attack.claiming(total, target.sums + factor * target.victim.used + fewer)


def check_nothing_of_the_victim(grid: RunningGrid) -> None:
    """The honest group was released, exactly; nothing has numbers of the attacked one."""
    for line in grid.lines():
        assert line["group"] in ("north/k6", "north", "grid"), line
        slots, shown, _ = released_slots(grid.targets.plan, line)
        assert shown.any()
        assert (slots[shown] == grid.honest.sums[shown]).all(), line


def run_through_the_aggregator(grid: RunningGrid, make: Callable[[Attack], Forged]) -> None:
    grid.send_batches(grid.target, without=grid.target.rogue.meter)
    grid.send_forged_batch(make(grid.attack))
    grid.send_batches(grid.honest)


BATCHES = [
    ("5,000 times the victim", five_thousand_times, "guards"),
    ("present = 4 for absent meters", named("rogue meter says present = minimum - 1"), "presence"),
    ("(0, D) on the readings", named("(0, D): D = 1000 in 24 data slots"), "off_grid"),
]


@pytest.mark.parametrize(("make", "check"), [pytest.param(*each[1:], id=each[0]) for each in BATCHES])
def test_repro_a_rogue_meters_batch(start: Start, make: Callable[[Attack], Forged], check: str) -> None:
    grid = start(aggregate=True)
    run_through_the_aggregator(grid, make)
    grid.until(lambda: bool(grid.ledger("unsound")) and {"north/k6", "north", "grid"} <= grid.groups())
    check_nothing_of_the_victim(grid)
    [line] = grid.ledger("unsound")
    assert (line["group"], line["check"]) == ("north/k5", check)


def shown_readings(grid: RunningGrid) -> tuple[np.ndarray, np.ndarray]:
    """The victim's group: released readings int64[intervals], and which of them were not withheld."""
    [line] = [line for line in grid.lines() if line["group"] == "north/k5"]
    slots, shown, _ = released_slots(grid.targets.plan, line)
    block = grid.attack.block("reading")
    return slots[block], shown[block]


def victims_readings(grid: RunningGrid) -> np.ndarray:
    return grid.target.victim.used[grid.attack.block("reading")]


def test_without_the_checks_five_thousand_times_the_victim_shows_its_readings(start: Start) -> None:
    grid = start(aggregate=True, unchecked="off_grid guards tags presence range inconsistent")
    run_through_the_aggregator(grid, five_thousand_times)
    grid.until(lambda: "north/k5" in grid.groups())
    readings, shown = shown_readings(grid)
    assert shown[:-1].all()  # the last interval is that of the power cut
    assert (readings[shown] // 5_001 == victims_readings(grid)[shown]).all()


def test_without_the_check_present_4_shows_the_one_household_with_power(start: Start) -> None:
    grid = start(aggregate=True, unchecked="presence")
    run_through_the_aggregator(grid, named("rogue meter says present = minimum - 1"))
    grid.until(lambda: "north/k5" in grid.groups())
    readings, shown = shown_readings(grid)
    cut = grid.targets.cut
    assert shown[cut].all()
    assert (readings[cut] == victims_readings(grid)[cut]).all()


def test_without_the_checks_a_probe_reads_the_secret_key(start: Start) -> None:
    grid = start(aggregate=True, unchecked="off_grid guards tags presence range inconsistent")
    run_through_the_aggregator(grid, named("(0, D): D = 1000 in 24 data slots"))
    grid.until(lambda: "north/k5" in grid.groups())
    readings, shown = shown_readings(grid)
    roots = readings - grid.target.sums[grid.attack.block("reading")]
    assert (np.abs(roots[shown]) > 0).all()  # 1000 x the real part of the key at these roots
    assert (np.abs(roots[shown]) < 1000 * grid.attack.ring.n).all()


def alone(attack: Attack) -> Forged:
    return named("victim alone, present += K - 1")(attack)


def test_repro_an_aggregator_alone_signs_one_household_as_five(start: Start) -> None:
    grid = start(aggregate=False)
    total = grid.targets.total
    grid.send_total(grid.target, total(grid.target, alone(grid.attack).residues))
    grid.send_total(grid.honest, total(grid.honest, grid.honest.whole))
    grid.until(lambda: bool(grid.ledger("unsound")) and "north/k6" in grid.groups())
    check_nothing_of_the_victim(grid)
    [line] = grid.ledger("unsound")
    assert (line["group"], line["check"]) == ("north/k5", "guards")


def test_without_the_checks_an_aggregator_alone_reads_one_household(start: Start) -> None:
    grid = start(aggregate=False, unchecked="guards tags presence")
    grid.send_total(grid.target, grid.targets.total(grid.target, alone(grid.attack).residues))
    grid.until(lambda: "north/k5" in grid.groups())
    readings, shown = shown_readings(grid)
    assert shown.all()
    assert (readings == victims_readings(grid)).all()


@pytest.mark.parametrize(
    ("part", "rule"), [(0, "changed_members"), (1, "members_twice")], ids=["the same part", "another part"]
)
def test_repro_two_honest_aggregators_with_different_members(start: Start, part: int, rule: str) -> None:
    grid = start(aggregate=False)
    target, targets = grid.target, grid.targets
    grid.send_total(target, targets.total(target, target.whole))
    grid.until(lambda: "north/k5" in grid.groups())
    grid.send_total(target, swapped(grid, part), aggregator="second")
    grid.until(lambda: bool(grid.ledger("refused")))
    [line] = grid.ledger("refused")
    assert (line["group"], line["part"], line["rule"]) == ("north/k5", part, rule)
    [released] = grid.lines()
    slots, shown, _ = released_slots(targets.plan, released)
    assert (slots[shown] == target.sums[shown]).all()


def test_without_member_lists_two_aggregators_show_the_difference_of_two_households(start: Start) -> None:
    grid = start(aggregate=False, unchecked="lists")
    target, targets = grid.target, grid.targets
    grid.send_total(target, targets.total(target, target.whole))
    grid.send_total(target, swapped(grid, 1), aggregator="second")
    grid.until(lambda: len(grid.lines()) == 2)
    [one, other] = [released_slots(targets.plan, line) for line in sorted(grid.lines(), key=json.dumps)]
    both = one[1] & other[1]
    difference = target.outsider.used - target.other.used
    assert both.any()
    assert (np.abs(other[0] - one[0])[both] == np.abs(difference)[both]).all()


def swapped(grid: RunningGrid, part: int) -> bytes:
    """The total of an aggregator that has the outsider's batch and not the other meter's; all honest."""
    target = grid.target
    proofs = {meter: proof for meter, proof in target.proofs.items() if meter != target.other.meter}
    proofs[target.outsider.meter] = target.outsider.proof
    residues = grid.attack.instead(target.other.residues, target.outsider.residues)
    return grid.targets.total(target, residues, proofs, part=part, aggregator="second")
