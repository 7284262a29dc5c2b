"""Naming the meter that spoilt a total, out of what is wrong in its guards."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gridhe.config.settings import Settings
from gridhe.keyring.release.suspects import Candidate, Finding, Suspect, find_suspects
from gridhe.plan.guards import Guards, guard_key, home_key
from gridhe.plan.plan import TAGS
from gridhe.plan.planner import choose, make_plan
from gridhe.plan.slots import MISSING

SECRET = bytes(range(32))
WINDOW = 20_000
TRIALS = 20


@dataclass
class Fleet:
    """Meters of the default plan, as slots: a total of plain sums is enough to find a suspect in."""

    guards: Guards
    slots: NDArray[np.int64]  # int64[meters][N/2]
    candidates: list[Candidate]

    def seal(self, meter: int, window: int) -> tuple[NDArray[np.int64], bytes]:
        key = guard_key(SECRET, f"m{meter:04}")
        used = self.slots[meter][: self.guards.plan.layout.used]
        return self.guards.fill(window, used, guard_key=key, home_key=home_key(SECRET))

    def find(self, members: NDArray[np.int64], change: "Change", *, known: tuple[int, ...] = ()) -> Finding:
        """The suspects if the members' total has `change` added to what their proofs say."""
        plan, wrong = self.guards.plan, change.wrong
        layout = plan.layout
        present = np.stack([wrong[: layout.used][layout.block(q.name, "present")] for q in plan.quantities])
        candidates = [
            replace(self.candidates[i], proof=change.proofs.get(i, self.candidates[i].proof)) for i in members
        ]
        candidates += [replace(self.candidates[i], member=False) for i in known]
        return find_suspects(self.guards, WINDOW, wrong[layout.used : -TAGS], present, candidates)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    plan = make_plan(Settings(), choose(Settings()), authority="a" * 17, key_id="k" * 17, first_window=0)
    guards, rng = Guards(plan), np.random.default_rng(3)
    fleet = Fleet(guards, np.zeros((1_001, plan.parameters.slots), np.int64), [])
    for meter in range(1_001):
        readings = rng.integers(0, 20_001, plan.intervals)
        readings[rng.random(plan.intervals) < 0.1] = MISSING
        fleet.slots[meter][: plan.layout.used] = plan.layout.encode({"import_wh": readings})
        fleet.slots[meter], proof = fleet.seal(meter, WINDOW)
        name = f"m{meter:04}"
        fleet.candidates.append(
            Candidate(meter=name, group="north/f1", guard_key=guard_key(SECRET, name), proof=proof)
        )
    return fleet


@dataclass
class Change:
    """`wrong`: the total's slots less the expected ones, int64[N/2]; `proofs`: other proofs by meter."""

    wrong: NDArray[np.int64]
    proofs: dict[int, bytes] = field(default_factory=dict)

    def __add__(self, other: "Change") -> "Change":
        return Change(self.wrong + other.wrong, self.proofs | other.proofs)


Fault = Callable[[Fleet, int, int], Change]


def left_out(fleet: Fleet, who: int, meters: int) -> Change:
    return Change(-fleet.slots[who])


def without_guards(fleet: Fleet, who: int, meters: int) -> Change:
    wrong = -fleet.slots[who]
    wrong[: fleet.guards.plan.layout.used] = 0
    return Change(wrong)


def other_window(fleet: Fleet, who: int, meters: int, away: int = -1) -> Change:
    """Slots and proof of another window; the authority expects what that proof says in this window."""
    wrong, proof = fleet.seal(who, WINDOW + away)
    layout = fleet.guards.plan.layout
    proven = fleet.guards.prove(WINDOW, proof, fleet.candidates[who].guard_key)
    wrong[layout.used :] -= proven.guards
    present = layout.block("import_wh", "present")
    wrong[: layout.used][present] -= proven.present[0]
    return Change(wrong, {who: proof})


def repeated(fleet: Fleet, who: int, meters: int) -> Change:
    return Change((meters - 1) * fleet.slots[who])


def replaced(fleet: Fleet, who: int, meters: int) -> Change:
    """A batch of this meter's name that was made with another authority's guard key."""
    used = fleet.slots[who][: fleet.guards.plan.layout.used]
    foreign = fleet.guards.fill(WINDOW, used, guard_key=bytes(32), home_key=home_key(SECRET))[0]
    return Change(foreign - fleet.slots[who])


def earlier_batch(fleet: Fleet, who: int, meters: int) -> Change:
    """The batch of the window before in place of this window's, listed with this window's proof."""
    return Change(fleet.seal(who, WINDOW - 1)[0] - fleet.slots[who])


@pytest.mark.parametrize("meters", [5, 25, 1_000])
@pytest.mark.parametrize("fault", [left_out, without_guards, other_window, repeated, replaced, earlier_batch])
def test_a_meter_at_fault_is_named_with_its_fault_20_times_of_20(
    fleet: Fleet, fault: Fault, meters: int
) -> None:
    rng, right = np.random.default_rng(meters), 0
    honest = fault in (without_guards, other_window)
    name = "replaced" if fault is earlier_batch else fault.__name__
    for _ in range(TRIALS):
        members = rng.choice(1_001, meters, replace=False)
        who = int(rng.choice(members))
        finding = fleet.find(members, fault(fleet, who, meters))
        expected = Suspect(meter=f"m{who:04}", group="north/f1", fault=name)
        right += finding == Finding(suspects=(expected,), honest=honest)
    assert right == TRIALS


@pytest.mark.parametrize("away", [-64, -7, 1, 64])
def test_a_clock_that_is_windows_away_is_named(fleet: Fleet, away: int) -> None:
    finding = fleet.find(np.arange(25), other_window(fleet, 7, 25, away))
    assert finding == Finding(
        suspects=(Suspect(meter="m0007", group="north/f1", fault="other_window"),), honest=True
    )


@pytest.mark.parametrize("meters", [5, 25, 1_000])
def test_a_batch_of_no_member_is_named_if_its_proof_is_known(fleet: Fleet, meters: int) -> None:
    rng, right, unknown = np.random.default_rng(meters), 0, 0
    for _ in range(TRIALS):
        *members, who = map(int, rng.choice(1_001, meters + 1, replace=False))
        change = Change(fleet.slots[who])
        finding = fleet.find(np.array(members), change, known=(who,))
        right += finding.suspects == (Suspect(meter=f"m{who:04}", group="north/f1", fault="not_claimed"),)
        assert not finding.honest
        unknown += fleet.find(np.array(members), change) == Finding()
    assert (right, unknown) == (TRIALS, TRIALS)


@pytest.mark.parametrize("meters", [5, 25, 1_000])
def test_a_rogue_that_adds_errors_to_its_own_guards_names_nobody(fleet: Fleet, meters: int) -> None:
    rng = np.random.default_rng(meters)
    for _ in range(TRIALS):
        change = np.zeros(fleet.slots.shape[1], np.int64)
        change[fleet.guards.plan.layout.used :] = rng.integers(-999, 1_000, fleet.guards.plan.guards)
        assert fleet.find(rng.choice(1_001, meters, replace=False), Change(change)) == Finding()


@pytest.mark.parametrize("count", [2, 8, 20])
def test_several_meters_at_fault_at_once_are_all_named(fleet: Fleet, count: int) -> None:
    members = np.arange(500)
    who = np.random.default_rng(count).choice(members, count, replace=False)
    faults = [without_guards if i % 2 else other_window for i in range(count)]
    change = Change(np.zeros(fleet.slots.shape[1], np.int64))
    for fault, each in zip(faults, who, strict=True):
        change += fault(fleet, int(each), 500)
    finding = fleet.find(members, change)
    assert finding.honest
    assert {(each.meter, each.fault) for each in finding.suspects} == {
        (f"m{each:04}", fault.__name__) for fault, each in zip(faults, who, strict=True)
    }


def test_repro_an_attack_beside_a_faulty_meter_is_no_honest_fault(fleet: Fleet) -> None:
    """A rogue meter must not get its victim excluded, nor its failure excused, by company."""
    members = np.arange(25)
    for attack in (repeated, left_out, replaced, earlier_batch):
        finding = fleet.find(members, without_guards(fleet, 3, 25) + attack(fleet, 4, 25))
        assert not finding.honest
        assert {each.meter for each in finding.suspects} == {"m0003", "m0004"}
    noise = np.zeros(fleet.slots.shape[1], np.int64)
    noise[-TAGS - 1] = 1  # one guard of 1,592 is off by one
    assert not fleet.find(members, without_guards(fleet, 3, 25) + Change(noise)).honest


def test_errors_outside_the_guards_and_absurd_ones_name_nobody(fleet: Fleet) -> None:
    members, slots = np.arange(5), fleet.slots.shape[1]
    change = np.zeros(slots, np.int64)
    change[:10] = 1
    change[-TAGS:] = 7
    assert fleet.find(members, Change(change)) == Finding()
    assert fleet.find(members, Change(np.full(slots, 2**62))) == Finding()
    assert fleet.find(members, Change(np.full(slots, 3))) == Finding()


def test_a_batch_without_readings_and_guards_counts_as_left_out(fleet: Fleet) -> None:
    """Nothing in the total shows that it arrived, so its meter is not excluded for it."""
    plan = fleet.guards.plan
    empty = np.zeros(plan.layout.used, np.int64)
    key = fleet.candidates[0].guard_key
    slots, proof = fleet.guards.fill(WINDOW, empty, guard_key=key, home_key=home_key(SECRET))
    candidate = Candidate(meter="m0000", group="north/f1", guard_key=key, proof=proof)
    present = np.zeros((1, plan.intervals), np.int64)
    finding = find_suspects(fleet.guards, WINDOW, -slots[plan.layout.used : -TAGS], present, [candidate])
    assert finding == Finding(suspects=(Suspect(meter="m0000", group="north/f1", fault="left_out"),))
