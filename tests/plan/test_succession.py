"""Which plan holds when: one at a time, with no gap, whatever the lengths of their windows."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridhe.errors import PlanError
from gridhe.plan.parameters import CkksParameters
from gridhe.plan.plan import Plan
from gridhe.plan.quantity import Quantity
from gridhe.plan.succession import (
    Period,
    Succession,
    check_start,
    earliest_start_s,
    last_arrival_s,
    notice_start_s,
)

HOUR_S = 3_600
PLAN = Plan(
    authority="a0123456789abcdef",
    key_id="k0123456789abcdef",
    first_window=10,
    window_s=HOUR_S,
    interval_s=900,
    quantities=(Quantity(name="import_wh", unit="Wh", largest=1000, statistics=("sum",)),),
    largest_group=100,
    largest_rollup=100,
    minimum_meters=5,
    grace_s=300.0,
    late_s=600.0,
    early_s=60.0,
    horizon_s=86_400.0,
    parameters=CkksParameters(2048, (40, 14)),
    scale_bits=20,
    flooding_bits=0,
    decryptions=1000,
    guard_bits=14,
)


def test_a_plan_ends_where_the_next_begins() -> None:
    later = replace(PLAN, first_window=20)
    succession = Succession.of([later, PLAN])
    assert [(p.plan_id, p.start_s, p.end_s) for p in succession.periods] == [
        (PLAN.plan_id, 10 * HOUR_S, 20 * HOUR_S),
        (later.plan_id, 20 * HOUR_S, math.inf),
    ]
    assert succession.at(10 * HOUR_S - 1) is None
    assert succession.at(20 * HOUR_S - 1) == succession.period(PLAN.plan_id)
    assert succession.at(20 * HOUR_S) == succession.period(later.plan_id)
    assert [p.plan_id for p in succession.from_moment(0)] == [PLAN.plan_id, later.plan_id]
    assert [p.plan_id for p in succession.from_moment(20 * HOUR_S)] == [later.plan_id]
    assert succession.period("p" + "0" * 16) is None


def test_without_plans_none_holds() -> None:
    succession = Succession(())
    assert (succession.periods, succession.at(0), succession.from_moment(0)) == ((), None, ())


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 40)), min_size=1, max_size=8))
def test_at_every_moment_at_most_one_plans_window_is_open(plans: list[tuple[int, int]]) -> None:
    """Plans of any window length and start, aligned or not."""
    succession = Succession((f"p{i}", first * length) for i, (length, first) in enumerate(plans))
    for moment in range(0, 500, 3):
        open_windows = [
            f"p{i}"
            for i, (length, _) in enumerate(plans)
            if (succession.period(f"p{i}") or Period("", 0)).holds(moment // length, length)
        ]
        assert len(open_windows) <= 1
        held = succession.at(moment)
        assert not open_windows or (held is not None and held.plan_id == open_windows[0])


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(0, 100_000),
    st.floats(0, 500),
    st.integers(0, 10**5),
)
def test_a_start_that_is_allowed_leaves_no_moment_without_a_window(
    old_s: int, new_s: int, now_s: int, early_s: float, counted_s: int
) -> None:
    old = replace(PLAN, window_s=old_s, interval_s=old_s, early_s=early_s, first_window=3)
    start_s = earliest_start_s(old, new_s, now_s=now_s, counted_until_s=counted_s)
    check_start(old, new_s, start_s, now_s=now_s, counted_until_s=counted_s)
    assert start_s % old_s == start_s % new_s == 0
    assert start_s >= max(now_s + early_s, counted_s, old.start_s + old_s)
    assert start_s - math.lcm(old_s, new_s) < max(now_s + early_s, counted_s, old.start_s + old_s)
    period = Period("", old.start_s, start_s)
    assert period.holds(start_s // old_s - 1, old_s)
    assert not period.holds(start_s // old_s, old_s)


@pytest.mark.parametrize(
    ("start_s", "window_s", "counted_s", "why", "nearest_s"),
    [
        (9 * HOUR_S, HOUR_S, 0, "must be after", 101 * HOUR_S),
        (50 * HOUR_S, HOUR_S, 0, "has begun, is over", 101 * HOUR_S),
        (100 * HOUR_S, HOUR_S, 0, "has begun, is over", 101 * HOUR_S),
        (105 * HOUR_S, HOUR_S, 110 * HOUR_S, "already counted", 110 * HOUR_S),
        (105 * HOUR_S + 1_800, 1_800, 0, "divides a window", 106 * HOUR_S),
        (105 * HOUR_S, 7 * HOUR_S, 0, "", 105 * HOUR_S),
        (106 * HOUR_S, 5_400, 0, "divides a window", 108 * HOUR_S),
    ],
)
def test_a_start_that_will_not_do_is_refused_with_the_nearest_that_will(
    start_s: int, window_s: int, counted_s: int, why: str, nearest_s: int
) -> None:
    now_s = 100 * HOUR_S + 5
    if not why:
        check_start(PLAN, window_s, start_s, now_s=now_s, counted_until_s=counted_s)
        return
    with pytest.raises(PlanError, match=why) as refused:
        check_start(PLAN, window_s, start_s, now_s=now_s, counted_until_s=counted_s)
    assert f"--first-window {nearest_s // window_s} (1970-" in str(refused.value)
    check_start(PLAN, window_s, nearest_s, now_s=now_s, counted_until_s=counted_s)


def test_a_window_that_ends_within_early_s_of_now_may_be_counted_already() -> None:
    """An aggregator takes a batch up to `early_s` before its window ends."""
    wide = replace(PLAN, early_s=2.0 * HOUR_S)
    with pytest.raises(PlanError, match="may already be counted"):
        check_start(wide, HOUR_S, 101 * HOUR_S, now_s=100 * HOUR_S)
    check_start(wide, HOUR_S, 102 * HOUR_S, now_s=100 * HOUR_S)


def test_without_a_wish_a_plan_starts_with_time_for_everybody_to_hear_of_it() -> None:
    now_s = 100 * HOUR_S - 300
    assert earliest_start_s(PLAN, HOUR_S, now_s=now_s) == 100 * HOUR_S
    assert notice_start_s(PLAN, HOUR_S, now_s=now_s) == 101 * HOUR_S


def test_nothing_of_a_plan_comes_once_its_horizon_and_its_last_parts_are_over() -> None:
    assert last_arrival_s(PLAN, 20 * HOUR_S) == 20 * HOUR_S + 86_400 + 300 + 600
