"""The release policy: each rule, and the isolation rule against brute force over exact arithmetic."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridhe.errors import ReleaseRefused
from gridhe.keyring.release.policy import RULES, Claim, ReleasePolicy
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity

PLAN = Plan(
    authority="a0123456789abcdef",
    key_id="k0123456789abcdef",
    first_window=10,
    window_s=3600,
    interval_s=900,
    quantities=(Quantity(name="import_wh", unit="Wh", largest=1000, statistics=("sum",)),),
    largest_group=100,
    largest_rollup=100,
    minimum_meters=5,
    grace_s=0.0,
    late_s=0.0,
    early_s=0.0,
    horizon_s=0.0,
    parameters=CkksParameters(2048, (40, 14)),
    scale_bits=20,
    flooding_bits=0,
    decryptions=1000,
    guard_bits=14,
)
PLANS = {PLAN.plan_id: PLAN}


def claim(
    group: str, *pieces: tuple[str, int, int], part: int = 0, window: int = 20, content: bytes = b""
) -> Claim:
    named = pieces or ((group, part, 5),)
    return Claim(
        plan=PLAN.plan_id,
        key=PLAN.key_id,
        aggregator="agg",
        group=group,
        window=window,
        part=part,
        meters=sum(meters for _, _, meters in named),
        members=(b"",) * len(named),
        pieces=named,
        content=content or repr(sorted(named)).encode(),
    )


def refusal(policy: ReleasePolicy, wanted: Claim, plan: Plan | None = PLAN, *, key_held: bool = True) -> str:
    with pytest.raises(ReleaseRefused) as caught:
        policy.decide(wanted, plan, key_held=key_held)
    assert caught.value.rule in RULES
    assert caught.value.exit_code == 8
    return caught.value.rule


def allow(policy: ReleasePolicy, wanted: Claim) -> None:
    assert policy.decide(wanted, PLAN, key_held=True)
    policy.record(wanted)


def test_a_plain_total_is_let_through_once_and_then_known() -> None:
    policy = ReleasePolicy(plans=PLANS)
    wanted = claim("north/f1", ("north/f1", 0, 25))
    allow(policy, wanted)
    assert policy.decide(wanted, PLAN, key_held=True) is False
    assert policy.used(PLAN.key_id) == 1
    # The answer is stored, so neither plan nor key are needed to say it again.
    assert policy.decide(wanted, None, key_held=False) is False


def test_unknown_plans_and_windows_before_the_first_are_refused() -> None:
    assert refusal(ReleasePolicy(plans=PLANS), claim("f1"), None) == "plan"
    assert refusal(ReleasePolicy(plans=PLANS), claim("f1"), replace(PLAN, grace_s=1.0)) == "plan"
    assert refusal(ReleasePolicy(plans=PLANS), claim("f1", window=9)) == "plan"


def test_a_window_that_ends_after_its_plan_is_refused() -> None:
    later = replace(PLAN, first_window=30)
    policy = ReleasePolicy(plans={**PLANS, later.plan_id: later})
    allow(policy, claim("f1", window=29))
    assert refusal(policy, claim("f1", window=30)) == "after_plan"
    # Half a window of the later plan's would be enough.
    halves = replace(PLAN, window_s=1_800, first_window=59)
    assert refusal(ReleasePolicy(plans={halves.plan_id: halves}), claim("f1", window=29)) == "after_plan"


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 60), st.integers(1, 60))
def test_for_any_moment_only_totals_of_one_plan_are_released(
    one_s: int, other_s: int, one_window: int, other_window: int
) -> None:
    """A later plan over windows that were released already, against brute force over seconds."""
    one = replace(PLAN, window_s=one_s, interval_s=one_s, first_window=0)
    other = replace(PLAN, window_s=other_s, interval_s=other_s, first_window=other_window)
    plans = {one.plan_id: one}
    policy = ReleasePolicy(plans=plans)
    first = replace(claim("f1", window=one_window), plan=one.plan_id)
    assert policy.decide(first, one, key_held=True)
    policy.record(first)
    plans[other.plan_id] = other
    second = replace(claim("f2", window=other_window), plan=other.plan_id)
    moments = set(range(one_window * one_s, (one_window + 1) * one_s))
    if moments.isdisjoint(range(other_window * other_s, (other_window + 1) * other_s)):
        assert policy.decide(second, other, key_held=True)
    else:
        assert refusal(policy, second, other) == "two_plans"


def test_a_retired_or_a_foreign_key_is_refused() -> None:
    assert refusal(ReleasePolicy(plans=PLANS), claim("f1"), key_held=False) == "key"
    assert refusal(ReleasePolicy(plans=PLANS), replace(claim("f1"), key="k" + "f" * 16)) == "key"


def test_fewer_meters_than_the_minimum_are_refused_and_settings_can_only_be_stricter() -> None:
    assert refusal(ReleasePolicy(plans=PLANS), claim("f1", ("f1", 0, 4))) == "minimum"
    assert refusal(ReleasePolicy(plans=PLANS, minimum_meters=2), claim("f1", ("f1", 0, 4))) == "minimum"
    assert refusal(ReleasePolicy(plans=PLANS, minimum_meters=6), claim("f1", ("f1", 0, 5))) == "minimum"
    allow(ReleasePolicy(plans=PLANS, minimum_meters=2), claim("f1", ("f1", 0, 5)))


def test_more_meters_than_the_plan_sums_exactly_are_refused() -> None:
    allow(ReleasePolicy(plans=PLANS), claim("f1", ("f1", 0, 100)))
    assert refusal(ReleasePolicy(plans=PLANS), claim("f1", ("f1", 0, 101))) == "capacity"


def test_pieces_must_add_up_lie_beneath_the_group_and_agree_with_earlier_ones() -> None:
    policy = ReleasePolicy(plans=PLANS)
    assert refusal(policy, replace(claim("f1", ("f1", 0, 25)), meters=26)) == "pieces"
    assert refusal(policy, replace(claim("f1"), pieces=())) == "pieces"
    assert refusal(policy, claim("f1", ("f1", 0, 5), ("f1", 0, 5))) == "pieces"
    assert refusal(policy, claim("f1", ("f1", 0, 9), ("f1", 1, 0))) == "pieces"
    assert refusal(policy, claim("north", ("north/f1", 0, 5), ("south/f1", 0, 5))) == "pieces"
    assert refusal(policy, claim("north", ("northern/f1", 0, 5))) == "pieces"
    allow(policy, claim("north/f1", ("north/f1", 0, 25)))
    assert refusal(policy, claim("north", ("north/f1", 0, 24), ("north/f2", 0, 9))) == "pieces"


def test_a_group_and_one_beneath_it_cannot_both_be_pieces() -> None:
    policy = ReleasePolicy(plans=PLANS)
    assert refusal(policy, claim("grid", ("north", 0, 9), ("north/f1", 0, 9))) == "pieces"
    allow(policy, claim("north/f1", ("north/f1", 0, 9)))
    assert refusal(policy, claim("grid", ("north", 0, 9), ("south", 0, 9))) == "pieces"
    policy = ReleasePolicy(plans=PLANS)
    allow(policy, claim("grid", ("north", 0, 9), ("south", 0, 9)))
    assert refusal(policy, claim("north/f1", ("north/f1", 0, 9))) == "pieces"


def test_the_same_total_with_other_content_is_refused() -> None:
    policy = ReleasePolicy(plans=PLANS)
    allow(policy, claim("f1", ("f1", 0, 25)))
    assert refusal(policy, claim("f1", ("f1", 0, 25), content=b"other")) == "changed_content"
    assert refusal(policy, replace(claim("f1", ("f1", 0, 25)), members=(b"m" * 32,))) == "changed_members"
    assert refusal(policy, claim("f1", ("f1", 0, 24))) == "changed_members"


def test_a_region_of_one_feeder_is_the_feeder_and_must_be_the_same_ciphertext() -> None:
    policy = ReleasePolicy(plans=PLANS)
    allow(policy, claim("north/f1", ("north/f1", 0, 25)))
    assert refusal(policy, claim("north", ("north/f1", 0, 25), content=b"other")) == "changed_content"
    allow(policy, claim("north", ("north/f1", 0, 25)))
    assert policy.used(PLAN.key_id) == 2


def test_totals_that_share_pieces_without_one_containing_the_other_are_refused() -> None:
    policy = ReleasePolicy(plans=PLANS)
    allow(policy, claim("north", ("north/f1", 0, 25), ("north/f2", 0, 25)))
    assert refusal(policy, claim("grid", ("north/f2", 0, 25), ("south/f1", 0, 25))) == "overlap"


def test_a_region_minus_its_released_feeders_must_not_be_a_small_feeder() -> None:
    policy = ReleasePolicy(plans=PLANS)
    region = claim("north", ("north/f1", 0, 25), ("north/f2", 0, 3))
    allow(policy, claim("north/f1", ("north/f1", 0, 25)))
    assert refusal(policy, region) == "isolates"
    policy = ReleasePolicy(plans=PLANS)
    allow(policy, region)
    assert refusal(policy, claim("north/f1", ("north/f1", 0, 25))) == "isolates"


def test_a_total_that_is_exactly_its_released_parts_is_let_through() -> None:
    policy = ReleasePolicy(plans=PLANS)
    allow(policy, claim("north/f1", ("north/f1", 0, 25)))
    allow(policy, claim("north/f2", ("north/f2", 0, 25)))
    allow(policy, claim("north", ("north/f1", 0, 25), ("north/f2", 0, 25)))
    allow(policy, claim("grid", ("north/f1", 0, 25), ("north/f2", 0, 25), ("south/f1", 0, 5)))


def test_two_small_feeders_may_hide_in_each_other() -> None:
    policy = ReleasePolicy(plans=PLANS)
    allow(policy, claim("north/f1", ("north/f1", 0, 25)))
    allow(policy, claim("north", ("north/f1", 0, 25), ("north/f2", 0, 3), ("north/f3", 0, 2)))


def test_windows_are_families_of_their_own() -> None:
    policy = ReleasePolicy(plans=PLANS)
    allow(policy, claim("north/f1", ("north/f1", 0, 25), window=20))
    allow(policy, claim("north", ("north/f1", 0, 25), ("north/f2", 0, 3), window=21))


def test_the_query_budget_of_a_key_ends() -> None:
    tight = replace(PLAN, decryptions=3)
    policy = ReleasePolicy(plans={tight.plan_id: tight})
    wanted = [replace(claim("f1", window=20 + i), plan=tight.plan_id) for i in range(4)]
    for one in wanted[:3]:
        assert policy.decide(one, tight, key_held=True)
        policy.record(one)
    assert refusal(policy, wanted[3], tight) == "budget"
    assert policy.decide(wanted[0], tight, key_held=True) is False


def test_a_refused_total_leaves_no_trace() -> None:
    policy = ReleasePolicy(plans=PLANS)
    allow(policy, claim("north/f1", ("north/f1", 0, 25)))
    refusal(policy, claim("north", ("north/f1", 0, 25), ("north/f2", 0, 3)))
    allow(policy, claim("north", ("north/f1", 0, 25), ("north/f3", 0, 5)))


# -- the isolation rule, against exact linear algebra ------------------------------------------------


def rank(rows: Iterable[Sequence[int]]) -> int:
    """The rank over the rationals."""
    matrix = [[Fraction(value) for value in row] for row in rows]
    found = 0
    for column in range(len(matrix[0]) if matrix else 0):
        pivot = next((i for i in range(found, len(matrix)) if matrix[i][column]), None)
        if pivot is None:
            continue
        matrix[found], matrix[pivot] = matrix[pivot], matrix[found]
        for i in range(found + 1, len(matrix)):
            factor = matrix[i][column] / matrix[found][column]
            if factor:
                matrix[i] = [a - factor * b for a, b in zip(matrix[i], matrix[found], strict=True)]
        found += 1
    return found


def isolated(totals: Sequence[frozenset[int]], weights: Sequence[int], minimum: int) -> frozenset[int] | None:
    """Pieces of weight 1..least-1 that some rational combination of the totals is about, or None.

    A combination that is zero outside U and not zero on U (counting pieces with somebody in them)
    exists if and only if leaving out U's columns lowers the rank.
    """
    there = [piece for piece, weight in enumerate(weights) if weight]
    rows = [[int(piece in total) for piece in there] for total in totals]
    if not rows or not there:
        return None
    whole = rank(rows)
    for size in range(1, len(there) + 1):
        for chosen in combinations(range(len(there)), size):
            if sum(weights[there[i]] for i in chosen) >= minimum:
                continue
            rest = [[row[i] for i in range(len(there)) if i not in chosen] for row in rows]
            if rank(rest) < whole:
                return frozenset(there[i] for i in chosen)
    return None


PIECES = 6
sets = st.frozensets(st.integers(0, PIECES - 1), min_size=1)
meters_of_pieces = st.lists(st.integers(1, 8), min_size=PIECES, max_size=PIECES)


def as_claim(total: frozenset[int], weights: Sequence[int], part: int) -> Claim:
    return claim("grid", *((f"g{piece}", 0, weights[piece]) for piece in sorted(total)), part=part)


@settings(max_examples=400, deadline=None)
@given(weights=meters_of_pieces, asked=st.lists(sets, min_size=1, max_size=8))
def test_no_combination_of_allowed_totals_isolates_and_every_refusal_is_needed(
    weights: list[int], asked: list[frozenset[int]]
) -> None:
    policy = ReleasePolicy(plans=PLANS)
    released: list[frozenset[int]] = []
    for part, total in enumerate(asked):
        wanted = as_claim(total, weights, part)
        try:
            assert policy.decide(wanted, PLAN, key_held=True)
        except ReleaseRefused as refused:
            rule = refused.rule
        else:
            rule = ""
        crossing = any(total & other and not (total <= other or other <= total) for other in released)
        small = sum(weights[piece] for piece in total) < PLAN.minimum_meters
        singles_out = isolated([*released, total], weights, PLAN.minimum_meters) is not None
        assert (rule == "minimum") == small
        assert (rule == "overlap") == (crossing and not small)
        assert (rule == "isolates") == (singles_out and not crossing and not small)
        if rule:
            continue
        policy.record(wanted)
        released.append(total)
        assert isolated(released, weights, PLAN.minimum_meters) is None


@settings(max_examples=300, deadline=None)
@given(
    asked=st.lists(sets, min_size=1, max_size=7),
    present=st.lists(st.lists(st.integers(0, 8), min_size=PIECES, max_size=PIECES), min_size=4, max_size=4),
)
def test_per_interval_no_combination_isolates_present_meters_and_no_interval_is_withheld_idly(
    asked: list[frozenset[int]], present: list[list[int]]
) -> None:
    weights = [8] * PIECES  # so that the rule on meters never refuses
    policy = ReleasePolicy(plans=PLANS)
    given_out: list[list[frozenset[int]]] = [[] for _ in present]
    for part, total in enumerate(asked):
        wanted = as_claim(total, weights, part)
        try:
            policy.decide(wanted, PLAN, key_held=True)
        except ReleaseRefused:  # `overlap`, as the test above shows
            continue
        policy.record(wanted)
        counts = np.array([sum(interval[piece] for piece in total) for interval in present], np.int64)
        reasons = policy.withheld(wanted, PLAN, {"import_wh": counts})["import_wh"]
        shown = np.array([not reason for reason in reasons])
        policy.answer(wanted, {"import_wh": np.where(shown, counts, -1)})
        for i, interval in enumerate(present):
            with_it = isolated([*given_out[i], total], interval, PLAN.minimum_meters)
            assert (with_it is None) == bool(shown[i])
            if shown[i]:
                given_out[i].append(total)


@settings(max_examples=100, deadline=None)
@given(
    asked=st.permutations(
        [frozenset({0, 1, 2, 3, 4, 5}), frozenset({0, 1}), frozenset({2, 3}), frozenset({0})]
    )
)
def test_the_family_is_laminar_in_any_order_of_insertion(asked: list[frozenset[int]]) -> None:
    policy = ReleasePolicy(plans=PLANS)
    for part, total in enumerate(asked):
        allow(policy, as_claim(total, [8] * PIECES, part))
    assert refusal(policy, as_claim(frozenset({1, 2}), [8] * PIECES, 99)) == "overlap"


def test_an_interval_with_few_present_meters_is_withheld() -> None:
    policy = ReleasePolicy(plans=PLANS)
    wanted = claim("f1", ("f1", 0, 25))
    allow(policy, wanted)
    counts = np.array([25, 5, 4, 1], np.int64)
    assert policy.withheld(wanted, PLAN, {"import_wh": counts}) == {
        "import_wh": ["", "", "isolates", "isolates"]
    }


def test_an_interval_with_nobody_in_it_is_given_out() -> None:
    policy = ReleasePolicy(plans=PLANS)
    wanted = claim("f1", ("f1", 0, 25))
    allow(policy, wanted)
    assert policy.withheld(wanted, PLAN, {"import_wh": np.zeros(4, np.int64)}) == {"import_wh": [""] * 4}


def test_repro_the_total_of_a_group_with_meters_has_no_other_piece_than_itself() -> None:
    # Else an aggregator has one piece counted twice in a wider total, which is added up and not decrypted.
    policy = ReleasePolicy(plans=PLANS)
    assert refusal(policy, claim("north/f1", ("north/f1", 5, 6))) == "pieces"
    assert refusal(policy, claim("north/f1", ("north/f1", 0, 6), ("north/f1", 1, 6))) == "pieces"
    assert refusal(policy, claim("north/f1", ("north/f1", 0, 6), ("north/f1/x", 0, 6))) == "pieces"
    allow(policy, claim("north/f1", ("north/f1", 5, 6), part=5))
    assert policy.decide(claim("north", ("north/f1", 5, 6)), PLAN, key_held=True)
